"""Text requests of one or several keys, sent as fast as they are answered, or at a rate."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from scripts.load.accounts.exchange import Answer, request_bytes
from scripts.load.accounts.ledger import Ledger
from scripts.load.accounts.outcomes import Outcome, judge
from scripts.load.figures import percentile
from scripts.load.streams import Address

__all__ = ["Sender", "Sent", "latency", "refused", "served"]


@dataclass(frozen=True)
class Sent:
    """A request that has ended; times in seconds since the phase began."""

    start_s: float
    answer: Answer

    @property
    def end_s(self) -> float:
        return self.start_s + self.answer.total_s


@dataclass
class Sender:
    """Sends requests whose answers have a fixed number of tokens.

    Args:
        address: Of the server.
        model: Its name.
        num_tokens: Of each answer.
        ledger: Of all that is sent.
    """

    address: Address
    model: str
    num_tokens: int = 8
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()

    async def clients(self, count: int, seconds: float, key: str, pause_s: float = 0) -> list[Sent]:
        """So many clients, each of which sends its next request when the last has ended."""
        start, found = time.monotonic(), list[Sent]()

        async def client() -> None:
            while (at := time.monotonic() - start) < seconds:
                found.append(Sent(at, await self._send(key)))
                await asyncio.sleep(pause_s)

        await asyncio.gather(*(client() for _ in range(count)))
        return found

    async def rate(self, rate: float, seconds: float, key: str) -> list[Sent]:
        """A request each 1/rate seconds, whether earlier ones have been answered or not."""
        start = time.monotonic()

        async def send_at(at: float) -> Sent:
            await asyncio.sleep(max(0.0, start + at - time.monotonic()))
            began = time.monotonic() - start
            return Sent(began, await self._send(key))

        return await asyncio.gather(*(send_at(n / rate) for n in range(int(rate * seconds))))

    async def _send(self, key: str) -> Answer:
        text = (
            f"{next(self._numbers)}: one two three four five six seven eight nine ten eleven twelve"
        )
        body = {
            "model": self.model, "max_tokens": self.num_tokens, "ignore_eos": True, "temperature": 0,
            "messages": [{"role": "user", "content": text}],
        }  # fmt: skip
        headers = {"Authorization": f"Bearer {key}"}
        request = request_bytes("/v1/chat/completions", json.dumps(body).encode(), headers=headers)
        return await self.ledger.send(self.address, request)


def served(sent: Iterable[Sent], seconds: float) -> float:
    """Requests a second that were completed before the end of a phase."""
    good = [s for s in sent if judge(s.answer)[0] is Outcome.COMPLETED and s.end_s <= seconds]
    return len(good) / seconds


def latency(sent: Iterable[Sent], share: float, *, since_s: float = 0) -> float | None:
    """The time below which so many were completed, of those that were sent since some moment."""
    times = [
        s.answer.total_s
        for s in sent
        if s.start_s >= since_s and judge(s.answer)[0] is Outcome.COMPLETED
    ]
    return percentile(times, share)


def refused(sent: Iterable[Sent]) -> Sequence[Answer]:
    """The answers that are no success."""
    return [s.answer for s in sent if judge(s.answer)[0] is not Outcome.COMPLETED]
