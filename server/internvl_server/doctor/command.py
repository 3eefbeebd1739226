"""Runs the checks, whatever fails in them, and prints what they find."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

from internvl_server.doctor.finding import Finding, error
from internvl_server.telemetry.terminal import without_controls

if TYPE_CHECKING:
    from internvl_server.settings import Settings

__all__ = ["Line", "all_checks", "diagnose", "examine"]

Line: TypeAlias = tuple[str, Finding]
"""The name of a check and what it found."""

_OF_INSTALLATION = ("installation",)
_OF_SETTINGS = ("engines", "gpus", "checkpoint", "prompts", "host", "access")
_LEFT_OUT = "The checks of engine, model and machine depend on the settings and were left out."
_INSTALL = "Install the server again with pip, in an empty virtual environment."


def diagnose(settings: "Settings | None", problem: str, *, is_json: bool) -> int:
    """Run all checks and print a line for each finding.

    Args:
        settings: All sections; None if they cannot be used.
        problem: Why they cannot be used.
        is_json: Print one JSON object in the end.

    Returns:
        The exit code: 1 if there is an error, otherwise 0.
    """
    lines = []
    for line in examine(settings, problem):
        lines.append(line)
        if not is_json:
            print(_text(line), flush=True)
    counts = Counter[str](finding.level for _, finding in lines)
    if is_json:
        print(json.dumps(_facts(lines, counts), indent=2, ensure_ascii=False))
    else:
        print(f"{counts['error']} error(s), {counts['warning']} warning(s), {counts['ok']} ok")
    return 1 if counts["error"] else 0


def examine(settings: "Settings | None", problem: str = "") -> Iterator[Line]:
    """The findings of all checks, in order. See `diagnose`."""
    with _quiet():
        for name in _OF_INSTALLATION:
            yield from _run_all(name)
        if settings is None:
            yield "settings", error(problem, _LEFT_OUT)
            return
        try:
            from internvl_server.doctor.subject import Subject

            subject = Subject.of(settings)
        except Exception as err:  # noqa: BLE001 - whatever is broken
            yield "settings", _failure(err)
            return
        for name in _OF_SETTINGS:
            yield from _run_all(name, subject)


def all_checks() -> Iterator[tuple[str, Sequence[Callable[..., Iterator[Finding]]]]]:
    """The modules of checks in order, each with its checks.

    Raises:
        ImportError: One cannot be imported.
    """
    for name in (*_OF_INSTALLATION, *_OF_SETTINGS):
        yield name, import_module(f"internvl_server.doctor.{name}").CHECKS


def _run_all(name: str, *subject: object) -> Iterator[Line]:
    """The findings of the checks in one module, which may not be importable."""
    try:
        checks = import_module(f"internvl_server.doctor.{name}").CHECKS
    except Exception as err:  # noqa: BLE001 - a package may fail in any way
        yield name, _failure(err)
        return
    for check in checks:
        yield from _run(check.__name__.replace("_", " "), partial(check, *subject))


def _run(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Line]:
    try:
        for finding in check():
            yield name, finding
    except Exception as err:  # noqa: BLE001 - the other checks must still run
        yield name, _failure(err)


def _failure(err: Exception) -> Finding:
    remedy = _INSTALL if isinstance(err, ImportError) else "Report this as a bug of the server."
    return error(f"It could not be checked: {type(err).__name__}: {err}.", remedy)


@contextmanager
def _quiet() -> Iterator[None]:
    """What the checked parts would log is said by the findings."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _text(line: Line) -> str:
    name, finding = line
    # Messages about settings have several lines, and names in a checkpoint may have anything.
    words = without_controls(f"{finding.found} {finding.remedy}").split()
    return f"{finding.level:<8} {name}: {' '.join(words)}"


def _facts(lines: Sequence[Line], counts: Counter[str]) -> dict[str, object]:
    return {
        "errors": counts["error"],
        "warnings": counts["warning"],
        "checks": [
            {"check": name, "level": one.level, "found": one.found, "remedy": one.remedy}
            for name, one in lines
        ],
    }
