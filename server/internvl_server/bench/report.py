"""The result of a run: a table for people, and the members of a result file."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from internvl_server.bench.measures import METRICS, Record, percentile_name

__all__ = ["details", "table"]

_COUNTS = {
    "completed": "Completed requests",
    "failed": "Failed requests",
    "refused": "  of these refused (429, 503)",
    "aborted": "Aborted requests",
    "duration": "Duration (s)",
    "total_input_tokens": "Input tokens",
    "total_cached_tokens": "  of the input cached",
    "total_output_tokens": "Output tokens",
    "request_throughput": "Requests/s",
    "request_goodput": "Good requests/s",
    "output_throughput": "Output tokens/s",
    "total_token_throughput": "Tokens/s",
    "max_output_tokens_per_s": "Most chunks in one second",
    "max_concurrent_requests": "Most requests at a time",
    "client_cpu_share": "CPU of this client (cores)",
    "client_loop_lag_p99_ms": "Lag of its event loop, p99 (ms)",
    "client_late_p99_ms": "Requests sent late by, p99 (ms)",
}


def table(result: Mapping[str, Any], metrics: Sequence[str], percentiles: Sequence[float]) -> str:
    """The figures as plain text: counts, then a line for each metric that has values."""
    lines = [
        f"{label:<40}{_number(result[name])}"
        for name, label in _COUNTS.items()
        if _is_shown(name, result)
    ]
    for name in ("errors_by_status", "errors_by_code"):
        if result[name]:
            pairs = ", ".join(f"{key} x {number}" for key, number in result[name].items())
            lines.append(f"{name.replace('_', ' ').capitalize():<40}{pairs}")
    heads = ["mean", "median", *(f"p{percentile:g}" for percentile in percentiles)]
    lines += ["", "Milliseconds".ljust(24) + "".join(head.rjust(11) for head in heads)]
    for metric in metrics:
        names = [f"mean_{metric}_ms", f"median_{metric}_ms"]
        names += [percentile_name(percentile, metric) for percentile in percentiles]
        if result[names[0]] is not None:
            cells = "".join(f"{result[name]:11.2f}" for name in names)
            lines.append(METRICS[metric].ljust(24) + cells)
    return "\n".join(lines)


def details(records: Sequence[Record], started_s: float) -> dict[str, list[Any]]:
    """What is known of each request, in seconds; `start_times` are from the start of the run."""
    return {
        "input_lens": [record.num_input for record in records],
        "output_lens": [record.num_output for record in records],
        "ttfts": [record.latency_s("ttft") for record in records],
        "itls": [
            [later - earlier for earlier, later in zip(r.chunk_s, r.chunk_s[1:], strict=False)]
            for r in records
        ],
        "latencies": [record.latency_s("e2el") for record in records],
        "arrival_times": [record.intended_s - started_s for record in records],
        "start_times": [record.sent_s - started_s for record in records],
        "queue_times": [record.latency_s("client_queue_time") for record in records],
        "outcomes": [record.outcome for record in records],
        "statuses": [record.status for record in records],
        "errors": [record.message for record in records],
        "generated_texts": [record.text for record in records],
    }


def _is_shown(name: str, result: Mapping[str, Any]) -> bool:
    """Failures and goodput only where there are any."""
    value = result.get(name)
    if name == "total_cached_tokens":
        return True
    return value is not None and (bool(value) or name not in ("failed", "refused", "aborted"))


def _number(value: float | None) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, int):
        return str(value)
    return f"{value:.2f}" if math.isfinite(value) else str(value)
