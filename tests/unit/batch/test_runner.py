import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.batch import runner as runner_module
from internvl_server.batch.runner import BatchRunner, backoff_s

Line = dict[str, Any]

OK, BUSY, DOWN = 200, 429, 503
LOST = httpx2.ReadError("lost")


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(runner_module, "MAX_WAIT_S", 0.002)


def lines(num_lines: int) -> list[Line]:
    fields = {"method": "POST", "url": "/v1/chat/completions", "body": {}}
    return [fields | {"custom_id": f"{n}"} for n in range(num_lines)]


class FakeClient:
    """Answers each request with the next status or error a test gives it; then with success."""

    def __init__(self, *replies: int | Exception) -> None:
        self.replies = list(replies)
        self.num_posts = self.num_running = self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def post(self, url: str, *, content: bytes) -> httpx2.Response:
        assert (url, content) == ("/v1/chat/completions", b"{}")
        self.num_posts += 1
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
        headers = {"retry-after": "0"} if reply == DOWN else {}
        return httpx2.Response(reply, headers=headers, content=b"{}")


def new_runner(client: FakeClient, results: list[dict[str, Any]]) -> BatchRunner:
    return BatchRunner(client, results.append, max_retries=3)


async def run(client: FakeClient, todo: list[Line], concurrency: int = 4) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    await new_runner(client, results).run(iter(todo), concurrency)
    return results


def statuses(results: list[dict[str, Any]]) -> list[int]:
    return [result["response"]["status_code"] for result in results]


async def test_every_line_is_sent_once() -> None:
    client = FakeClient()
    results = await run(client, lines(20))
    assert sorted(int(result["custom_id"]) for result in results) == list(range(20))
    assert statuses(results) == [200] * 20
    assert client.num_posts == 20


@pytest.mark.parametrize("passing", [[BUSY], [DOWN, BUSY], [LOST, DOWN, BUSY]])
async def test_a_passing_failure_is_retried(passing: list[Any]) -> None:
    client = FakeClient(*passing)
    assert statuses(await run(client, lines(1))) == [200]
    assert client.num_posts == len(passing) + 1


@pytest.mark.parametrize("reply", [BUSY, DOWN, LOST])
async def test_after_all_retries_the_line_is_not_executed(reply: Any) -> None:
    client = FakeClient(*[reply] * 4)
    [result] = await run(client, lines(1))
    assert client.num_posts == 4
    assert result["response"] is None
    assert result["error"]["code"] == "not_executed"
    assert result["error"]["message"].endswith("4 times")


@pytest.mark.parametrize("status", [400, 404, 413, 500, 502])
async def test_other_errors_are_final(status: int) -> None:
    client = FakeClient(status)
    assert statuses(await run(client, lines(1))) == [status]
    assert client.num_posts == 1


async def test_a_line_that_cannot_be_sent_is_written_and_frees_its_slot() -> None:
    bad = [line | {"method": "GET"} for line in lines(5)]
    client = FakeClient()
    results = await run(client, [*bad, *lines(1)], concurrency=1)
    assert client.num_posts == 1
    assert statuses(results) == [400] * 5 + [200]
    assert results[0]["response"]["body"]["error"]["param"] == "method"


async def test_no_more_lines_than_the_limit_run_or_are_read() -> None:
    client = FakeClient()
    client.gate.clear()
    num_read = 0

    def counted() -> Iterator[Line]:
        nonlocal num_read
        for line in lines(50):
            num_read += 1
            yield line

    results: list[dict[str, Any]] = []
    work = asyncio.create_task(new_runner(client, results).run(counted(), 3))
    while client.num_running < 3:
        await asyncio.sleep(0.001)
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert num_read <= 4
    client.gate.set()
    await work
    assert client.most_running == 3
    assert len(results) == 50


async def test_a_result_that_cannot_be_written_ends_the_run() -> None:
    def write(_: dict[str, Any]) -> None:
        raise OSError("disk full")

    client: Any = FakeClient()
    runner = BatchRunner(client, write, max_retries=0)
    with pytest.raises(OSError, match="disk full"):
        await runner.run(iter(lines(9)), 2)


async def start_and_stop(client: FakeClient, num_signals: int) -> list[dict[str, Any]]:
    client.gate.clear()
    results: list[dict[str, Any]] = []
    runner = new_runner(client, results)
    work = asyncio.create_task(runner.run(iter(lines(50)), 3))
    while client.num_running < 3:
        await asyncio.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
    while runner._stopped_by is None:
        await asyncio.sleep(0.001)
    if num_signals == 1:
        client.gate.set()
    else:  # nothing is answered any more
        os.kill(os.getpid(), signal.SIGINT)
    assert await asyncio.wait_for(work, 60) == signal.SIGINT
    return results


async def test_after_a_signal_the_requests_in_flight_finish() -> None:
    results = await start_and_stop(FakeClient(), 1)
    assert len(results) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


async def test_a_second_signal_aborts_them() -> None:
    client = FakeClient()
    assert await start_and_stop(client, 2) == []
    assert client.num_running == 0


async def test_nothing_is_retried_after_a_signal() -> None:
    client = FakeClient(*[BUSY] * 3)
    results = await start_and_stop(client, 1)
    assert client.num_posts == 3
    assert [result["response"] for result in results] == [None] * 3


@given(attempt=st.integers(0, 40) | st.just(5000), retry_after_s=st.integers(0, 120))
def test_the_wait_grows_and_heeds_the_server(attempt: int, retry_after_s: int) -> None:
    first_s, max_s = runner_module.FIRST_WAIT_S, runner_module.MAX_WAIT_S
    least = max(min(first_s * 2 ** min(attempt, 40), max_s), retry_after_s)
    assert least <= backoff_s(attempt, retry_after_s) <= 1.5 * least
