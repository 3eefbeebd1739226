"""How busy the client is itself, so that its limits are not taken for the server's."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from internvl_server.bench.measures import Record

__all__ = ["Strain"]

_PERIOD_S = 0.02
_MAX_CPU_SHARE = 0.85
_MAX_LAG_MS = 10.0


class Strain:
    """Measures the process while it is entered, from within its event loop."""

    def __init__(self) -> None:
        self._lags_s: list[float] = []
        self._cpu_s = self._wall_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> "Strain":
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._arm()
        return self

    def __exit__(self, *unused: object) -> None:
        self._cpu_s = time.process_time() - self._cpu_s
        self._wall_s = time.perf_counter() - self._wall_s
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._due = self._loop.time() + _PERIOD_S
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self._lags_s.append(max(0.0, self._loop.time() - self._due))
        self._arm()

    def figures(self, records: Sequence[Record], *, is_open: bool) -> dict[str, Any]:
        """CPU of the process as a share of one core, lag of its event loop, and how late it sent requests.

        Args:
            records: Those of the run.
            is_open: Whether requests had a time to be sent at.
        """
        late_s = [r.sent_s - r.intended_s for r in records if r.sent_s] if is_open else []
        return {
            "client_cpu_share": self._cpu_s / self._wall_s if self._wall_s else 0.0,
            "client_loop_lag_p99_ms": _p99_ms(self._lags_s),
            "client_loop_lag_max_ms": 1000 * max(self._lags_s, default=0.0),
            "client_late_p99_ms": _p99_ms(late_s),
        }

    @staticmethod
    def warning(figures: dict[str, Any]) -> str:
        """What to say if the client may have been the bottleneck; empty if not."""
        reasons = []
        if figures["client_cpu_share"] > _MAX_CPU_SHARE:
            reasons.append(f"it used {figures['client_cpu_share']:.0%} of a core")
        if figures["client_loop_lag_p99_ms"] > _MAX_LAG_MS:
            lag_ms = figures["client_loop_lag_p99_ms"]
            reasons.append(f"its event loop was {lag_ms:.0f} ms late in 1 % of the time")
        if not reasons:
            return ""
        return f"The client may have been the bottleneck: {' and '.join(reasons)}."


def _p99_ms(values_s: Sequence[float]) -> float:
    return float(np.percentile(values_s, 99)) * 1000 if values_s else 0.0
