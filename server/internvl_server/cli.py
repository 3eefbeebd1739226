"""The command line: `serve`, `batch`, `plan` and `keys`. The only module that loads settings.

The server is imported when a command needs it, so that `--help` and wrong options are answered at once.

Exit codes: 0 done, 1 could not start or failed, 2 wrong command line or settings; for a batch that a signal
stopped, 128 plus the number of the signal.
"""

import argparse
import gc
import secrets
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from internvl_server import __version__
from internvl_server.batch.options import add_batch_options
from internvl_server.engine.turbomind.machine import check_machine
from internvl_server.errors import StartupError
from internvl_server.planner.command import add_plan_options, plan_text
from internvl_server.settings import Settings
from internvl_server.settings.keys import digest_of, parse_key
from internvl_server.settings.loading import find_config, hide_keys, load_settings
from internvl_server.settings.options import OptionsFormatter, SettingsOptions

__all__ = ["main"]

_SOCKET_SETTINGS = frozenset({"server.host", "server.port"})  # a batch opens no socket

_EPILOG = """\
Every setting may also be given in the environment (INTERNVL_SECTION__KEY, e.g. INTERNVL_SERVER__PORT=8080;
lists as JSON) or in a TOML file (--config). The command line takes precedence over the environment, the
environment over the file."""


class UsageError(Exception):
    """The command line, the settings or an input file cannot be used."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code of the process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    try:
        return _COMMANDS[options.command](options)
    except UsageError as err:
        _print_error(str(err))
        return 2
    except StartupError as err:
        _print_error(err.message)
        return 1


def _serve(options: argparse.Namespace) -> int:
    if options.MODEL is not None:
        if hasattr(options, "model.path"):
            raise UsageError("Name the model either as MODEL or with --model, not with both.")
        setattr(options, "model.path", options.MODEL)
    settings = _load(options)
    if settings.engine.kind == "turbomind":
        check_machine(
            settings.engine.turbomind
        )  # before the imports of the server, which take seconds

    # Imports make no garbage, and the collector would visit what they make again and again. `serve` enables
    # it.
    gc.disable()

    from internvl_server.serve import serve

    return serve(settings)


def _batch(options: argparse.Namespace) -> int:
    settings = _load(options)

    from internvl_server.batch.command import run_batch
    from internvl_server.batch.files import BatchError

    try:
        return run_batch(settings, options)
    except (BatchError, OSError) as err:
        raise UsageError(str(err)) from err


def _plan(options: argparse.Namespace) -> int:
    try:
        print(plan_text(options))
    except (OSError, ValueError) as err:
        raise UsageError(str(err)) from err
    return 0


def _keys(options: argparse.Namespace) -> int:
    key = f"sk-{secrets.token_urlsafe(32)}"
    line = f"{options.NAME}:sha256:{digest_of(key).hex()}"
    try:
        parse_key(line)
    except ValueError as err:
        raise UsageError(str(err)) from err
    print(f"key for the client:     {key}\nline for the keys file: {line}")
    return 0


_COMMANDS = {"serve": _serve, "batch": _batch, "plan": _plan, "keys": _keys}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="internvl-server", description="An OpenAI-compatible server for InternVL3."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser(
        "serve",
        help="serve a model over HTTP",
        usage="internvl-server serve [MODEL] [options]",
        epilog=_EPILOG,
        formatter_class=OptionsFormatter,
        allow_abbrev=False,
    )
    serving.add_argument(
        "MODEL", nargs="?", help="checkpoint folder or hub repository; the same as --model"
    )
    serving.set_defaults(settings_options=SettingsOptions(serving))
    batch = commands.add_parser(
        "batch",
        help="answer a file of requests in OpenAI's batch format, without a socket",
        usage="internvl-server batch INPUT -o OUTPUT [options]",
        epilog=_EPILOG,
        formatter_class=OptionsFormatter,
        allow_abbrev=False,
    )
    add_batch_options(batch)
    batch.set_defaults(settings_options=SettingsOptions(batch, without=_SOCKET_SETTINGS))
    add_plan_options(commands.add_parser("plan", help="print which GPUs a model fits, and how"))
    keys = commands.add_parser("keys", help="make an API key, and its line for server.keys_file")
    keys.add_argument("NAME", help="name of the client, which is shown in the log")
    return parser


def _load(options: argparse.Namespace) -> Settings:
    """Load the settings named by the options, the environment and the file.

    Raises:
        UsageError: They cannot be used; names the option or the setting.
    """
    settings_options: SettingsOptions = options.settings_options
    try:
        overrides = settings_options.overrides(options)
        config = None if options.config is None else find_config(options.config)
        settings = load_settings(config, overrides)
    except ValidationError as err:
        problems = [
            f"  {settings_options.describe(problem['loc'], options.arguments)}: {_reason(problem)}"
            for problem in err.errors(include_url=False)
        ]
        raise UsageError("\n".join(["The settings cannot be used:", *problems])) from err
    except (OSError, ValueError) as err:
        raise UsageError(str(err)) from err
    if settings.server.api_keys or settings.server.named_keys:
        hide_keys(f"internvl-server {options.command}")
    return settings


def _reason(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such setting"
    return problem["msg"].removeprefix("Value error, ")


def _print_error(message: str) -> None:
    print(f"internvl-server: {message}", file=sys.stderr)
