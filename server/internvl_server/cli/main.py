"""The table of commands: parses the command line, runs one command, and turns its errors into exit codes.

Exit codes: 0 done, 1 could not start or failed, 2 wrong command line or settings; for a command that a signal
stopped, 128 plus the number of the signal.
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NoReturn, Protocol

from internvl_server import __version__
from internvl_server.cli.commands import (
    batch,
    bench,
    chat,
    completion,
    doctor,
    download,
    keys,
    models,
    plan,
    serve,
)
from internvl_server.cli.settings import UsageError
from internvl_server.cli.streams import drop_unread_output, open_closed_streams
from internvl_server.errors import StartupError
from internvl_server.telemetry.terminal import without_controls

__all__ = ["COMMANDS", "Command", "build_parser", "run_command"]


class Command(Protocol):
    """A command: one module of `cli/commands/`.

    What it imports at its top must be small, so that `--help` and wrong options are answered at once; the
    rest is imported in `run`.
    """

    HELP: str
    """The line of the command in `internvl-server --help`."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options of the command."""

    def run(self, options: argparse.Namespace) -> int:
        """Run the command and return the exit code.

        Args:
            options: Those of `add_options`, the command line itself as `arguments`, and as `build_parser` the
                function that makes the parser of all commands.

        Raises:
            UsageError: The options or an input file cannot be used. Exit code 2.
            StartupError: The command cannot do its work. Exit code 1.
        """


COMMANDS: Mapping[str, Command] = {
    "serve": serve,
    "batch": batch,
    "models": models,
    "download": download,
    "plan": plan,
    "doctor": doctor,
    "bench": bench,
    "chat": chat,
    "keys": keys,
    "completion": completion,
}


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code of the process."""
    open_closed_streams()
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except UsageError as err:
        _print_error(str(err))
        return 2
    except StartupError as err:
        _print_error(err.message)
        return 1


def _run(arguments: Sequence[str]) -> int:
    try:
        options = _parse(arguments)
        code = COMMANDS[options.command].run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        if drop_unread_output():
            return 128 + signal.SIGPIPE
        raise
    return code


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    named = next((word for word in arguments if not word.startswith("-")), None)
    options, unknown = build_parser(named).parse_known_args(arguments)
    if unknown:
        _refuse(unknown, options.command_parser)
    options.arguments, options.build_parser = arguments, build_parser
    return options


def build_parser(named: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Args:
        named: The only command whose options are declared, which saves time; None: those of all.
    """
    parser = argparse.ArgumentParser(
        prog="internvl-server", description="An OpenAI-compatible server for InternVL3."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parsers = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command_parser = parsers.add_parser(name, help=command.HELP)
        command_parser.set_defaults(command_parser=command_parser)
        if named in (name, None):
            command.add_options(command_parser)
    return parser


def _refuse(unknown: Sequence[str], parser: argparse.ArgumentParser) -> NoReturn:
    """Exit with the usage of the command, and the option that was meant, if one is alike."""
    known = parser._option_string_actions  # noqa: SLF001  (argparse has no public list)
    name = unknown[0].partition("=")[0]
    alike = get_close_matches(name, known, n=1) if name.startswith("--") else ()
    hint = f"; did you mean {alike[0]}?" if alike else ""
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def _print_error(message: str) -> None:
    print(f"internvl-server: {without_controls(message)}", file=sys.stderr)
