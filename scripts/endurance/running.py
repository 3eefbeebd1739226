"""A server under mixed requests, whose memory is measured meanwhile."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scripts.endurance.mix import Mix, Shot
from scripts.load.accounts.ledger import Ledger
from scripts.load.costs import held_bytes
from scripts.load.servers import ServerProcess
from scripts.load.watch.state import State, state_of

__all__ = ["Growth", "Soak", "growth"]

_MIB = 1 << 20
_MAX_OPEN = 32  # a server on a busy machine must not be overloaded
_CLIENTS = 8
# The server gives memory back after 2 s without requests, and a decode worker 5 s after a job. A pause ends
# when nothing more was given back for so long, or after the second time.
_STILL_S, _MAX_REST_S = 7.0, 30.0


@dataclass
class Soak:
    """One run against a watched server that is ready.

    Args:
        server: The server.
        files: Its folder for temporary files.
        mix: The requests.
    """

    server: ServerProcess
    files: Path
    mix: Mix
    ledger: Ledger = field(default_factory=Ledger)
    good: Ledger = field(default_factory=Ledger)  # of the requests that must be completed
    samples: list[tuple[int, float]] = field(default_factory=list)  # requests so far, MiB
    rests: list[tuple[int, float]] = field(default_factory=list)  # the same, without load

    def __post_init__(self) -> None:
        self._shots = iter(self.mix)
        self._random = random.Random(self.mix.seed)
        self._open: set[asyncio.Task[None]] = set()

    @property
    def memory_mib(self) -> float:
        """Of the server and its children, without pages of files, which the system takes when it likes."""
        return held_bytes(self.server.pid) / _MIB

    async def idle_state(self) -> State:
        """After the same requests each time, so that what is started on demand has been."""
        shots, address = self.mix.every_kind(4), self.server.address
        await asyncio.gather(*(self.ledger.send(address, shot.request) for shot in shots))
        return await state_of(self.server, self.files)

    async def send_hostile(self) -> None:
        """Each once: some start a process, which would count as growth when it is their turn."""
        shots = iter(self.mix.hostile)

        async def client() -> None:
            for shot in shots:
                await self._send(shot)

        await asyncio.gather(*(client() for _ in range(_CLIENTS)))

    async def capacity(self, seconds: float) -> float:
        """Requests a second of a few clients that send without a pause."""
        start, before = time.monotonic(), self.ledger.num_sent

        async def client() -> None:
            while time.monotonic() < start + seconds:
                await self._send(next(self._shots))

        await asyncio.gather(*(client() for _ in range(_CLIENTS)))
        return (self.ledger.num_sent - before) / (time.monotonic() - start)

    async def load(self, seconds: float, rate: float) -> None:
        """Requests at random times, until all are answered."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            self.server.check()
            if len(self._open) < _MAX_OPEN:
                task = asyncio.create_task(self._send(next(self._shots)))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
            await asyncio.sleep(min(self._random.expovariate(rate), end - now))
        await asyncio.gather(*self._open)

    async def load_and_rest(self, seconds: float, rate: float, num_rests: int) -> None:
        """As `load`, with so many pauses, at the ends of which the memory is noted.

        Under load the memory goes up and down by much more than a leak adds to it.
        """
        for _ in range(num_rests):
            await self.load(seconds / num_rests, rate)
            self.rests.append((self.ledger.num_sent, await self._rest()))

    async def _rest(self) -> float:
        """The memory once it has stopped falling, in MiB."""
        least, start = self.memory_mib, time.monotonic()
        since = start
        while (now := time.monotonic()) - since < _STILL_S and now - start < _MAX_REST_S:
            await asyncio.sleep(0.5)
            if (memory := self.memory_mib) < least - 0.5:
                least, since = memory, now
        return self.memory_mib

    @contextlib.asynccontextmanager
    async def sampling(self, every_s: float) -> AsyncIterator[None]:
        """Keep samples of the memory under load meanwhile."""

        async def sample() -> None:
            while True:
                if self._open:  # not in pauses
                    self.samples.append((self.ledger.num_sent, self.memory_mib))
                await asyncio.sleep(every_s)

        task = asyncio.create_task(sample())
        try:
            yield
        finally:
            task.cancel()

    async def _send(self, shot: Shot) -> None:
        address, request = self.server.address, shot.request
        answer = await self.ledger.send(
            address, request, leave=shot.leave, name=shot.name, may_close=shot.may_close
        )
        if shot.is_good:
            self.good.open()
            self.good.close(answer, shot.name)


@dataclass(frozen=True)
class Growth:
    """Of memory in MiB, by a line of least squares.

    Attributes:
        slope: For each 1,000 requests.
        error: Its standard error.
        total: From the first sample to the last.
    """

    slope: float
    error: float
    total: float


def growth(samples: list[tuple[int, float]]) -> Growth:
    """How memory grows with the number of requests, of at least three samples."""
    requests, memory = np.array(samples, dtype=float).T / [[1000], [1]]
    slope, start = np.polyfit(requests, memory, 1)
    rest = memory - slope * requests - start
    spread = np.square(requests - requests.mean()).sum()
    error = np.sqrt(np.square(rest).sum() / (len(samples) - 2) / spread)
    return Growth(float(slope), float(error), float(slope * (requests[-1] - requests[0])))
