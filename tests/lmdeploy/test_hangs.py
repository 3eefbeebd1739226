"""TurboMind that hangs: the process ends, nothing native is called after the end, and no permit is lost."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import httpx2
import pytest
from internvl_server.engine.health import STALLED_EXIT_CODE

from tests.lmdeploy.hanging_server import HANGS
from tests.lmdeploy.native import Plan
from tests.lmdeploy.requests import answer, make_request, until

MESSAGE = {
    "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "model": "hf", "stream": True,
}  # fmt: skip


@contextmanager
def hanging(folder: object, exit_after_s: float) -> Iterator[subprocess.Popen[str]]:
    """A server with one request on which its engine hangs."""
    command = [sys.executable, "-m", "tests.lmdeploy.hanging_server", folder, str(exit_after_s)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = re.search(r"http://\S+/v1", read_to(process, "ready after"))[0]
            with httpx2.stream("POST", f"{url}/chat/completions", json=MESSAGE, timeout=60):
                read_to(process, HANGS)
            yield process
        finally:
            process.kill()


def read_to(process: subprocess.Popen[str], text: str) -> str:
    """What the process logs, to the line with this text."""
    lines = ""
    for line in process.stderr:
        lines += line
        if text in line:
            break
    return lines


def test_a_process_that_hangs_ends_to_be_started_again(checkpoints):
    # Long enough that starting, which is watched too, does not stand still for it on a busy machine.
    with hanging(checkpoints["hf"].path, exit_after_s=5) as process:
        assert process.wait(timeout=60) == STALLED_EXIT_CODE
        assert "made no progress" in process.stderr.read()


def test_a_process_that_hangs_ends_on_sigterm(checkpoints):
    with hanging(checkpoints["hf"].path, exit_after_s=0) as process:
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == STALLED_EXIT_CODE
        assert "the engine has hung" in process.stderr.read()


async def test_the_scheduler_is_not_asked_while_it_is_freed(make_engine, loop, monkeypatch):
    monkeypatch.setattr("internvl_server.engine.turbomind.supervisor._SAMPLE_S", 0.001)
    engine = await make_engine()
    inside = 0

    def query(rank):
        """Answers only when the supervisor is being stopped already."""
        nonlocal inside
        inside += 1
        engine._supervisor._is_stopping.wait()
        threading.Event().wait(0.05)
        inside -= 1

    loop.get_schedule_metrics = query
    await until(lambda: inside)
    freed_while_inside = []

    def close() -> None:
        freed_while_inside.append(inside)

    with mock.patch.object(engine._runtime, "close", close):
        await engine.close()
    assert freed_while_inside == [0]
    assert engine.health().is_alive


@pytest.mark.parametrize("where", ["the scheduler", "the end"])
async def test_an_engine_that_does_not_return_is_not_freed(make_engine, loop, monkeypatch, where):
    monkeypatch.setattr("internvl_server.engine.turbomind.supervisor._SAMPLE_S", 0.001)
    end = mock.Mock()
    monkeypatch.setattr("internvl_server.engine.turbomind.engine.end_process", end)
    for name in ("_CLOSE_S", "_RETURN_S", "_EXIT_S"):
        monkeypatch.setattr(f"internvl_server.engine.turbomind.engine.{name}", 0.2)
    never, asked, closed = threading.Event(), threading.Event(), []

    def hang(*_) -> None:
        asked.set()
        never.wait()

    engine = await make_engine()
    runtime = engine._runtime
    if where == "the scheduler":
        loop.get_schedule_metrics = hang
        monkeypatch.setattr(runtime, "close", lambda: closed.append(True))
        await until(asked.is_set)
    else:
        monkeypatch.setattr(runtime, "close", hang)
    await engine.close()
    health = engine.health()
    assert (health.is_alive, health.is_ready, closed) == (False, False, [])
    await until(lambda: end.called)
    end.assert_called_once_with()
    never.set()


async def test_an_engine_with_unconfirmed_requests_is_not_freed(make_engine, loop, monkeypatch):
    monkeypatch.setattr("internvl_server.engine.turbomind.engine._CLOSE_S", 0.2)
    monkeypatch.setattr("internvl_server.engine.turbomind.engine.end_process", mock.Mock())
    engine = await make_engine()
    loop.plan = lambda call: Plan([65], None)
    async with engine.generate(make_request()) as deltas:
        await anext(deltas)
        loop.freeze()
        with mock.patch.object(engine._runtime, "close", side_effect=AssertionError):
            await engine.close()
        assert not engine.health().is_alive
        loop.thaw()


async def test_a_request_that_cannot_be_submitted_keeps_no_memory(make_engine):
    engine = await make_engine()
    request = make_request(num_logprobs=1, temperature=0.5)
    with (
        mock.patch.object(engine._jobs, "submit", side_effect=RuntimeError),
        pytest.raises(RuntimeError),
    ):
        await answer(engine, request)
    assert engine._logits_budget.in_use == 0


async def test_a_request_object_that_cannot_be_made_is_a_fact_of_health(
    make_engine, loop, monkeypatch
):
    monkeypatch.setattr("internvl_server.engine.turbomind.supervisor._SAMPLE_S", 0.01)
    engine = await make_engine(max_num_seqs=1)
    create, loop.create_request = loop.create_request, mock.Mock(side_effect=RuntimeError("full"))
    await answer(engine, make_request(num_logprobs=1, temperature=0.5))  # its handle is not reused
    with pytest.raises(Exception, match="The engine failed"):
        await answer(engine, make_request())
    assert "creates no request object" in engine.health().reason
    loop.create_request = create
    await until(lambda: engine.health().is_ready)
    assert await answer(engine, make_request()) == ([65, 66, 67], "length")
