"""Chooses and makes the engine. Imports only the engine that is used."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.engine.base import Engine
from internvl_server.engine.turbomind import machine
from internvl_server.errors import StartupError
from internvl_server.planner.gpus import GpuMemory
from internvl_server.settings import DEMO_MODEL, EngineSettings, Settings

if TYPE_CHECKING:
    from internvl_server.engine.echo.constrained import ConstrainedAnswers

__all__ = ["check_backend", "choose_engine", "load_engine", "unused_settings"]

_NUM_KEPT_SHAPES = "128"
_NAMES = {"cpu": "CPU", "turbomind": "TurboMind", "echo": "echo"}


def choose_engine(settings: Settings) -> tuple[EngineSettings, str]:
    """Replace `auto` in `engine.kind` and in the `dtype` of the engine.

    Returns:
        The settings with a definite engine, and a sentence that names the engine and the reason.

    Raises:
        StartupError: The engine cannot compute in `engine.dtype`.
    """
    kind = settings.engine.kind
    reason = f"engine.kind is {kind}"
    if kind == "auto":
        kind, reason = _detect(settings.model.path)
    chosen = settings.engine.model_copy(update={"kind": kind})
    return _with_dtype(chosen), f"{reason}; using the {_NAMES[kind]} engine"


def _detect(model: str) -> tuple[Literal["cpu", "turbomind"], str]:
    if Path(model).resolve() == DEMO_MODEL.resolve():
        return "cpu", "the bundled demo model is made for the CPU"
    if problem := machine.find_problem():
        return "cpu", problem
    return "turbomind", f"LMDeploy and {machine.count_gpus()} NVIDIA GPU(s) were found"


def _with_dtype(settings: EngineSettings) -> EngineSettings:
    """Copy `engine.dtype` into the section of the engine."""
    dtype, section = settings.dtype, getattr(settings, settings.kind)
    if dtype == "auto" or settings.kind == "echo":
        return settings
    possible = get_args(type(section).model_fields["dtype"].annotation)
    if dtype not in possible:
        raise StartupError(
            f"engine.dtype (--dtype) is {dtype}, but the {_NAMES[settings.kind]} engine takes "
            f"{' or '.join(name for name in possible if name != 'auto')}."
        )
    return settings.model_copy(update={settings.kind: section.model_copy(update={"dtype": dtype})})


def unused_settings(settings: EngineSettings) -> Iterator[str]:
    """Settings that differ from their defaults and belong to another engine than the chosen one."""
    for kind in _NAMES.keys() - {settings.kind}:
        section, default = getattr(settings, kind), EngineSettings.model_fields[kind].default
        for name in type(section).model_fields:
            if getattr(section, name) != getattr(default, name):
                yield f"engine.{kind}.{name}"


def check_backend(settings: EngineSettings) -> tuple[GpuMemory, ...]:
    """Refuse a machine the engine cannot run on, before anything is downloaded or loaded.

    Args:
        settings: As returned by `choose_engine`.

    Returns:
        Memory of each GPU the engine would use; empty for engines that use none.

    Raises:
        StartupError: Names what is missing and the alternative.
    """
    if settings.kind == "turbomind":
        return machine.check_machine(settings.turbomind)
    if settings.kind == "cpu" and find_spec("torch") is None:
        raise StartupError(_missing_package("torch"))
    return ()


def load_engine(settings: EngineSettings, checkpoint: Checkpoint, tokens: Vocabulary) -> Engine:
    """Make the engine the settings name; its weights are loaded by its `start`.

    Args:
        settings: As returned by `choose_engine`.
        checkpoint: The checkpoint to serve.
        tokens: The vocabulary of its tokenizer.

    Raises:
        StartupError: The packages of the engine are not installed; names the extra to install.
    """
    if settings.kind == "echo":
        from internvl_server.engine.echo.engine import EchoEngine

        return EchoEngine(
            settings.echo,
            max_num_seqs=settings.max_num_seqs,
            max_model_len=checkpoint.max_model_len,
            skip_token_ids=tokens.special_ids | {checkpoint.image_token_id},
            constrained=_constrained_answers(tokens),
        )
    if settings.kind == "turbomind":
        from internvl_server.engine.turbomind.engine import TurbomindEngine

        _set_default("OMP_WAIT_POLICY", "PASSIVE")
        # TurboMind reads this when it is imported, and otherwise logs several lines for each request.
        _set_default("TM_LOG_LEVEL", "WARNING")
        return TurbomindEngine(
            checkpoint,
            settings.turbomind,
            max_num_seqs=settings.max_num_seqs,
            max_model_len=checkpoint.max_model_len,
        )
    # OpenMP reads this when torch is imported. Threads that spin while they wait occupy the cores that
    # image decoding needs, and on a busy machine they make the model itself three times slower.
    _set_default("OMP_WAIT_POLICY", "PASSIVE")
    # oneDNN, and torch on top of it, keep a program and scratch memory for each of the last 1,024 shapes, and
    # each length of a prompt is a new shape: hundreds of megabytes.
    _set_default("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _NUM_KEPT_SHAPES)
    _set_default("LRU_CACHE_CAPACITY", _NUM_KEPT_SHAPES)
    try:
        from internvl_server.engine.cpu.engine import CpuEngine
    except ModuleNotFoundError as err:
        raise StartupError(_missing_package(err.name)) from err
    return CpuEngine(
        checkpoint,
        settings.cpu,
        tokens,
        max_num_seqs=settings.max_num_seqs,
        max_model_len=checkpoint.max_model_len,
    )


def _set_default(variable: str, value: str) -> None:
    """Set a variable that a library reads when it is imported, unless the user has set it."""
    os.environ.setdefault(variable, value)  # noqa: TID251 - written, not read


def _missing_package(name: str | None) -> str:
    return f"The CPU engine needs the package {name!r}: install internvl-server[cpu]."


def _constrained_answers(tokens: Vocabulary) -> "ConstrainedAnswers | None":
    """Guided decoding for the echo engine, or None where llguidance is not installed."""
    if tokens.token_bytes is None:
        return None
    try:
        from internvl_server.engine.echo.constrained import ConstrainedAnswers
    except ModuleNotFoundError as err:
        if err.name != "llguidance":
            raise
        return None
    return ConstrainedAnswers(tokens)
