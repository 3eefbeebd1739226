"""What a watched server holds: inside, by `program.py`, and outside, by /proc."""

import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2

from scripts.load.costs import descendants
from scripts.load.servers import ServerProcess
from scripts.load.watch.program import PATH

__all__ = ["State", "state_of"]


@dataclass(frozen=True)
class State:
    """Numbers of things, none of which may grow from one idle moment to another.

    Attributes:
        threads: Without those of executors, which start a bounded number when they need them.
        objects: Requests and their parts that are still in memory.
        files: In the folder for temporary files.
    """

    fds: int
    children: int
    files: int
    tasks: int
    threads: int
    objects: int

    def excess(self, start: "State", allowed: "State") -> dict[str, int]:
        """By how many more there are of each than at the start and allowed on top."""
        return {
            name: max(0, count - getattr(start, name) - getattr(allowed, name))
            for name, count in asdict(self).items()
        }


async def state_of(server: ServerProcess, files: Path, *, settle_s: float = 10.0) -> State:
    """The state once it has stopped changing, or after some seconds."""
    deadline = time.monotonic() + settle_s
    last = await _state(server, files)
    while time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        if (now := await _state(server, files)) == last:
            break
        last = now
    return last


async def _state(server: ServerProcess, files: Path) -> State:
    url = f"http://127.0.0.1:{server.port}{PATH}"
    async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
        inside = (await client.get(url)).raise_for_status().json()
    return State(
        fds=len(list(Path(f"/proc/{server.pid}/fd").iterdir())),
        children=len(descendants(server.pid)),
        files=sum(1 for _ in files.rglob("*")),
        tasks=inside["tasks"],
        threads=inside["threads"],
        objects=inside["objects"],
    )
