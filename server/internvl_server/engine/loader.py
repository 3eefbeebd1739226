"""A backend's name to an engine; imports only the backend that is asked for."""

import os
from typing import TYPE_CHECKING

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.engine.base import Engine
from internvl_server.errors import StartupError
from internvl_server.settings import EngineSettings

if TYPE_CHECKING:
    from internvl_server.engine.echo.guides import EchoGuides

__all__ = ["check_backend", "load_engine"]


def check_backend(settings: EngineSettings) -> tuple[int, ...]:
    """Refuse a machine the engine cannot run on, before anything is downloaded or loaded.

    Returns:
        Memory in bytes of the GPUs the engine would use; nothing for engines without any.

    Raises:
        StartupError: Says what is missing and names the alternative.
    """
    if settings.kind == "turbomind":
        from internvl_server.engine.turbomind.machine import check_machine

        return check_machine(settings.turbomind.tp // settings.turbomind.nnodes)
    return ()


def load_engine(settings: EngineSettings, checkpoint: Checkpoint, tokens: Vocabulary) -> Engine:
    """Make the engine the settings name; nothing is loaded before its `start`.

    Args:
        settings: Which engine, and its section.
        checkpoint: What it serves.
        tokens: What its tokenizer makes of ids.

    Raises:
        StartupError: The backend's packages are not installed; names the extra to install.
    """
    if settings.kind == "echo":
        from internvl_server.engine.echo.engine import EchoEngine

        return EchoEngine(
            settings.echo,
            max_num_seqs=settings.max_num_seqs,
            max_model_len=checkpoint.max_model_len,
            skip_token_ids=tokens.special_ids | {checkpoint.image_token_id},
            guides=_echo_guides(tokens),
        )
    if settings.kind == "turbomind":
        from internvl_server.engine.turbomind.engine import TurbomindEngine

        return TurbomindEngine(
            checkpoint,
            settings.turbomind,
            max_num_seqs=settings.max_num_seqs,
            max_model_len=checkpoint.max_model_len,
        )
    # Read by OpenMP when torch is imported: threads that spin while they wait take the cores that
    # decoding pictures needs, and on a busy machine slow the model itself three times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # noqa: TID251 - written, not read
    try:
        from internvl_server.engine.cpu.engine import CpuEngine
    except ModuleNotFoundError as err:
        raise StartupError(
            f"The cpu engine needs the package {err.name!r}: install internvl-server[cpu]."
        ) from err
    return CpuEngine(
        checkpoint,
        settings.cpu,
        tokens,
        max_num_seqs=settings.max_num_seqs,
        max_model_len=checkpoint.max_model_len,
    )


def _echo_guides(tokens: Vocabulary) -> "EchoGuides | None":
    """What the echo engine is held to formats with; it does without where llguidance is not installed."""
    if tokens.token_bytes is None:
        return None
    try:
        from internvl_server.engine.echo.guides import EchoGuides
    except ModuleNotFoundError as err:
        if err.name != "llguidance":
            raise
        return None
    return EchoGuides(tokens)
