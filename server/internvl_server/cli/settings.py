"""Settings of a command: their options, and their values from options, environment and file."""

import argparse
from typing import Self

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from internvl_server.settings import Settings
from internvl_server.settings.loading import find_config, hide_keys, load_settings
from internvl_server.settings.options import OptionsFormatter, SettingsOptions

__all__ = ["UsageError", "add_model", "add_settings", "load"]

_EPILOG = """\
Every setting may also be given in the environment (INTERNVL_SECTION__KEY, e.g. INTERNVL_SERVER__PORT=8080;
lists as JSON) or in a TOML file (--config). The command line takes precedence over the environment, the
environment over the file."""


class UsageError(Exception):
    """The command line, the settings or an input file cannot be used."""

    @classmethod
    def of(cls, error: Exception) -> Self:
        """The same about a file as the system says it, without its number."""
        if isinstance(error, OSError) and error.filename is not None:
            return cls(f"{error.filename}: {error.strerror}")
        return cls(str(error))


def add_settings(parser: argparse.ArgumentParser, without: frozenset[str] = frozenset()) -> None:
    """Declare an option for each setting, and what `load` needs.

    Args:
        parser: That of the command.
        without: Settings that have no effect on the command.
    """
    parser.epilog = _EPILOG
    parser.formatter_class = OptionsFormatter
    parser.allow_abbrev = False
    parser.set_defaults(settings_options=SettingsOptions(parser, without))


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL, which `load` takes as another way to write --model."""
    parser.add_argument(
        "MODEL", nargs="?", help="checkpoint folder or hub repository; the same as --model"
    )


def load(options: argparse.Namespace) -> Settings:
    """Load the settings named by the options, the environment and the file.

    Raises:
        UsageError: They cannot be used; names the option or the setting.
    """
    if getattr(options, "MODEL", None) is not None:
        if hasattr(options, "model.path"):
            raise UsageError("Name the model either as MODEL or with --model, not with both.")
        setattr(options, "model.path", options.MODEL)
    settings_options: SettingsOptions = options.settings_options
    try:
        overrides = settings_options.overrides(options)
        config = None if options.config is None else find_config(options.config)
        settings = load_settings(config, overrides)
    except ValidationError as err:
        problems = [
            f"  {settings_options.describe(problem['loc'], options.arguments)}: "
            f"{_reason(problem, settings_options)}"
            for problem in err.errors(include_url=False)
        ]
        raise UsageError("\n".join(["The settings cannot be used:", *problems])) from err
    except (OSError, ValueError) as err:
        raise UsageError.of(err) from err
    if settings.server.api_keys or settings.server.named_keys:
        hide_keys(f"internvl-server {options.command}")
    return settings


def _reason(problem: ErrorDetails, options: SettingsOptions) -> str:
    if problem["type"] == "extra_forbidden":
        meant = options.alike(".".join(map(str, problem["loc"])))
        return f"there is no such setting{f'; did you mean {meant}?' if meant else ''}"
    return problem["msg"].removeprefix("Value error, ")
