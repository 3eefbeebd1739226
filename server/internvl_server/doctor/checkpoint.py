"""The checkpoint: whether it is here, complete, and one that the engine computes."""

from collections.abc import Iterator

from internvl_server.checkpoint.files import Checkpoint, find_folder, load_checkpoint
from internvl_server.checkpoint.weights import inspect_weights
from internvl_server.doctor.finding import Check, Finding, error, ok, warning
from internvl_server.doctor.subject import Subject
from internvl_server.engine.cpu.model.support import check_supported
from internvl_server.errors import StartupError
from internvl_server.planner.gpus import gib
from internvl_server.planner.models import find_model, why_unserved
from internvl_server.planner.sizes import file_bytes
from internvl_server.planner.support import check_quantization, check_served, check_text_model

__all__ = ["CHECKS"]

_AGAIN = "Download the checkpoint again."


def model(subject: Subject) -> Iterator[Finding]:
    """Whether the model can be served, and is on this machine."""
    name = subject.settings.model.path
    try:
        check_served(name)
        folder = find_folder(subject.settings.model)
    except StartupError as err:
        yield error(err.message, "`internvl-server models` lists those that can be served.")
        return
    if folder is not None:
        yield ok(f"{folder}")
        return
    known = find_model(name)
    size = f"about {gib(file_bytes(known))} are" if known else "it is"
    yield warning(
        f"{name} is not on this machine: {size} downloaded when the server starts.",
        f"`internvl-server download {name}` fetches it beforehand.",
    )


def configuration(subject: Subject) -> Iterator[Finding]:
    """Whether the small files of the checkpoint can be read."""
    if subject.folder is None:
        return
    if (checkpoint := subject.checkpoint) is None:
        try:
            load_checkpoint(subject.settings.model.model_copy(update={"path": str(subject.folder)}))
        except StartupError as err:
            yield error(err.message, f"{_AGAIN} Files that Git LFS left as pointers do not count.")
        return
    config = checkpoint.config
    yield ok(
        f"{config.layout} layout, {config.text.family}, {config.quantization.bits}-bit weights, a context of "
        f"{checkpoint.max_model_len:,} tokens."
    )


def weights(subject: Subject) -> Iterator[Finding]:
    """Whether all weight files are there, and whole."""
    if subject.folder is None:
        return
    files = inspect_weights(subject.folder)
    if files.problems:
        yield error(f"{'; '.join(files.problems)}.", _AGAIN)
    else:
        yield ok(
            f"{files.num_files} file(s) of weights, {gib(files.num_bytes)}, all of them whole."
        )


def support(subject: Subject) -> Iterator[Finding]:
    """Whether the engine computes this architecture."""
    kind, checkpoint = subject.engine.kind, subject.checkpoint
    if checkpoint is None or kind == "echo":
        return
    try:
        if kind == "cpu":
            check_supported(checkpoint.config, max_model_len=checkpoint.max_model_len)
        else:
            _check_turbomind(checkpoint)
    except StartupError as err:
        yield error(err.message, "`internvl-server models` lists what each engine serves.")
    else:
        yield ok(f"The {kind} engine computes this architecture.")


def _check_turbomind(checkpoint: Checkpoint) -> None:
    """The checks of the engine that need no LMDeploy.

    Raises:
        StartupError: One fails.
    """
    check_text_model(checkpoint.config)
    check_quantization(checkpoint.config)
    if checkpoint.needs_code:
        raise StartupError(
            why_unserved(checkpoint.config.name)
            or "The checkpoint's tokenizer exists only as Python code, which this server never runs."
        )


CHECKS: tuple[Check, ...] = (model, configuration, weights, support)
