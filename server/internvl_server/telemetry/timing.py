"""The header `Server-Timing`: what a request's stages took, for whoever sent it."""

from collections import defaultdict
from collections.abc import Sequence

from internvl_server.telemetry.record import RequestRecord

__all__ = ["server_timing"]


def server_timing(record: RequestRecord, now: float) -> str:
    """The header's value, in milliseconds, of what has been done so far.

    A stage that occurred several times, perhaps at the same time, has the time in which at least one of them
    went on. A whole answer has all stages, a stream those before its first event.

    Args:
        record: The request's.
        now: By `time.monotonic`; the end of `total`.
    """
    times: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for stage, started, ended in record.all_stages():
        times[stage].append((started, ended))
    times["total"].append((record.started, now))
    return ", ".join(f"{name};dur={1000 * _covered(spans):.1f}" for name, spans in times.items())


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """The seconds in which at least one of several spans went on."""
    if len(spans) == 1:
        return spans[0][1] - spans[0][0]
    covered, reached = 0.0, float("-inf")
    for started, ended in sorted(spans):
        covered += max(ended - max(started, reached), 0.0)
        reached = max(reached, ended)
    return covered
