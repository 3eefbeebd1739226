"""The table of trials. Each loads a checkpoint once, with its settings, and runs its checks."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from scripts.gpu_smoke import adapter
from scripts.gpu_smoke.results import READY
from scripts.gpu_smoke.server import answers, ending, features, load, privacy
from scripts.gpu_smoke.server.running import Running

__all__ = ["PARITY", "PEAK", "TRIALS", "ServerCheck", "Tolerance", "Trial", "trials_for"]

ServerCheck: TypeAlias = Callable[[Running], Awaitable[str]]

PARITY, PEAK = "as transformers", "memory beside the plan"


@dataclass(frozen=True)
class Tolerance:
    """How near logits must be to transformers': the least cosine, the share of equal likeliest tokens."""

    cosine: float = 0.999
    equal: float = 0.95


@dataclass(frozen=True)
class Trial:
    """`checks` are made over HTTP; a trial without any runs in one process with the engine."""

    name: str
    kind: str = "hf"
    changes: tuple[str, ...] = ()
    checks: Mapping[str, ServerCheck] | None = None
    tolerance: Tolerance = Tolerance()
    tp: int = 1
    has_small_cache: bool = False

    @property
    def expected(self) -> list[str]:
        """The names of its rows."""
        if self.checks is None:
            return [*adapter.CHECKS, PARITY, PEAK]
        return [READY, *self.checks, PEAK]


_ANSWERS: dict[str, ServerCheck] = {
    "every kind of request": answers.every_kind,
    "greedy twice": answers.greedy_twice,
    "two pictures, interleaved": privacy.interleaved_pictures,
}
_FEATURES: dict[str, ServerCheck] = {
    "logprobs": features.logprobs,
    "json_schema": features.json_schema,
    "tool call": features.tool_call,
    "min_tokens": features.min_tokens,
    "ignore_eos": features.ignore_eos,
    "n = 2": features.two_choices,
    "prefix cache": features.cached_tokens,
    "longest prompt": answers.longest_prompt,
}
_LOAD: dict[str, ServerCheck] = {
    "64 streams": load.streams,
    "streams left early": load.left_early,
    "64 streams after that": load.streams_again,
}
_END: dict[str, ServerCheck] = {
    "SIGTERM under load": ending.sigterm_under_load,
    "SIGABRT and restart": ending.abort_and_restart,
}

TRIALS = (
    Trial("adapter"),
    Trial("server", checks={**_ANSWERS, **_FEATURES, **_LOAD, **_END}),
    Trial("adapter, authors' layout", kind="authors"),
    Trial("adapter, AWQ", kind="awq"),
    Trial("adapter, 6B's vision", kind="6b-vit"),
    Trial("adapter, Qwen3", kind="qwen3"),
    Trial("adapter, Qwen3 with experts", kind="qwen3-moe"),
    Trial("adapter, InternLM2", kind="internlm2"),
    Trial("adapter, float16", changes=("engine.turbomind.dtype=float16",)),
    Trial(
        "adapter, 8-bit cache",
        changes=("engine.turbomind.quant_policy=8",),
        tolerance=Tolerance(0.99, 0.9),
    ),
    Trial(
        "adapter, 4-bit cache",
        changes=("engine.turbomind.quant_policy=4",),
        tolerance=Tolerance(0.9, 0.6),
    ),
    Trial(
        "server, no prefix cache",
        changes=("engine.turbomind.enable_prefix_caching=false",),
        checks=_ANSWERS,
    ),
    Trial(
        "server, full cache",
        checks={"32 requests where 4 fit": load.exhausted_cache},
        has_small_cache=True,
    ),
)


def trials_for(*, is_random: bool, tp: int, only: Iterable[str]) -> list[Trial]:
    """Those that can be made, and that a pattern of `only` fits; with several GPUs, one more over all."""
    trials = [trial for trial in TRIALS if is_random or trial.kind == "hf"]
    if tp > 1:
        trials.insert(
            2, Trial(f"server, tp {tp}", tp=tp, checks={**_ANSWERS, **_FEATURES, **_LOAD})
        )
    patterns = tuple(only) or ("*",)
    return [t for t in trials if any(fnmatchcase(t.name, pattern) for pattern in patterns)]
