"""Loads settings. The only module that reads the environment and configuration files."""

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsError,
    TomlConfigSettingsSource,
)
from setproctitle import setproctitle

from internvl_server.errors import StartupError
from internvl_server.settings import ENV_PREFIX, Settings

__all__ = ["client_api_key", "find_config", "hide_keys", "load_settings"]

# Read by the scripts, not by the server.
_OTHER_VARIABLES = frozenset({"INTERNVL_TORCH_INDEX", "INTERNVL_LMDEPLOY_ENV"})

# In a checkout this is a link to the folder at the top.
_CONFIGS = Path(__file__).parents[1] / "configs"


def find_config(name: str) -> Path:
    """Find a configuration file by its path, or by the bare name of one of those shipped.

    Raises:
        ValueError: There is no such file; lists the names of those shipped.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in _CONFIGS.glob("*.toml")}
    if name not in shipped:
        raise ValueError(
            f"--config: there is no file {name}. Shipped with this server are the configurations "
            f"{', '.join(sorted(shipped))}."
        )
    return shipped[name]


def load_settings(config: Path | None, overrides: dict[str, Any]) -> Settings:
    """Merge command line, environment, TOML file and defaults.

    Args:
        config: TOML file with one table per section, or None.
        overrides: Nested values from the command line. They take precedence over all other sources.

    Raises:
        ValidationError: A value or key is wrong (raised by pydantic; lists every problem).
        ValueError: An environment variable with the prefix of this server is misspelt or is not JSON, or
            the file is not TOML.
        OSError: The file cannot be read.
    """
    _check_environment()

    class FileSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            toml = TomlConfigSettingsSource(settings_cls, toml_file=config)
            return init_settings, env_settings, toml

    try:
        return FileSettings(**overrides)
    except SettingsError as err:
        raise ValueError(
            f"environment: {err}. Write lists as JSON, e.g. INTERNVL_SERVER__API_KEYS='[\"key\"]'."
        ) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ValueError(f"{config} is not TOML: {err}") from err


def client_api_key(given: str | None) -> str | None:
    """The key that a command sends to a server: the one given, or that of OpenAI's clients, stripped.

    Raises:
        StartupError: No header can contain it.
    """
    key = (given or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise StartupError("The API key has a character that is not printable ASCII.")
    return key or None


def hide_keys(title: str) -> None:
    """Remove keys from the environment, and from what the system shows of it and of the command line.

    Args:
        title: What the system shows as the command line from now on.
    """
    # Overwrites the memory of both, as far as the variables that are still there reach.
    setproctitle(title)
    names = tuple(f"{ENV_PREFIX}SERVER__{key}".upper() for key in ("API_KEYS", "NAMED_KEYS"))
    for variable in [name for name in os.environ if name.upper().startswith(names)]:
        del os.environ[variable]


def _check_environment() -> None:
    """Refuse variables that look like settings but are not: a misspelt key must not go unnoticed."""
    sections = tuple(f"{ENV_PREFIX}{section}__".upper() for section in Settings.model_fields)
    for name in os.environ:
        has_prefix = name.upper().startswith(ENV_PREFIX) and name not in _OTHER_VARIABLES
        if has_prefix and not name.upper().startswith(sections):
            raise ValueError(
                f"environment: {name} is not a setting; write INTERNVL_SECTION__KEY, "
                "e.g. INTERNVL_SERVER__PORT"
            )
