"""The training loop's common parts: optimisers, learning rates, progress and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

_WARMUP_STEPS = 100
_FINAL_RATE = 0.02
_SMOOTHING = 0.98
_PRINT_EVERY = 50


@dataclass(frozen=True)
class Schedule:
    """Length and learning rates of a phase.

    Attributes:
        steps: Number of steps.
        matrix_rate: Peak learning rate of Muon, which trains the matrices of the layers.
        other_rate: Peak learning rate of AdamW, which trains all other parameters.
        report_every: Steps between two evaluations and checkpoints.
    """

    steps: int
    matrix_rate: float
    other_rate: float
    report_every: int = 250


class TrainingRun:
    """Modules in training, with their optimisers, smoothed losses and checkpoint.

    Args:
        name: Name of the phase, for its output.
        checkpoint: The checkpoint file; if it exists, training continues from it.
        modules: The network first, whose gradients are clipped, then a read-out that only
            training uses. The names are the keys of the checkpoint.
        schedule: Length and learning rates.
    """

    def __init__(
        self, name: str, checkpoint: Path, modules: dict[str, nn.Module], schedule: Schedule
    ) -> None:
        self._name, self._checkpoint = name, checkpoint
        self._modules, self._schedule = modules, schedule
        self._network, read_out = modules.values()
        self._optimisers = _optimisers(self._network, list(read_out.parameters()), schedule)
        self.first_step = self._load()
        self._means: dict[str, float] = {}
        self._started = time.monotonic()

    @property
    def steps(self) -> range:
        """The steps that remain."""
        return range(self.first_step, self._schedule.steps)

    def update(self, step: int, losses: dict[str, Tensor]) -> None:
        """Take one optimiser step on the sum of the losses."""
        _set_rate(self._optimisers, step, self._schedule.steps)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self._record(step, losses)

    def is_report_due(self, step: int) -> bool:
        """Return whether the model should be evaluated and saved after this step."""
        done = step + 1
        return done % self._schedule.report_every == 0 or done == self._schedule.steps

    def save(self, step: int) -> None:
        """Write the checkpoint: modules, optimisers and the number of completed steps."""
        state: dict[str, object] = {n: module.state_dict() for n, module in self._modules.items()}
        state |= {"optimisers": [o.state_dict() for o in self._optimisers], "step": step + 1}
        partial = self._checkpoint.with_suffix(".part")
        torch.save(state, partial)
        partial.rename(self._checkpoint)

    def _load(self) -> int:
        """Restore the checkpoint if it exists; return its number of completed steps."""
        if not self._checkpoint.exists():
            return 0
        state = torch.load(self._checkpoint, weights_only=True)
        for name, module in self._modules.items():
            module.load_state_dict(state[name])
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            peaks = [group["peak"] for group in optimiser.param_groups]
            optimiser.load_state_dict(saved)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["peak"] = peak
        return int(state["step"])

    def _record(self, step: int, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            value = loss.item()
            mean = self._means.get(name, value)
            self._means[name] = _SMOOTHING * mean + (1 - _SMOOTHING) * value
        if (step + 1) % _PRINT_EVERY == 0:
            pace = (time.monotonic() - self._started) / (step + 1 - self.first_step)
            shown = " ".join(f"{name} {mean:.3f}" for name, mean in self._means.items())
            print(f"{self._name} {step + 1}/{self._schedule.steps} {shown} {pace:.2f} s/step")


def prefetch(make: Callable[[int], T], steps: range) -> Iterator[tuple[int, T]]:
    """Yield every step and its batch; the next batch is made in a thread meanwhile."""
    with ThreadPoolExecutor(1) as executor:
        ahead = executor.submit(make, steps.start) if steps else None
        for step in steps:
            batch = ahead.result()
            ahead = executor.submit(make, step + 1) if step + 1 in steps else None
            yield step, batch


def _optimisers(
    network: nn.Module, read_out: list[nn.Parameter], schedule: Schedule
) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the network's layers, AdamW for all other parameters."""
    matrices: list[torch.nn.Parameter] = []
    others = list(read_out)
    for name, parameter in network.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if is_matrix else others).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=schedule.matrix_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=schedule.other_rate, weight_decay=0.0, betas=(0.9, 0.98))
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def _set_rate(optimisers: list[torch.optim.Optimizer], step: int, total: int) -> None:
    """Warm up linearly, then follow a cosine to 2 % of the peak."""
    done = (step - _WARMUP_STEPS) / max(1, total - _WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
    scale = min(1.0, (step + 1) / _WARMUP_STEPS) * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * scale
