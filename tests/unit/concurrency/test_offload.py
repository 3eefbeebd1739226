import asyncio
import threading
from contextvars import ContextVar

import pytest
from internvl_server.concurrency.offload import offload

NAME = ContextVar("NAME", default="")


@pytest.mark.parametrize(("size", "is_here"), [(3, True), (4, False)])
def test_only_small_inputs_are_processed_on_the_event_loop(size: int, is_here: bool) -> None:
    thread = asyncio.run(offload(threading.current_thread, size=size, limit=3))
    assert (thread is threading.current_thread()) == is_here


def test_a_thread_sees_the_callers_context_and_its_errors_are_raised() -> None:
    async def run() -> str:
        NAME.set("mine")
        with pytest.raises(KeyError):
            await offload(dict[str, str]().popitem)
        return await offload(NAME.get)

    assert asyncio.run(run()) == "mine"


def test_the_loop_runs_on_while_a_call_waits() -> None:
    async def run() -> bool:
        event = threading.Event()
        waiting = asyncio.create_task(offload(lambda: event.wait(60)))
        await asyncio.sleep(0)
        event.set()
        return await waiting

    assert asyncio.run(run())
