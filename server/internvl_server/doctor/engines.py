"""The engine: which one runs, and the packages that it needs beyond those of the server."""

import importlib.metadata
from collections.abc import Iterator

from internvl_server.doctor.finding import Check, Finding, error, ok, warning
from internvl_server.doctor.installation import import_problem, package_problems, requirements
from internvl_server.doctor.subject import Subject
from internvl_server.engine.loader import unused_settings

__all__ = ["CHECKS"]


def engine(subject: Subject) -> Iterator[Finding]:
    """Which engine the settings choose."""
    if subject.problem:
        yield error(subject.problem, "Change the settings of the engine.")
        return
    yield ok(f"{subject.reason}.")
    if unused := sorted(unused_settings(subject.engine)):
        yield warning(
            f"The {subject.engine.kind} engine does not use {', '.join(unused)}.",
            "Remove them, or choose the other engine with --engine.",
        )


def engine_packages(subject: Subject) -> Iterator[Finding]:
    """Whether the packages of the engine are installed and can be imported."""
    kind = subject.engine.kind
    if subject.problem or kind == "echo":
        return
    needed = list(requirements(kind))
    problems = package_problems(needed)
    if not problems and (reason := import_problem(f"internvl_server.engine.{kind}.engine")):
        problems = [f"the engine cannot be imported: {reason}"]
    if problems:
        yield error(
            f"For the {kind} engine: {'; '.join(problems)}.",
            f"Install internvl-server[{kind}] with pip; server/docs/gpus.md has the commands for GPUs.",
        )
        return
    versions = [f"{one.name} {importlib.metadata.version(one.name)}" for one in needed]
    yield ok(f"The {kind} engine can be imported{': ' if versions else ''}{', '.join(versions)}.")


def formats(subject: Subject) -> Iterator[Finding]:
    """Whether the echo engine can write formats; the packages of the others include what they need."""
    if subject.engine.kind == "echo" and (problems := package_problems(requirements("guided"))):
        yield warning(
            f"Structured outputs are refused: {'; '.join(problems)}.",
            "Install internvl-server[guided] if clients ask for them.",
        )


def tracing(subject: Subject) -> Iterator[Finding]:
    """Whether traces can be sent, if they are to be."""
    if not subject.settings.server.tracing:
        return
    if problems := package_problems(requirements("otel")):
        yield error(
            f"server.tracing is set, but {'; '.join(problems)}.",
            "Install internvl-server[otel], or turn tracing off.",
        )
    else:
        yield ok("The packages for traces are installed.")


CHECKS: tuple[Check, ...] = (engine, engine_packages, formats, tracing)
