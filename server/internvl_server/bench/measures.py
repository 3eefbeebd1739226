"""From the times of requests to figures, with the definitions and names of `vllm bench serve`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["METRICS", "Outcome", "Record", "figures", "percentile_name", "samples", "tpot_s"]

# Names of metrics in result files, and in tables.
METRICS = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "itl": "Inter-token latency",
    "e2el": "End-to-end latency",
    "client_queue_time": "Wait in the client",
}
_REFUSALS = (429, 503)


class Outcome:
    """How a request ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"


@dataclass(slots=True)
class Record:
    """One request. Times are seconds on one clock; `intended_s` is when it should have been sent.

    `chunk_s` has the arrival of each chunk of the answer that has text, and `ended_s` that of the last chunk,
    with or without text. Both are empty or the end of the whole answer where nothing is streamed.
    """

    intended_s: float
    sent_s: float
    ended_s: float = 0.0
    chunk_s: list[float] = field(default_factory=list)
    outcome: str = Outcome.ABORTED
    status: int = 0
    code: str = ""
    message: str = ""
    text_tokens: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    text: str = ""

    @property
    def num_input(self) -> int:
        """Tokens of the prompt as the server counts them, otherwise those of the text that was sent."""
        return self.text_tokens if self.input_tokens is None else self.input_tokens

    @property
    def num_output(self) -> int:
        """Tokens of the answer as the server counts them, otherwise its chunks."""
        return len(self.chunk_s) if self.output_tokens is None else self.output_tokens

    def latency_s(self, metric: str, *, from_arrival: bool = True) -> float | None:
        """A latency of this request: "ttft", "tpot", "e2el" or "client_queue_time"; None if it has none."""
        start = self.intended_s if from_arrival else self.sent_s
        match metric:
            case "ttft":
                return self.chunk_s[0] - start if self.chunk_s else None
            case "tpot":
                return tpot_s(self)
            case "e2el":
                return self.ended_s - start
            case _:
                return self.sent_s - self.intended_s


def tpot_s(record: Record) -> float | None:
    """Seconds per token after the first; None for answers of fewer than two tokens."""
    if not record.chunk_s or record.num_output <= 1:
        return None
    return (record.ended_s - record.chunk_s[0]) / (record.num_output - 1)


def samples(records: Iterable[Record], metric: str, *, from_arrival: bool = True) -> list[float]:
    """Seconds: one for each request that has the metric, for "itl" one for each pair of chunks."""
    if metric == "itl":
        return [
            later - earlier for record in records for earlier, later in pairwise(record.chunk_s)
        ]
    found = (record.latency_s(metric, from_arrival=from_arrival) for record in records)
    return [value for value in found if value is not None]


def figures(
    records: Sequence[Record],
    duration_s: float,
    *,
    percentiles: Sequence[float] = (50, 90, 95, 99),
    goodput_ms: Mapping[str, float] | None = None,
    from_arrival: bool = True,
) -> dict[str, Any]:
    """All figures of a run.

    Args:
        records: Every request that was sent.
        duration_s: Seconds from the start to the last end.
        percentiles: Which percentiles of every metric, between 0 and 100.
        goodput_ms: The objectives that a good request meets, by "ttft", "tpot" and "e2el".
        from_arrival: Whether latencies start when a request should have been sent, not when it was.
    """
    done = [record for record in records if record.outcome == Outcome.COMPLETED]
    num_input = sum(record.num_input for record in done)
    num_output = sum(record.num_output for record in done)
    good = _num_good(done, goodput_ms or {}, from_arrival=from_arrival)
    per_second = 1 / duration_s if duration_s > 0 else 0.0
    found: dict[str, Any] = {
        "duration": duration_s,
        "completed": len(done),
        "failed": sum(record.outcome == Outcome.FAILED for record in records),
        "refused": sum(record.status in _REFUSALS for record in records),
        "aborted": sum(record.outcome == Outcome.ABORTED for record in records),
        "errors_by_status": _counts(records, "status"),
        "errors_by_code": _counts(records, "code"),
        "total_input_tokens": num_input,
        "total_output_tokens": num_output,
        "total_cached_tokens": _num_cached(done),
        "output_tokens_from": _source(done),
        "request_throughput": len(done) * per_second,
        "request_goodput": good * per_second if goodput_ms else None,
        "output_throughput": num_output * per_second,
        "total_token_throughput": (num_input + num_output) * per_second,
        "max_output_tokens_per_s": _max_per_second(done),
        "max_concurrent_requests": _max_concurrency(done),
    }
    for metric in METRICS:
        values = samples(done, metric, from_arrival=from_arrival)
        found |= _statistics(metric, values, percentiles)
    return found


def percentile_name(percentile: float, metric: str) -> str:
    """As in `p99_ttft_ms`, or `p99.9_ttft_ms`."""
    return f"p{percentile:g}_{metric}_ms"


def _statistics(
    metric: str, values: Sequence[float], percentiles: Sequence[float]
) -> dict[str, float | None]:
    """Milliseconds; None where no request has the metric."""
    names = [percentile_name(percentile, metric) for percentile in percentiles]
    fixed = [f"{kind}_{metric}_ms" for kind in ("mean", "median", "std")]
    if not values:
        return dict.fromkeys([*fixed, *names])
    array = np.asarray(values) * 1000
    numbers = [array.mean(), np.median(array), array.std(), *np.percentile(array, percentiles)]
    return {name: float(number) for name, number in zip([*fixed, *names], numbers, strict=True)}


def _num_good(done: Sequence[Record], limits_ms: Mapping[str, float], *, from_arrival: bool) -> int:
    """Requests that meet all objectives. Without a value, as TPOT of one token, an objective is met."""

    def is_good(record: Record) -> bool:
        values = {
            metric: record.latency_s(metric, from_arrival=from_arrival) for metric in limits_ms
        }
        return all((values[metric] or 0) * 1000 <= limit for metric, limit in limits_ms.items())

    return sum(map(is_good, done))


def _counts(records: Iterable[Record], name: str) -> dict[str, int]:
    """How often each status or code of the requests that failed; without an answer the status is 0."""
    failed = (record for record in records if record.outcome == Outcome.FAILED)
    return dict(sorted(Counter(str(getattr(record, name)) for record in failed).items()))


def _source(done: Sequence[Record]) -> str:
    """Where the numbers of output tokens are from: "usage", "chunks", or "both"."""
    kinds = {"chunks" if record.output_tokens is None else "usage" for record in done}
    return "both" if len(kinds) > 1 else kinds.pop() if kinds else "usage"


def _num_cached(done: Sequence[Record]) -> int | None:
    """Input tokens that the server knew from earlier requests; None if it does not say."""
    known = [record.cached_tokens for record in done if record.cached_tokens is not None]
    return sum(known) if known else None


def _max_per_second(done: Sequence[Record]) -> float:
    """Most chunks with text that arrived in one second from the start of the first request."""
    if not done:
        return 0.0
    start = min(record.sent_s for record in done)
    seconds = Counter(int(moment - start) for record in done for moment in record.chunk_s)
    return float(max(seconds.values(), default=0))


def _max_concurrency(done: Sequence[Record]) -> int:
    """Most requests in flight at a time; one that ends when another starts is not counted with it."""
    moments = [(record.sent_s, 1) for record in done] + [(record.ended_s, -1) for record in done]
    current = most = 0
    for _, change in sorted(moments):
        current += change
        most = max(most, current)
    return most
