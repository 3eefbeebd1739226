"""Every setting, with its unit and effect.

Precedence: command line, environment (`INTERNVL_MEDIA__MAX_IMAGE_BYTES`), TOML file, default. An unknown
key is an error. `cli/` loads the settings once; every object receives the section it needs.
"""

from pydantic_settings import BaseSettings, SettingsConfigDict

from internvl_server.settings.engine import (
    CpuSettings,
    EchoSettings,
    EngineSettings,
    TurbomindSettings,
)
from internvl_server.settings.limits import LimitSettings
from internvl_server.settings.log import LogSettings
from internvl_server.settings.media import MediaSettings
from internvl_server.settings.model import DEMO_MODEL, ModelSettings, SamplingDefaults
from internvl_server.settings.server import ServerSettings

__all__ = [
    "DEMO_MODEL",
    "ENV_PREFIX",
    "CpuSettings",
    "EchoSettings",
    "EngineSettings",
    "LimitSettings",
    "LogSettings",
    "MediaSettings",
    "ModelSettings",
    "SamplingDefaults",
    "ServerSettings",
    "Settings",
    "TurbomindSettings",
]

ENV_PREFIX = "INTERNVL_"


class Settings(BaseSettings):
    """All sections. Build it with `load_settings`, or directly in a test."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # it may be a key
        use_attribute_docstrings=True,
    )

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    media: MediaSettings = MediaSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
