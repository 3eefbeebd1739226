import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.batch.client import Reply
from internvl_server.batch.lines import BatchLine
from internvl_server.batch.runner import BatchRunner, RetryRules

QUICK = RetryRules(max_retries=3, first_wait_s=0.001, max_wait_s=0.002)
OK = Reply(200, "r", 0.0, b"{}")
BUSY = Reply(429, "r", 0.0, b"{}")
DOWN = Reply(503, "r", 0.001, b"{}")
LOST = ConnectionError("no answer (ReadError)")


def lines(num_lines: int) -> list[BatchLine]:
    fields = {"method": "POST", "url": "/v1/chat/completions", "body": {}}
    return [BatchLine(n, f"{n}", fields | {"custom_id": f"{n}"}) for n in range(num_lines)]


class FakeClient:
    """Answers each request with the next of what a test gives it; then with success."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = list(replies)
        self.num_asked = self.num_running = self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, url: str, body: bytes) -> Reply:
        self.num_asked += 1
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
        finally:
            self.num_running -= 1
        reply = self.replies.pop(0) if self.replies else OK
        if isinstance(reply, Exception):
            raise reply
        return reply


class FakeJournal:
    def __init__(self, *settled: str) -> None:
        self.settled = set(settled)
        self.notes: list[dict[str, Any]] = []
        self.successes = Counter[bool]()

    def is_settled(self, custom_id: str) -> bool:
        return custom_id in self.settled

    def note(self, custom_id: str, text: str, *, is_success: bool) -> None:
        self.notes.append(json.loads(text))
        assert self.notes[-1]["custom_id"] == custom_id
        self.successes[is_success] += 1


async def run(
    client: FakeClient, todo: list[BatchLine], *settled: str, concurrency: int = 4
) -> FakeJournal:
    journal = FakeJournal(*settled)
    runner = BatchRunner(client, journal, concurrency=concurrency, rules=QUICK)  # type: ignore[arg-type]
    await runner.run(iter(todo))
    return journal


async def test_every_line_that_is_to_do_is_done_once() -> None:
    journal = await run(FakeClient(), lines(20), "3", "7")
    done = sorted(int(note["custom_id"]) for note in journal.notes)
    assert done == [n for n in range(20) if n not in (3, 7)]
    assert journal.successes == {True: 18}


@pytest.mark.parametrize("passing", [[BUSY], [DOWN, BUSY], [LOST, DOWN, BUSY]])
async def test_passing_refusals_are_sent_again(passing: list[Any]) -> None:
    client = FakeClient(*passing)
    journal = await run(client, lines(1))
    assert client.num_asked == len(passing) + 1
    assert journal.notes[0]["response"]["status_code"] == 200


@pytest.mark.parametrize("reply", [BUSY, DOWN, LOST])
async def test_after_all_tries_the_line_is_not_executed(reply: Any) -> None:
    client = FakeClient(*[reply] * 4)
    journal = await run(client, lines(1))
    assert client.num_asked == 4
    assert journal.notes[0]["response"] is None
    assert journal.notes[0]["error"]["code"] == "not_executed"
    assert journal.notes[0]["error"]["message"].endswith("4 times")
    assert journal.successes == {False: 1}


@pytest.mark.parametrize("status", [400, 404, 413, 500, 502])
async def test_other_refusals_are_final(status: int) -> None:
    client = FakeClient(Reply(status, "r", 0.0, b"{}"))
    journal = await run(client, lines(1))
    assert client.num_asked == 1
    assert journal.notes[0]["response"]["status_code"] == status
    assert journal.successes == {False: 1}


async def test_a_line_that_cannot_be_sent_is_written_and_frees_its_slot() -> None:
    bad = [BatchLine(1, f"{n}", {"custom_id": f"{n}", "method": "GET"}) for n in range(5)]
    client = FakeClient()
    journal = await run(client, [*bad, *lines(1)], concurrency=1)
    assert client.num_asked == 1
    assert journal.successes == {False: 5, True: 1}


async def test_no_more_than_the_limit_run_or_are_read() -> None:
    client = FakeClient()
    client.gate.clear()
    num_read = 0

    def counted() -> Iterator[BatchLine]:
        nonlocal num_read
        for line in lines(50):
            num_read += 1
            yield line

    journal = FakeJournal()
    runner = BatchRunner(client, journal, concurrency=3, rules=QUICK)  # type: ignore[arg-type]
    work = asyncio.create_task(runner.run(counted()))
    while client.num_running < 3:
        await asyncio.sleep(0.001)
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert num_read <= 4
    client.gate.set()
    await work
    assert client.most_running == 3
    assert len(journal.notes) == 50


async def start_and_stop(client: FakeClient, num_signals: int) -> tuple[BatchRunner, FakeJournal]:
    client.gate.clear()
    journal = FakeJournal()
    runner = BatchRunner(client, journal, concurrency=3, rules=QUICK)  # type: ignore[arg-type]
    work = asyncio.create_task(runner.run(iter(lines(50))))
    while client.num_running < 3:
        await asyncio.sleep(0.001)
    for _ in range(num_signals):
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.01)
    client.gate.set()
    await work
    return runner, journal


async def test_a_signal_lets_what_runs_finish() -> None:
    runner, journal = await start_and_stop(FakeClient(), 1)
    assert runner.stopped_by == signal.SIGINT
    assert len(journal.notes) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


async def test_a_second_signal_aborts_it() -> None:
    client = FakeClient()
    runner, journal = await start_and_stop(client, 2)
    assert runner.stopped_by == signal.SIGINT
    assert journal.notes == []
    assert client.num_running == 0


async def test_nothing_is_sent_again_after_a_signal() -> None:
    client = FakeClient(*[BUSY] * 3)
    _, journal = await start_and_stop(client, 1)
    assert client.num_asked == 3
    assert [note["response"] for note in journal.notes] == [None] * 3


@given(attempt=st.integers(0, 40), asked_s=st.floats(0, 120))
def test_waits(attempt: int, asked_s: float) -> None:
    rules = RetryRules()
    least = max(min(0.5 * 2**attempt, 30), asked_s)
    assert least <= rules.wait_s(attempt, asked_s) <= 1.5 * least
