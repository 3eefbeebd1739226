"""`internvl-server completion`: print a script by which a shell completes this command line."""

import argparse
from pathlib import Path

__all__ = ["HELP", "add_options", "run"]

HELP = "print a script with which a shell completes commands and options"

_PATHS = frozenset({"FILE", "MODEL", "PATH_OR_URL", "{Path,null}"})


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the shell."""
    parser.add_argument("SHELL", choices=("bash", "zsh", "fish"))


def run(options: argparse.Namespace) -> int:
    """Print the script. It contains every option, so that pressing Tab does not start Python."""
    import shtab

    parser: argparse.ArgumentParser = options.build_parser()
    _add_values(parser)
    print(shtab.complete(parser, options.SHELL))
    return 0


def _add_values(parser: argparse.ArgumentParser) -> None:
    """Tell shtab which values are paths, and which are one of the words that their option shows."""
    import shtab

    for action in parser._actions:  # noqa: SLF001 - argparse has no public list
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                _add_values(command)
        elif action.type is Path or action.metavar in _PATHS or action.dest in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif isinstance(action.metavar, str) and action.metavar.startswith("{"):
            action.choices = action.metavar.strip("{}").split(",")
