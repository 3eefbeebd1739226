"""Settings from the command line, the environment and a TOML file. Alone reads the last two."""

import os
from pathlib import Path
from typing import Any

from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from internvl_server.settings import ENV_PREFIX, Settings

__all__ = ["load_settings"]

# Read by the scripts, not by the server.
_OTHER_VARIABLES = frozenset({"INTERNVL_TORCH_INDEX", "INTERNVL_LMDEPLOY_ENV"})


def load_settings(config: Path | None, overrides: dict[str, Any]) -> Settings:
    """Merge command line, environment, TOML file and defaults.

    Args:
        config: TOML file with one table a section, or None.
        overrides: Nested values from the command line; they win.

    Raises:
        ValidationError: A value or key is wrong (pydantic's, lists every problem).
        ValueError: An environment variable of ours names no section.
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

    return FileSettings(**overrides)


def _check_environment() -> None:
    """Refuse names that look like settings and are none: a misspelt key must not go unnoticed."""
    sections = tuple(f"{ENV_PREFIX}{section}__".upper() for section in Settings.model_fields)
    for name in os.environ:
        is_ours = name.upper().startswith(ENV_PREFIX) and name not in _OTHER_VARIABLES
        if is_ours and not name.upper().startswith(sections):
            raise ValueError(
                f"environment: {name} names no setting; write INTERNVL_SECTION__KEY, "
                "e.g. INTERNVL_SERVER__PORT"
            )
