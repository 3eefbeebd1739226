"""What an injection works with: servers in a folder, requests, an account of them, and its findings."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from scripts.load.accounts.exchange import STAY, Answer, Leave, request_bytes
from scripts.load.accounts.ledger import Ledger
from scripts.load.costs import descendants, memory_bytes
from scripts.load.servers import ServerProcess, python
from scripts.load.streams import Address
from scripts.load.systems import flat
from scripts.make_random_checkpoint import SHAPES, write_checkpoint

__all__ = [
    "Finding",
    "Injection",
    "Stage",
    "chat",
    "eventually",
    "gauges",
    "is_idle",
    "seconds",
    "status",
]

# A canary's answer may take so long beside the trial's own processes.
_CANARY_S = 1.0


@dataclass(frozen=True)
class Finding:
    """A criterion of an injection, the figure that was measured, and whether the criterion holds."""

    criterion: str
    figure: str
    holds: bool


@dataclass
class Stage:
    """One injection's folder, ledger and findings.

    Attributes:
        is_short: Whether to inject few faults, and to shorten waits.
        num_expected_cuts: Requests that ended with the process they were on.
    """

    folder: Path
    is_short: bool = False
    ledger: Ledger = field(default_factory=Ledger)
    findings: list[Finding] = field(default_factory=list)
    num_expected_cuts: int = 0
    num_servers: int = 0

    def finding(self, criterion: str, figure: object, holds: object) -> None:
        """Note what was measured."""
        self.findings.append(Finding(criterion, str(figure), bool(holds)))

    def expect_cut(self, number: int) -> None:
        """So many requests may end without an end, because their server was killed."""
        self.num_expected_cuts += number

    def few(self, full: int, short: int) -> int:
        """The number of faults."""
        return short if self.is_short else full

    @property
    def checkpoint(self) -> Path:
        """A checkpoint with random weights."""
        path = self.folder / "m"
        if not path.exists():
            write_checkpoint(path, SHAPES["tiny"], layout="hf", dtype="float32", seed=0)
        return path

    def command(self, settings: Mapping[str, Any], *flags: str) -> list[str]:
        """The command of a server; the engine is `echo` if the settings name no other."""
        model = {"path": str(self.checkpoint), "served_name": "m"}
        values = {"model": model, "engine": {"kind": "echo"}}
        for section, changes in settings.items():
            values[section] = values.get(section, {}) | changes
        words = [word for change in flat(values) for word in ("--set", change)]
        return python("scripts.injections.program", *flags, "serve", "--port", "{port}", *words)

    @contextlib.contextmanager
    def server(self, *flags: str, **settings: Any) -> Iterator[ServerProcess]:
        """A server that is not awaited; `settings` are sections."""
        self.num_servers += 1
        log = self.folder / f"server-{self.num_servers}.log"
        with ServerProcess(self.command(settings, *flags), log) as process:
            yield process

    async def send(
        self, server: ServerProcess | Address, body: bytes, leave: Leave = STAY, **headers: str
    ) -> Answer:
        """Send a chat request, and enter it into the ledger."""
        address = server.address if isinstance(server, ServerProcess) else server
        request = request_bytes("/v1/chat/completions", body, headers=headers)
        return await self.ledger.send(address, request, leave=leave)

    async def all(
        self, server: ServerProcess | Address, bodies: Sequence[bytes], leave: Leave = STAY
    ) -> list[Answer]:
        """Send requests at the same time."""
        return list(await asyncio.gather(*(self.send(server, body, leave) for body in bodies)))

    async def canary(self, server: ServerProcess) -> None:
        """A small good request must succeed now."""
        answer = await self.send(server, chat(max_tokens=1))
        holds = answer.status == 200 and answer.total_s <= _CANARY_S
        self.finding(
            f"a good request afterwards: 200 in ≤ {_CANARY_S:g} s",
            f"{answer.status} in {answer.total_s * 1000:.0f} ms",
            holds,
        )


@dataclass(frozen=True)
class Injection:
    """One fault and the function that injects it."""

    number: str
    fault: str
    run: Callable[[Stage], Awaitable[None]]


def chat(text: str = "one two three", *urls: str, stream: bool = False, **fields: Any) -> bytes:
    """The body of a chat request."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content: Any = [*parts, {"type": "text", "text": text}] if urls else text
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": "m", "messages": messages, "stream": stream} | fields).encode()


async def eventually(
    condition: Callable[[], Awaitable[bool]] | Callable[[], bool], timeout_s: float
) -> float | None:
    """Seconds until a condition holds; None if it does not in time."""
    start = time.monotonic()
    while time.monotonic() - start < timeout_s:
        found = condition()
        if await found if isinstance(found, Awaitable) else found:
            return time.monotonic() - start
        await asyncio.sleep(0.05)
    return None


async def gauges(server: ServerProcess) -> dict[str, int]:
    """What the server holds: inside, and by /proc."""
    async with httpx2.AsyncClient(timeout=30, trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{server.port}/gauges")
    found: dict[str, int] = answer.json()
    return found | {
        "fds": len(list(Path(f"/proc/{server.pid}/fd").iterdir())),
        "children": len(descendants(server.pid)),
        "mib": memory_bytes(server.pid) >> 20,
    }


async def is_idle(server: ServerProcess) -> bool:
    """Whether no request is left."""
    found = await gauges(server)
    return not (found["in_flight"] or found["running"] or found["waiting"])


async def status(server: ServerProcess, path: str) -> int:
    """Of a probe; 0 without a connection."""
    async with httpx2.AsyncClient(timeout=5, trust_env=False) as client:
        try:
            return (await client.get(f"http://127.0.0.1:{server.port}{path}")).status_code
        except httpx2.TransportError:
            return 0


def seconds(value: float | None) -> str:
    """As text."""
    return "never" if value is None else f"{value:.2f} s"
