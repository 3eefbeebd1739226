"""One replica: cores that prepare requests, and an engine that batches them continuously."""

import heapq
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import simpy

__all__ = ["Costs", "Job", "Replica"]


@dataclass(frozen=True)
class Costs:
    """What a request costs a replica. Times are seconds.

    Attributes:
        prepare_hit_s: CPU before the engine gets it, if its pictures are prepared already.
        prepare_miss_s: Otherwise.
        cores: Requests that are prepared at the same time.
        prefill_hit_s: The engine's time up to the first token, if it knows the beginning of the prompt. The
            other requests wait meanwhile.
        prefill_miss_s: Otherwise.
        first_steps: Steps from the end of the prefill to the first token.
        step_s: Time of a step that makes one token of each running request, without that of requests.
        step_request_s: What each running request adds to it.
        places: Most running requests.
        max_in_flight: Requests beyond it are refused.
        cache_entries: Conversations whose beginnings a replica keeps, those used last.
    """

    prepare_hit_s: float = 0.0
    prepare_miss_s: float = 0.0
    cores: int = 1
    prefill_hit_s: float = 0.0
    prefill_miss_s: float = 0.0
    first_steps: int = 0
    step_s: float = 0.02
    step_request_s: float = 0.0
    places: int = 128
    max_in_flight: int = 1_000_000
    cache_entries: int = 1_000_000


@dataclass(slots=True)
class Job:
    """One request, and what became of it. Times are seconds since the start; None has not happened."""

    arrival_s: float
    key: str
    num_tokens: int
    replica: int = -1
    is_hit: bool = False
    is_refused: bool = False
    started_s: float | None = None
    first_s: float | None = None
    ended_s: float | None = None


class Replica:
    """Serves jobs in the order of their arrival.

    Args:
        env: The simulation.
        costs: Of every request.
        on_end: Called with each job that has ended.
    """

    def __init__(self, env: simpy.Environment, costs: Costs, on_end: Callable[[Job], None]) -> None:
        self._env, self._costs, self._on_end = env, costs, on_end
        self._cores = simpy.Resource(env, costs.cores)
        self._waiting: deque[Job] = deque()
        self._running: list[tuple[int, int, Job]] = []  # step of its last token, order, job
        self._order = itertools.count()
        self._step = 0
        self._known: OrderedDict[str, None] = OrderedDict()
        self._wake: simpy.Event | None = None
        self.num_jobs = 0
        env.process(self._engine())

    def warm(self, key: str) -> None:
        """Know the beginning of a conversation, as if a request of it had been served."""
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > self._costs.cache_entries:
            self._known.popitem(last=False)

    def submit(self, job: Job) -> bool:
        """Take a job, or refuse it if there are too many."""
        if self.num_jobs >= self._costs.max_in_flight:
            job.is_refused = True
            return False
        self.num_jobs += 1
        if self._costs.prepare_hit_s or self._costs.prepare_miss_s:
            self._env.process(self._prepare(job))
        else:
            self._enqueue(job)
        return True

    def _prepare(self, job: Job) -> Iterator[Any]:
        costs = self._costs
        with self._cores.request() as core:
            yield core
            is_known = job.key in self._known
            yield self._env.timeout(costs.prepare_hit_s if is_known else costs.prepare_miss_s)
        self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        self._waiting.append(job)
        if self._wake is not None and len(self._running) < self._costs.places:
            self._wake.succeed()
            self._wake = None

    def _engine(self) -> Iterator[Any]:
        while True:
            while self._waiting and len(self._running) < self._costs.places:
                yield from self._prefill(self._waiting.popleft())
                if self._costs.prefill_miss_s:  # a pass makes a token of the others as well
                    yield from self._decode(most=1)
            if self._running:
                yield from self._decode()
            elif not self._waiting:
                self._wake = self._env.event()
                yield self._wake

    def _prefill(self, job: Job) -> Iterator[Any]:
        """Compute the prompt, which makes the first token."""
        job.started_s = self._env.now
        job.is_hit = job.key in self._known
        cost_s = self._costs.prefill_hit_s if job.is_hit else self._costs.prefill_miss_s
        if cost_s:
            yield self._env.timeout(cost_s)
        self.warm(job.key)
        first = self._costs.first_steps
        job.first_s = self._env.now + first * self._costs.step_s
        last = self._step + first + job.num_tokens - 1
        heapq.heappush(self._running, (last, next(self._order), job))

    def _decode(self, most: int | None = None) -> Iterator[Any]:
        """Make steps until a request ends, or until one arrives for which there is a place.

        No more than `most`.
        """
        step_s = self._costs.step_s + self._costs.step_request_s * len(self._running)
        num_steps = self._running[0][0] - self._step
        if most is not None:
            num_steps = min(num_steps, most)
        start = self._env.now
        self._wake = self._env.event()
        end = self._env.timeout(num_steps * step_s)
        yield end | self._wake
        if not end.processed:
            # An arrival waits for the end of the step.
            num_steps = min(num_steps, math.ceil((self._env.now - start) / step_s))
            yield self._env.timeout(max(0.0, start + num_steps * step_s - self._env.now))
        self._wake = None
        self._step += num_steps
        while self._running and self._running[0][0] <= self._step:
            _, _, job = heapq.heappop(self._running)
            job.ended_s = self._env.now
            self.num_jobs -= 1
            self._on_end(job)
