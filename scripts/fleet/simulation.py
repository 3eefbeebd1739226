"""Conversations that arrive at a fleet of replicas, and what their users see."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from scripts.fleet.replica import Costs, Job, Replica
from scripts.fleet.routing import Policy

__all__ = ["Workload", "simulate", "summary"]


@dataclass(frozen=True)
class Workload:
    """Requests of conversations, each about a picture, in a Poisson process.

    Attributes:
        rate: Requests a second.
        num_requests: How many.
        turns: Requests of a conversation; then another takes its place.
        num_live: Conversations at a time.
        mean_tokens: Tokens of an answer on average; they follow a geometric distribution.
        seed: Of the random numbers.
    """

    rate: float
    num_requests: int
    turns: int
    num_live: int
    mean_tokens: float
    seed: int = 0

    def jobs(self) -> tuple[list[Job], list[str]]:
        """The requests, in the order of arrival, and the keys of conversations that had begun before."""
        rng = np.random.default_rng(self.seed)
        arrivals = np.cumsum(rng.exponential(1 / self.rate, self.num_requests))
        tokens = rng.geometric(1 / self.mean_tokens, self.num_requests)
        places = rng.integers(self.num_live, size=self.num_requests)
        # At the start conversations are somewhere in their course.
        counts = rng.integers(self.turns, size=self.num_live)
        begun = [f"{at}/0" for at, count in enumerate(counts) if count]
        made = []
        for arrival, place, number in zip(arrivals, places, tokens, strict=True):
            generation = counts[place] // self.turns
            counts[place] += 1
            made.append(Job(float(arrival), f"{place}/{generation}", int(number)))
        return made, begun


def simulate(
    jobs: Sequence[Job],
    num_replicas: int,
    costs: Costs,
    policy: Policy,
    begun: Sequence[str] = (),
) -> None:
    """Run jobs to their ends; what became of each is noted in it.

    Args:
        jobs: In the order of their arrival.
        num_replicas: At least 1.
        costs: Of every request.
        policy: Which replica a job goes to.
        begun: Conversations that a replica knows at the start: the one that the policy chooses.
    """
    env = simpy.Environment()
    outstanding = [0] * num_replicas

    def forget(job: Job) -> None:
        outstanding[job.replica] -= 1

    replicas = [Replica(env, costs, forget) for _ in range(num_replicas)]
    for key in begun:
        replicas[policy.choose(key, outstanding)].warm(key)

    def arrive() -> Any:
        for job in jobs:
            yield env.timeout(job.arrival_s - env.now)
            job.replica = policy.choose(job.key, outstanding)
            outstanding[job.replica] += replicas[job.replica].submit(job)

    env.process(arrive())
    gc.disable()  # it would visit all jobs again and again
    try:
        env.run()
    finally:
        gc.enable()


def summary(jobs: Sequence[Job], *, ttft_s: float, warm_up: float = 0.4) -> dict[str, float]:
    """Figures of a run, between the end of the warm-up and the last arrival.

    Args:
        jobs: Those of a run that has ended.
        ttft_s: A good request has its first token by then.
        warm_up: Share of the first jobs, which are left out.
    """
    start, end = jobs[int(warm_up * len(jobs))].arrival_s, jobs[-1].arrival_s
    late = [job for job in jobs[int(warm_up * len(jobs)) :] if job.ended_s is not None]
    ended = [job for job in jobs if job.ended_s is not None and start <= job.ended_s <= end]
    first = np.array([(job.first_s or 0.0) - job.arrival_s for job in late])
    total = np.array([(job.ended_s or 0.0) - job.arrival_s for job in late])
    return {
        "throughput": len(ended) / (end - start),
        "goodput": float(np.count_nonzero(first <= ttft_s)) / (end - start),
        "refused": sum(job.is_refused for job in jobs) / len(jobs),
        "hit_rate": float(np.mean([job.is_hit for job in late])),
        "ttft_p50_s": float(np.percentile(first, 50)),
        "ttft_p99_s": float(np.percentile(first, 99)),
        "e2e_p50_s": float(np.percentile(total, 50)),
        "e2e_p99_s": float(np.percentile(total, 99)),
    }
