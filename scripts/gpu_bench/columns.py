"""The columns of the tables."""

from scripts.load.turns.records import Columns

__all__ = ["COLUMNS"]

COLUMNS = Columns(
    {
        "first token p50 ms": "ttft_p50_ms",
        "p99": "ttft_p99_ms",
        "gap p50 ms": "gap_p50_ms",
        "p99 ": "gap_p99_ms",
        "tokens/s": "tokens_per_s",
        "requests/s": "requests_per_s",
        "loop µs a token": "loop_us_per_token",
        "process": "process_us_per_token",
        "frames a token": "frames_per_token",
        "prompt": "prompt_tokens",
        "failed": "num_failed",
    },
    ("ttft_p50_ms", "gap_p99_ms", "tokens_per_s", "loop_us_per_token", "process_us_per_token"),
)
