"""How many replicas and cores users need: formulas on measured, published and assumed figures.

Which figure is which is said here and in `server/docs/capacity.md`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from internvl_server.planner.check import model_at
from internvl_server.planner.gpus import parse_gpus
from internvl_server.planner.memory import Deployment
from internvl_server.planner.report import plan_facts

from scripts.fleet.replica import Costs

__all__ = ["GPUS", "Gpu", "Need", "Replicas", "Usage", "capacity_table"]

# Measured here (server/docs/benchmarks.md): CPU seconds of the server's process.
CPU_FRESH_IMAGE_S = 0.0265  # a request with a new picture of 1920x1080
CPU_KNOWN_IMAGE_S = 0.0044  # the same picture again
CPU_TOKEN_S = 23e-6  # a streamed token, at 64 streams

# From the architecture of the model.
TOKENS_A_TILE = 256
VISION_FLOPS_A_TILE = 0.73e12  # InternViT-300M: 1,025 patches, matrices and attention

# Assumptions, to be replaced by measurements on the GPU in question.
COMPUTE_SHARE = 0.5  # of the published arithmetic that a prefill reaches
BANDWIDTH_SHARE = 0.7  # of the published bandwidth that a decode step reaches
UTILISATION = 0.7  # of a replica's capacity that is planned for
TPOT_S = 0.05  # a batch grows until a token takes so long

_MAX_SEQS = 256  # engine.max_num_seqs


@dataclass(frozen=True)
class Gpu:
    """Published figures of a GPU: dense bfloat16 arithmetic and memory bandwidth, both a second."""

    name: str
    gib: int
    flops: float
    bandwidth: float


GPUS = (
    Gpu("A100 80GB SXM", 80, 312e12, 2.039e12),
    Gpu("H100 SXM", 80, 989e12, 3.35e12),
)


@dataclass(frozen=True)
class Usage:
    """What users do.

    Attributes:
        think_s: Seconds from one request of a user to the next.
        turns: Requests about one picture.
        tiles: Tiles of a picture, thumbnail included.
        question_tokens: Of each request.
        answer_tokens: Of each answer.
    """

    think_s: float = 60.0
    turns: int = 6
    tiles: int = 7
    question_tokens: int = 300
    answer_tokens: int = 250

    @property
    def context(self) -> float:
        """Tokens of an average prompt, with the picture and the earlier turns."""
        before = (self.turns - 1) / 2 * (self.question_tokens + self.answer_tokens)
        return self.tiles * TOKENS_A_TILE + before + self.question_tokens


@dataclass(frozen=True)
class Need:
    """What so many users need. `replicas` includes one that may be missing."""

    rate: float
    replicas: int
    cores: float


class Replicas:
    """One replica of a model on one GPU, on paper.

    Args:
        gpu: Its published figures.
        usage: What users do.
        model: A size as `plan` knows it.
    """

    def __init__(self, gpu: Gpu, usage: Usage, model: str = "8B") -> None:
        self.gpu, self.usage = gpu, usage
        [fleet] = parse_gpus(f"1x{gpu.gib}")
        config = model_at(model)
        assert config is not None, model
        tokens = round(usage.context + usage.answer_tokens)
        facts = plan_facts(config, Deployment(max_num_seqs=_MAX_SEQS), fleet, 1, tokens)
        self._weights, self._kv = facts["weight_bytes"], facts["kv_bytes_per_token"]
        self._parameters = facts["num_parameters"]
        self.num_contexts: int = facts["num_requests"]

    def prefill_s(self, *, is_hit: bool) -> float:
        """Seconds of an average prompt; a replica that knows its beginning computes the question only."""
        usage = self.usage
        tokens = usage.question_tokens if is_hit else usage.context
        flops = 2 * self._parameters * tokens
        flops += 0 if is_hit else VISION_FLOPS_A_TILE * usage.tiles
        return flops / (self.gpu.flops * COMPUTE_SHARE)

    @property
    def step_fixed_s(self) -> float:
        """Seconds of a decode step for reading the weights."""
        return float(self._weights / (self.gpu.bandwidth * BANDWIDTH_SHARE))

    @property
    def step_request_s(self) -> float:
        """Seconds that each running request adds: reading its keys and values, and its arithmetic."""
        context = self.usage.context + self.usage.answer_tokens / 2
        reading = self._kv * context / (self.gpu.bandwidth * BANDWIDTH_SHARE)
        return float(reading + 2 * self._parameters / (self.gpu.flops * COMPUTE_SHARE))

    @cache  # noqa: B019 - there are few replicas
    def batch(self, sent_home: float) -> int:
        """The running requests at which a replica serves most.

        They keep a token below `TPOT_S`, within what `plan` finds memory for. Fewer are best if the memory
        serves more requests by keeping the beginnings of prompts.
        """
        fast = int((TPOT_S - self.step_fixed_s) / self.step_request_s)
        most = min(_MAX_SEQS, self.num_contexts, fast)
        return max(range(1, most + 1), key=lambda batch: self._capacity(sent_home, batch))

    def hit_rate(self, rate: float, sent_home: float, batch: int) -> float:
        """Share of requests whose beginning the replica keeps.

        Args:
            rate: Requests a second of one replica. Its users return after `think_s`, so that it must keep
                `rate * think_s` beginnings; it has memory for those that do not run.
            sent_home: Share of requests that go to the replica of the turn before.
            batch: Running requests.
        """
        kept = min(1.0, (self.num_contexts - batch) / (rate * self.usage.think_s))
        return (1 - 1 / self.usage.turns) * sent_home * kept

    def capacity(self, sent_home: float) -> float:
        """Requests a second at which the engine never rests."""
        return self._capacity(sent_home, self.batch(sent_home))

    def _capacity(self, sent_home: float, batch: int) -> float:
        """The rate at which a request takes the time that there is, by bisection."""
        decode_s = self.usage.answer_tokens * (self.step_fixed_s / batch + self.step_request_s)
        low, high = 0.0, 1 / decode_s
        for _ in range(40):
            rate = (low + high) / 2
            hits = self.hit_rate(rate, sent_home, batch)
            busy_s = hits * self.prefill_s(is_hit=True) + (1 - hits) * self.prefill_s(is_hit=False)
            low, high = (rate, high) if rate * (busy_s + decode_s) < 1 else (low, rate)
        return low

    def cpu_s(self, hit_rate: float) -> float:
        """Seconds of CPU that a request costs the server's process."""
        image_s = hit_rate * CPU_KNOWN_IMAGE_S + (1 - hit_rate) * CPU_FRESH_IMAGE_S
        return image_s + self.usage.answer_tokens * CPU_TOKEN_S

    def need(self, users: int, sent_home: float) -> Need:
        """Replicas, one more than are needed, and cores of all front ends together."""
        rate = users / self.usage.think_s
        one = UTILISATION * self.capacity(sent_home)
        hits = self.hit_rate(one, sent_home, self.batch(sent_home))
        return Need(rate, math.ceil(rate / one) + 1, rate * self.cpu_s(hits) / UTILISATION)

    def costs(self, sent_home: float, cores: int = 4) -> Costs:
        """For the simulator, with the best batch for a policy that sends so many requests home."""
        batch = self.batch(sent_home)
        return Costs(
            prepare_hit_s=CPU_KNOWN_IMAGE_S,
            prepare_miss_s=CPU_FRESH_IMAGE_S,
            cores=cores,
            prefill_hit_s=self.prefill_s(is_hit=True),
            prefill_miss_s=self.prefill_s(is_hit=False),
            step_s=self.step_fixed_s,
            step_request_s=self.step_request_s,
            places=batch,
            max_in_flight=2 * batch,
            cache_entries=self.num_contexts,
        )


def capacity_table(users: tuple[int, ...] = (100, 1_000, 10_000, 100_000)) -> str:
    """Worked examples in Markdown."""
    lines = [
        "| Users | Requests/s | GPU | Replicas, affinity | Cores | Replicas, round robin | Cores |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *_rows(users)])


def _rows(users: tuple[int, ...]) -> Iterator[str]:
    for number in users:
        for gpu in GPUS:
            fleet = Replicas(gpu, Usage())
            best, worst = fleet.need(number, 1.0), fleet.need(number, 0.0)
            yield (
                f"| {number:,} | {best.rate:,.1f} | {gpu.name} | {best.replicas} | {best.cores:,.1f} "
                f"| {worst.replicas} | {worst.cores:,.1f} |"
            )
