"""The fleet's simulator against queueing theory, its policies, and the formulas of the capacity page."""

import math
import re
import statistics
from collections import Counter
from pathlib import Path

import pytest

from scripts.fleet.capacity import GPUS, Replicas, Usage, capacity_table
from scripts.fleet.replica import Costs, Job
from scripts.fleet.routing import POLICIES, Affinity, LeastOutstanding, RoundRobin
from scripts.fleet.simulation import Workload, simulate, summary

DOCS = Path(__file__).parents[3] / "server/docs"
GPU = GPUS[0]


def erlang_c_wait(rate: float, service_s: float, places: int) -> float:
    """Mean wait of an M/M/c queue in seconds."""
    load = rate * service_s
    terms = [load**k / math.factorial(k) for k in range(places)]
    last = load**places / math.factorial(places) * places / (places - load)
    return last / (sum(terms) + last) * service_s / (places - load)


@pytest.mark.parametrize(("places", "utilisation"), [(1, 0.7), (4, 0.8)])
def test_waits_are_those_of_a_queue_with_exponential_service(
    places: int, utilisation: float
) -> None:
    """Geometric numbers of short steps are close to an exponential time: here a mean of 200 steps."""
    step_s, mean = 0.005, 200
    service_s = step_s * (mean - 1)
    rate = utilisation * places / service_s
    means = []
    for seed in range(10):
        jobs, _ = Workload(rate, 5000, 1, 1, mean, seed).jobs()
        simulate(jobs, 1, Costs(step_s=step_s, places=places), RoundRobin(1))
        waits = [job.started_s - job.arrival_s for job in jobs[500:]]
        means.append(statistics.fmean(waits))
    error = statistics.stdev(means) / math.sqrt(len(means))
    expected = erlang_c_wait(rate, service_s, places)
    assert abs(statistics.fmean(means) - expected) < 3 * error
    assert error < 0.1 * expected  # or the test would say little


def test_one_request_takes_the_sum_of_its_costs() -> None:
    costs = Costs(0.1, 0.3, 1, 0.5, 2.0, step_s=0.01, step_request_s=0.001)
    jobs = [Job(1.0, "a", 11), Job(20.0, "a", 11)]
    simulate(jobs, 1, costs, RoundRobin(1))
    first, second = jobs
    assert (first.is_hit, second.is_hit) == (False, True)
    assert first.first_s == pytest.approx(1 + 0.3 + 2.0)
    assert first.ended_s == pytest.approx(first.first_s + 10 * 0.011)
    assert second.first_s == pytest.approx(20 + 0.1 + 0.5)


def test_a_prefill_holds_up_running_requests_after_their_step() -> None:
    costs = Costs(prefill_miss_s=1.0, step_s=0.1)
    jobs = [Job(0.0, "a", 21), Job(1.55, "b", 1)]
    simulate(jobs, 1, costs, RoundRobin(1))
    assert jobs[1].started_s == pytest.approx(1.6)  # the end of the step
    assert jobs[0].ended_s == pytest.approx(1.0 + 20 * 0.1 + 1.0)


def test_requests_beyond_the_limit_are_refused() -> None:
    jobs = [Job(0.01 * at, str(at), 1000) for at in range(10)]
    simulate(jobs, 1, Costs(places=2, max_in_flight=4), RoundRobin(1))
    assert [job.is_refused for job in jobs] == [False] * 4 + [True] * 6
    assert [job.ended_s is None for job in jobs] == [False] * 4 + [True] * 6


def test_the_beginnings_used_last_are_kept() -> None:
    keys = ["a", "b", "a", "c", "a", "b"]
    jobs = [Job(float(at), key, 1) for at, key in enumerate(keys)]
    simulate(jobs, 1, Costs(prefill_miss_s=0.1, cache_entries=2), RoundRobin(1))
    assert [job.is_hit for job in jobs] == [False, False, True, False, True, False]


def test_policies_choose_by_turn_and_by_load() -> None:
    assert [RoundRobin(3).choose("", [9, 0, 0])] == [0]
    least = LeastOutstanding(3)
    assert {least.choose("", [2, 1, 1]) for _ in range(50)} == {1, 2}


def test_affinity_is_even_stable_and_bounded() -> None:
    idle = [0] * 10
    keys = [str(number) for number in range(5000)]
    ring, same, larger = Affinity(10), Affinity(10), Affinity(11)
    homes = [ring.choose(key, idle) for key in keys]
    assert homes == [same.choose(key, idle) for key in keys]
    assert min(Counter(homes).values()) > 300
    # With another replica about one of eleven keys moves, and to no other.
    grown = [larger.choose(key, [0] * 11) for key in keys]
    moved = [new for new, old in zip(grown, homes, strict=True) if new != old]
    assert set(moved) == {10}
    assert 250 < len(moved) < 800
    busy = [5] * 10
    busy[homes[0]] = 9
    assert ring.choose(keys[0], busy) != homes[0]


@pytest.mark.parametrize("load", [0.6, 1.2])
def test_affinity_serves_more_under_overload(load: float) -> None:
    fleet = Replicas(GPU, Usage())
    rate = load * fleet.capacity(1.0) * 8
    workload = Workload(rate, 8 * 300, 6, round(60 * rate), 250)
    found = {}
    for name, make in POLICIES.items():
        jobs, begun = workload.jobs()
        costs = fleet.costs(float(name == "picture affinity"))
        simulate(jobs, 8, costs, make(8), begun)
        found[name] = summary(jobs, ttft_s=2)
        assert all((job.ended_s is None) == job.is_refused for job in jobs)
    ours, others = found.pop("picture affinity"), found.values()
    assert all(ours["hit_rate"] > 2 * other["hit_rate"] for other in others)
    if load > 1:
        assert all(ours["goodput"] > 1.3 * other["goodput"] for other in others)


def test_the_formula_agrees_with_the_simulator() -> None:
    """At the rate of the formula a replica is busy all the time: it serves that much, and hardly more."""
    fleet = Replicas(GPU, Usage())
    for sent_home, make in ((0.0, RoundRobin), (1.0, Affinity)):
        capacity = fleet.capacity(sent_home)
        workload = Workload(1.3 * capacity * 20, 20 * 500, 6, round(60 * 1.3 * capacity * 20), 250)
        jobs, begun = workload.jobs()
        simulate(jobs, 20, fleet.costs(sent_home), make(20), begun)
        assert summary(jobs, ttft_s=2)["throughput"] / 20 == pytest.approx(capacity, rel=0.15)


def test_the_table_of_the_page_is_current() -> None:
    assert capacity_table() in (DOCS / "capacity.md").read_text(encoding="utf-8")


def test_the_figures_of_the_page_are_those_of_the_formulas() -> None:
    text = (DOCS / "capacity.md").read_text(encoding="utf-8")
    for gpu in GPUS:
        fleet = Replicas(gpu, Usage())
        rows = [line for line in text.splitlines() if line.startswith(f"| {gpu.name} |")]
        [row] = [row for row in rows if row.count("|") == 9]
        cells = [float(cell) for cell in re.findall(r"[\d.]+", row.split("|", 2)[2])]
        assert cells == [
            round(1000 * fleet.prefill_s(is_hit=False)), round(1000 * fleet.prefill_s(is_hit=True)),
            round(1000 * fleet.step_fixed_s, 1), round(1000 * fleet.step_request_s, 2),
            fleet.num_contexts, round(fleet.capacity(0.0), 1), round(fleet.capacity(1.0), 1),
        ]  # fmt: skip
