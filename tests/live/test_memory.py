"""What a burst of requests takes is given back."""

import asyncio
import json
import re
import time
from pathlib import Path

from scripts.load.accounts.exchange import exchange, request_bytes
from scripts.load.bodies import fresh_picture
from scripts.load.streams import Address
from tests.live.test_process import serving

MIB = 1 << 20


def held_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", text)[0]) / 1024


async def test_a_burst_of_pictures_leaves_nothing(tiny_checkpoint: Path) -> None:
    def body(number: int) -> bytes:
        urls = [fresh_picture(320, 240, number * 4 + n, 2 * MIB) for n in range(4)]
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        messages = [{"role": "user", "content": content}]
        fields = {"model": "tiny", "messages": messages, "max_tokens": 1}
        return request_bytes("/v1/chat/completions", json.dumps(fields).encode())

    with serving(tiny_checkpoint, "--set", "media.cache_bytes=0") as (process, url):
        address = Address(int(url.rpartition(":")[2]))
        await exchange(address, body(0))
        before = held_mib(process.pid)
        bodies = [body(n) for n in range(1, 5)] * 8
        answers = await asyncio.gather(*(exchange(address, given) for given in bodies))
        assert {answer.status for answer in answers} <= {200, 429}
        deadline = time.monotonic() + 60
        while held_mib(process.pid) > before + 64 and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        assert held_mib(process.pid) <= before + 64
