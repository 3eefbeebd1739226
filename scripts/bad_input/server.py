"""The server of the corpus: the real one, with a name server that answers what a name says, and a probe.

    python -m scripts.bad_input.server NOTES [--unguarded] OPTIONS OF internvl-server serve

Names end in `.corpus.test`. `a-7f000001` has the address 127.0.0.1, `a-7f000001-08080808` has two,
`slow` takes seconds, and `fickle-…` has the first address once and the other one later. All other names do
not exist. What happens is appended to the file NOTES: `dial ADDRESS` for each connection that is opened, and
`lag END SECONDS` for each time the event loop did not run for more than `MIN_LAG_S`. The time that its thread
waited for a core, which is the machine's and not the server's, is not counted.
"""

import asyncio
import contextlib
import ipaddress
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import uvicorn
from internvl_server.cli import main
from internvl_server.media.sources import fetch

__all__ = ["MIN_LAG_S"]

MIN_LAG_S = 0.005
_TICK_S = 0.005
_SLOW_S = 5.0
_ZONE = ".corpus.test"
_asked: set[str] = set()


def look_up(host: str, port: int, *_: object, **__: object) -> list[Any]:
    """The stub for `socket.getaddrinfo`."""
    try:
        addresses = [ipaddress.ip_address(host)]
    except ValueError:
        addresses = _addresses(host)
    return [
        (
            socket.AF_INET if address.version == 4 else socket.AF_INET6,
            socket.SOCK_STREAM,
            6,
            "",
            (str(address), port),
        )
        for address in addresses
    ]


def _addresses(host: str) -> list[Any]:
    label = host.lower().removesuffix(_ZONE)
    kind, *codes = label.split("-")
    if label == "slow":
        time.sleep(_SLOW_S)
    if label == host.lower() or kind not in ("a", "fickle"):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    addresses = [ipaddress.ip_address(bytes.fromhex(code)) for code in codes]
    if kind == "fickle":
        addresses = addresses[1:] if host in _asked else addresses[:1]
        _asked.add(host)
    return addresses


def note_dials(notes: Path) -> None:
    """Note the address of each connection that is opened."""
    connect = asyncio.open_connection

    async def open_connection(host: str, port: int, **options: Any) -> Any:
        with notes.open("a") as file:
            file.write(f"dial {host}\n")
        return await connect(host, port, **options)

    patch.object(asyncio, "open_connection", open_connection).start()


async def note_lags(notes: Path) -> None:
    """Note when the event loop does not run."""
    schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")

    def waited_s() -> float:
        return int(schedule.read_text().split()[1]) / 1e9

    with notes.open("a", buffering=1) as file:
        while True:
            begin, waited = time.monotonic(), waited_s()
            await asyncio.sleep(_TICK_S)
            end = time.monotonic()
            lag = end - begin - _TICK_S - (waited_s() - waited)
            if lag > MIN_LAG_S:
                file.write(f"lag {end} {lag}\n")


def probe(notes: Path) -> None:
    """Start the probe together with the server."""
    startup = uvicorn.Server.startup
    tasks = []

    async def start(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        tasks.append(asyncio.get_running_loop().create_task(note_lags(notes)))
        await startup(server, sockets)

    patch.object(uvicorn.Server, "startup", start).start()


if __name__ == "__main__":
    file = Path(sys.argv[1])
    options = sys.argv[2:]
    with contextlib.suppress(ValueError):
        options.remove("--unguarded")
        patch.object(fetch, "is_public_address", lambda *_: True).start()
    patch.object(socket, "getaddrinfo", look_up).start()
    note_dials(file)
    probe(file)
    sys.exit(main(["serve", *options]))
