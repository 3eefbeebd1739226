"""The command line: `serve` and its sister commands. The only place that loads settings.

Exit codes: 0 done, 1 could not start or failed, 2 wrong command line or settings; a batch that was stopped
by a signal: 128 and its number.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from internvl_server import __version__
from internvl_server.api.errors_table import errors_table
from internvl_server.batch.command import add_batch_options, run_batch
from internvl_server.batch.lines import BatchError
from internvl_server.errors import StartupError
from internvl_server.fields_table import fields_table
from internvl_server.planner.command import add_plan_options, plan_text
from internvl_server.serve import serve
from internvl_server.settings import Settings
from internvl_server.settings.loading import load_settings
from internvl_server.settings.table import settings_table

__all__ = ["main"]

# Short options of `serve` and the settings they stand for.
_SHORTHANDS = {
    "host": "server.host",
    "port": "server.port",
    "model": "model.path",
    "engine": "engine.kind",
}

_TABLES = {"settings": settings_table, "fields": fields_table, "errors": errors_table}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code."""
    options = _parser().parse_args(arguments)
    if options.command in _TABLES:
        print(_TABLES[options.command]())  # noqa: T201  (its purpose)
        return 0
    try:
        return _COMMANDS[options.command](options)
    except StartupError as err:
        _complain(err.message)
        return 1


def _plan(options: argparse.Namespace) -> int:
    try:
        print(plan_text(options))  # noqa: T201  (its purpose)
    except (OSError, ValueError) as err:
        _complain(str(err))
        return 2
    return 0


def _serve(options: argparse.Namespace) -> int:
    try:
        settings = _load(options)
    except (ValidationError, SettingsError, OSError, ValueError) as err:
        _complain(_explain(err))
        return 2
    return serve(settings)


def _batch(options: argparse.Namespace) -> int:
    try:
        settings = _load(options)
    except (ValidationError, SettingsError, OSError, ValueError) as err:
        _complain(_explain(err))
        return 2
    try:
        return run_batch(settings, options)
    except (BatchError, OSError) as err:
        _complain(str(err))
        return 2


_COMMANDS = {"plan": _plan, "serve": _serve, "batch": _batch}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="internvl-server", description="Serve InternVL3.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("serve", help="serve a model over HTTP")
    _add_settings_options(run)
    run.add_argument("--host", help="address to listen on (server.host)")
    run.add_argument("--port", help="TCP port, 0 for a free one (server.port)")
    batch = commands.add_parser(
        "batch", help="answer a file of requests (OpenAI's batch format) without a socket"
    )
    add_batch_options(batch)
    _add_settings_options(batch)
    commands.add_parser("settings", help="print every setting with its default and effect")
    commands.add_parser("errors", help="print every error: status, type, code, whether to retry")
    commands.add_parser("fields", help="print every field of a chat request, and who honours it")
    add_plan_options(commands.add_parser("plan", help="print which GPUs a model fits, and how"))
    return parser


def _add_settings_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="TOML file with settings")
    parser.add_argument("--model", help="checkpoint folder or hub name (model.path)")
    parser.add_argument("--engine", help="cpu, turbomind or echo (engine.kind)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="any setting, e.g. --set media.max_images=4; may be repeated",
    )


def _load(options: argparse.Namespace) -> Settings:
    overrides: dict[str, Any] = {}
    for option, key in _SHORTHANDS.items():
        value = getattr(options, option, None)
        if value is not None:
            _put(overrides, key, value)
    for assignment in options.set:
        key, equals, value = assignment.partition("=")
        if not equals or "." not in key:
            raise ValueError(f"--set {assignment!r}: write SECTION.KEY=VALUE")
        _put(overrides, key, value)
    if options.config is not None and not options.config.is_file():
        raise ValueError(f"--config: there is no file {options.config}")
    return load_settings(options.config, overrides)


def _put(overrides: dict[str, Any], key: str, value: str) -> None:
    *sections, name = key.split(".")
    table = overrides
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ValueError(f"--set {key}: {section} is a setting, not a section")  # noqa: TRY004
    # Lists are written as JSON, as in the environment.
    table[name] = json.loads(value) if value.startswith("[") else value


def _explain(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    lines = [
        f"  {'.'.join(str(step) for step in problem['loc'])}: {problem['msg']}"
        for problem in error.errors(include_url=False)
    ]
    return "Settings cannot be used:\n" + "\n".join(lines)


def _complain(message: str) -> None:
    print(f"internvl-server: {message}", file=sys.stderr)  # noqa: T201  (its purpose)
