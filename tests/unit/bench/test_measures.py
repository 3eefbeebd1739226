"""Figures of known arrivals: definitions are those of `vllm bench serve`."""

from typing import Any

import numpy as np
import pytest
from internvl_server.bench.measures import Outcome, Record, figures, samples, tpot_s


def record(intended_s: float = 0.0, **changes: Any) -> Record:
    """Sent at once, three chunks after 0.2, 0.3 and 0.5 s, four tokens, ended after 0.6 s."""
    made = Record(
        intended_s, intended_s, intended_s + 0.6,
        [intended_s + 0.2, intended_s + 0.3, intended_s + 0.5], Outcome.COMPLETED, 200,
        input_tokens=10, output_tokens=4,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def failure(status: int, code: str) -> Record:
    return record(outcome=Outcome.FAILED, status=status, code=code, chunk_s=[])


def test_latencies_of_one_request() -> None:
    one = record(5.0)
    assert one.latency_s("ttft") == pytest.approx(0.2)
    assert one.latency_s("e2el") == pytest.approx(0.6)
    assert tpot_s(one) == pytest.approx((0.6 - 0.2) / 3)
    assert samples([one], "itl") == pytest.approx([0.1, 0.2])


def test_a_late_request_is_measured_from_when_it_was_due() -> None:
    late = record(5.0)
    late.intended_s = 2.0
    assert late.latency_s("ttft") == pytest.approx(3.2)
    assert late.latency_s("e2el") == pytest.approx(3.6)
    assert late.latency_s("client_queue_time") == pytest.approx(3.0)
    assert late.latency_s("ttft", from_arrival=False) == pytest.approx(0.2)
    assert tpot_s(late) == pytest.approx(0.4 / 3)


def test_percentiles_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    delays = rng.exponential(0.5, 1000)
    records = [record(chunk_s=[delay], ended_s=delay, output_tokens=1) for delay in delays]
    found = figures(records, 10.0, percentiles=(50, 90, 99, 99.9))
    for percentile, name in ((50, "p50"), (90, "p90"), (99, "p99"), (99.9, "p99.9")):
        expected = np.percentile(delays, percentile) * 1000
        assert found[f"{name}_ttft_ms"] == pytest.approx(expected)
    assert found["mean_ttft_ms"] == pytest.approx(delays.mean() * 1000)
    assert found["median_e2el_ms"] == pytest.approx(np.median(delays) * 1000)
    assert found["std_e2el_ms"] == pytest.approx(delays.std() * 1000)
    assert found["mean_tpot_ms"] is None  # one token each
    assert found["mean_itl_ms"] is None


def test_throughput_counts_completed_requests() -> None:
    found = figures([record(), record(1.0), failure(429, "busy"), failure(500, "broken")], 4.0)
    assert found["completed"] == 2
    assert found["failed"] == 2
    assert found["refused"] == 1
    assert found["errors_by_status"] == {"429": 1, "500": 1}
    assert found["errors_by_code"] == {"broken": 1, "busy": 1}
    assert found["request_throughput"] == 0.5
    assert found["output_throughput"] == 2.0
    assert found["total_token_throughput"] == 7.0
    assert found["max_concurrent_requests"] == 1
    assert found["max_output_tokens_per_s"] == 3


def test_without_usage_chunks_are_counted_and_that_is_said() -> None:
    uncounted = record(output_tokens=None, input_tokens=None, text_tokens=7)
    found = figures([uncounted], 1.0)
    assert (found["total_output_tokens"], found["total_input_tokens"]) == (3, 7)
    assert found["output_tokens_from"] == "chunks"
    assert figures([record(), uncounted], 1.0)["output_tokens_from"] == "both"


@pytest.mark.parametrize(
    ("limits", "num_good"),
    [
        ({"ttft": 200.1}, 2),
        ({"ttft": 199}, 0),
        ({"tpot": 140}, 2),
        ({"tpot": 130}, 1),  # an answer of one token has no time per token
        ({"ttft": 300, "e2el": 500}, 0),
    ],
)
def test_goodput_meets_all_objectives(limits: dict[str, float], num_good: int) -> None:
    records = [record(), record(output_tokens=1)]
    assert figures(records, 2.0, goodput_ms=limits)["request_goodput"] == num_good / 2


def test_aborted_requests_are_neither_completed_nor_failed() -> None:
    found = figures([record(), record(outcome=Outcome.ABORTED)], 1.0)
    assert (found["completed"], found["failed"], found["aborted"]) == (1, 0, 1)


def test_nothing_at_all() -> None:
    found = figures([], 0.0)
    assert found["request_throughput"] == 0
    assert found["mean_ttft_ms"] is None


def test_one_that_ends_as_another_starts_is_not_concurrent() -> None:
    records = [record(0.0), record(0.6), record(0.7)]
    assert figures(records, 1.0)["max_concurrent_requests"] == 2
