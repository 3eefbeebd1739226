"""Watches a loaded TurboMind: records its progress, replaces handles, and ends a process that has hung."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from internvl_server.engine.health import STALLED_EXIT_CODE
from internvl_server.engine.turbomind.requests.jobs import JobPool

if TYPE_CHECKING:
    from internvl_server.engine.turbomind.requests.outputs import SchedulerMetrics

__all__ = ["Supervisor", "end_process"]

_log = logging.getLogger(__name__)

_SAMPLE_S = 1.0
# A process that has not run for so long was suspended, as `docker pause` does, and its engine with it.
_SUSPENDED_S = 10.0


def end_process() -> None:
    """End this process at once; any other exit would wait for TurboMind's threads."""
    logging.shutdown()
    os._exit(STALLED_EXIT_CODE)


class Supervisor:
    """Starts when it is created, on the running event loop and on a thread.

    Args:
        jobs: What TurboMind works on.
        read_metrics: The scheduler's metrics; None if unknown. It may block while TurboMind hangs, so it is
            called on the thread, once a second.
        exit_after_s: Seconds without progress after which the process ends; 0 means never.
    """

    def __init__(
        self,
        jobs: JobPool,
        read_metrics: Callable[[], "SchedulerMetrics | None"],
        *,
        exit_after_s: float,
    ) -> None:
        self._jobs = jobs
        self._read_metrics = read_metrics
        self._exit_after_s = exit_after_s
        self.metrics: SchedulerMetrics | None = None
        self._is_failing = False
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="turbomind-watch", daemon=True)
        self._thread.start()
        self._task = asyncio.create_task(self._check())

    async def stop(self, timeout_s: float) -> bool:
        """Stop watching. Returns whether the thread has ended: it cannot while TurboMind hangs."""
        self._task.cancel()
        self._is_stopping.set()
        await asyncio.to_thread(self._thread.join, timeout_s)
        return not self._thread.is_alive()

    def _watch(self) -> None:
        last: int | None = None
        while not self._is_stopping.wait(_SAMPLE_S):
            self.metrics = metrics = self._try_to_read()
            if metrics is not None and metrics.tick != last:
                last, self._jobs.last_progress = metrics.tick, time.monotonic()

    def _try_to_read(self) -> "SchedulerMetrics | None":
        try:
            metrics = self._read_metrics()
        except Exception:  # noqa: BLE001  (logged once; it may work the next time)
            if not self._is_failing:
                _log.exception("TurboMind does not report its progress; only its tokens show it")
            self._is_failing = True
            return None
        self._is_failing = False
        return metrics

    async def _check(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(_SAMPLE_S)
            previous, last = last, time.monotonic()
            if last - previous > _SUSPENDED_S:
                self._jobs.last_progress = last
            self._jobs.replace_handle()
            self._jobs.report_unconfirmed()
            silence_s = self._jobs.silence_s
            if self._exit_after_s and silence_s > self._exit_after_s:
                _log.critical(
                    "the engine has made no progress for %.0f s: the process ends with exit code %d, to be "
                    "started again",
                    silence_s,
                    STALLED_EXIT_CODE,
                )
                end_process()
