"""Checks Python and the installed packages against the requirements of the server."""

import importlib.metadata
import platform
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from internvl_server.doctor.finding import Finding, InstallationCheck, error, ok, warning

__all__ = ["CHECKS", "import_problem", "package_problems", "requirements"]

_NAME = "internvl-server"
_IMPORT_S = 180.0
_AGAIN = "Install the server again with pip, in an empty virtual environment."


def python() -> Iterator[Finding]:
    """The version of Python."""
    version = platform.python_version()
    try:
        wanted = importlib.metadata.metadata(_NAME)["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        yield warning(
            f"Python {version}. The server is not installed, and runs from its sources: versions cannot be "
            "checked.",
            "Install it with pip.",
        )
        return
    if SpecifierSet(wanted).contains(version, prereleases=True):
        yield ok(f"Python {version}.")
    else:
        yield error(
            f"Python {version}; the server needs {wanted}.", "Install it with another Python."
        )


def system() -> Iterator[Finding]:
    """The operating system."""
    name = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if sys.platform == "linux":
        yield ok(f"{name}.")
    else:
        yield warning(f"{name}; the server is tested on Linux.", "Use Linux in production.")


def packages() -> Iterator[Finding]:
    """The versions of the packages that every engine needs."""
    needed = list(requirements())
    if not needed:  # it is not installed
        return
    if problems := package_problems(needed):
        yield error(f"{'; '.join(problems)}.", _AGAIN)
    else:
        yield ok(f"{len(needed)} packages in versions that suit.")


def imports() -> Iterator[Finding]:
    """Whether these packages can be imported, in a process that may die of it."""
    if problem := import_problem("internvl_server.serve"):
        yield error(f"The server cannot be imported: {problem}.", _AGAIN)
    else:
        yield ok("The server and its packages can be imported.")


def requirements(extra: str = "") -> Iterator[Requirement]:
    """What the server needs on this platform: without extras, or in addition for one extra.

    Nothing if it is not installed, as in a folder of sources.
    """
    for line in _requirement_lines():
        requirement = Requirement(line)
        is_basic, is_wanted = (_applies(requirement, name) for name in ("", extra))
        if not is_wanted or (extra and is_basic):
            continue
        if requirement.name == _NAME:
            for other in requirement.extras:
                yield from requirements(other)
        else:
            yield requirement


def _requirement_lines() -> list[str]:
    try:
        return importlib.metadata.requires(_NAME) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def package_problems(needed: Iterable[Requirement]) -> list[str]:
    """A clause for each package that is missing or has another version."""
    found = []
    for requirement in needed:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} is {version}, and {requirement.specifier} is needed")
    return found


def import_problem(module: str) -> str:
    """Why another process cannot import a module, as a clause; empty if it can."""
    command = [sys.executable, "-P", "-c", f"import {module}"]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_IMPORT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it takes more than {_IMPORT_S:.0f} s"
    if done.returncode < 0:
        return f"the process was ended by {signal.Signals(-done.returncode).name}"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1].removesuffix(".")


CHECKS: tuple[InstallationCheck, ...] = (python, system, packages, imports)
