"""All sections in one object."""

from pydantic_settings import BaseSettings, SettingsConfigDict

from internvl_server.settings.engine import EngineSettings
from internvl_server.settings.limits import LimitSettings
from internvl_server.settings.log import LogSettings
from internvl_server.settings.media import MediaSettings
from internvl_server.settings.model import ModelSettings
from internvl_server.settings.server import ServerSettings

__all__ = ["ENV_PREFIX", "Settings"]

ENV_PREFIX = "INTERNVL_"


class Settings(BaseSettings):
    """All sections. Build it with `load_settings`, or directly in a test."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    media: MediaSettings = MediaSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
