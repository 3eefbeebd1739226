"""Decode workers that die under load, as by a signal or for lack of memory: no picture is blamed for it."""

import os
import signal
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import httpx2

from tests.live.test_process import descendants, serving
from tests.live.test_streams import wait_until
from tests.unit.media.conftest import data_url, encode, make_image

NUM_DEATHS = 20
SIGNALS = (signal.SIGSEGV, signal.SIGKILL)


def is_replaced(server: int, url: str, before: list[int]) -> bool:
    httpx2.get(f"{url}/ready", timeout=60)
    now = descendants(server)
    return before[0] not in now and len(now) == len(before)


def test_workers_die_under_load(tiny_checkpoint: Path) -> None:
    statuses: Counter[int] = Counter()
    is_over = threading.Event()

    def ask_on(url: str, number: int) -> None:
        while not is_over.is_set():
            number += 1000
            # Bytes after the end make it another file, which is not in the cache.
            image = data_url(PICTURE + number.to_bytes(8), "image/jpeg")
            part = {"type": "image_url", "image_url": {"url": image}}
            body = {"model": "tiny", "messages": [{"role": "user", "content": [part]}]}
            answer = httpx2.post(f"{url}/v1/chat/completions", json=body | FEW, timeout=60)
            statuses[answer.status_code] += 1

    with serving(tiny_checkpoint, "--set", "media.num_workers=2") as (process, url):
        log = threading.Thread(target=process.stderr.read)  # or a full pipe would stop it
        log.start()
        clients = [threading.Thread(target=ask_on, args=[url, n]) for n in range(3)]
        for client in clients:
            client.start()
        for index in range(NUM_DEATHS):
            [pid, *_] = before = descendants(process.pid)
            os.kill(pid, SIGNALS[index % 2])
            # An idle one is missed by its next image or by the next probe, whichever is first.
            wait_until(partial(is_replaced, process.pid, url, before))
        is_over.set()
        for client in clients:
            client.join()
        wait_until(lambda: httpx2.get(f"{url}/ready", timeout=60).status_code == 200)
        assert process.poll() is None
        process.kill()
        log.join()
    assert statuses.keys() <= {200, 503}, statuses
    assert statuses[200] > 0


PICTURE = encode(make_image(1600, 1200), "JPEG")
FEW = {"max_tokens": 1}
