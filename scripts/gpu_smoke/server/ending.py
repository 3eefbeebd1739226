"""How the process ends, and how soon another one serves."""

import asyncio
import contextlib
import signal

import httpx2

from scripts.gpu_smoke.prompts import question
from scripts.gpu_smoke.results import must
from scripts.gpu_smoke.server.running import Running

__all__ = ["abort_and_restart", "sigterm_under_load"]

_NUM_STREAMS = 16
# What may pass after `drain_s`: aborts, the end of TurboMind's threads, freeing the model.
_AFTER_DRAIN_S = 30.0


async def sigterm_under_load(running: Running) -> str:
    """SIGTERM while streams run that would go on longer than `server.drain_s`."""
    begun = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(_endless(running, n, begun)) for n in range(_NUM_STREAMS)]
    for _ in tasks:
        await begun.acquire()
    must(not all(task.done() for task in tasks), "the streams ended too early")
    code, seconds = await asyncio.to_thread(running.process.stop)
    await asyncio.gather(*tasks)
    limit_s = running.drain_s + _AFTER_DRAIN_S
    must(code == 0, f"exit code {code} after {seconds:.1f} s")
    must(seconds < limit_s, f"{seconds:.1f} s, more than {limit_s:.0f}")
    return f"exit code 0 after {seconds:.1f} s, of which {running.drain_s:.0f} s are for draining"


async def _endless(running: Running, number: int, begun: asyncio.Semaphore) -> None:
    with contextlib.suppress(AssertionError, httpx2.HTTPError):
        try:
            await running.stream(
                on_begin=begun.release, messages=[question(f"{number}: count.")], ignore_eos=True,
                max_tokens=running.max_model_len // 2, temperature=1,
            )  # fmt: skip
        finally:
            begun.release()  # also if it never began


async def abort_and_restart(running: Running) -> str:
    """A crash of native code ends the process by SIGABRT; how long until the next one answers?"""
    code, _ = await asyncio.to_thread(running.process.stop, signal.SIGABRT)
    must(code == -signal.SIGABRT, f"exit code {code}")
    running.process.restart()
    seconds = await running.process.wait_ready()
    await running.ask([question("Hello")], max_tokens=1)
    return f"exit code {code}; answers again {seconds:.1f} s after a start"
