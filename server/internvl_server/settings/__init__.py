"""Every setting, with its unit and effect.

Order: command line > environment (`INTERNVL_MEDIA__MAX_IMAGE_BYTES`) > TOML file > default. An unknown
key is an error. Loaded once, in `cli.py`; every object gets the section it needs.
"""

from internvl_server.settings.engine import (
    CpuSettings,
    EchoSettings,
    EngineSettings,
    TurbomindSettings,
)
from internvl_server.settings.limits import LimitSettings
from internvl_server.settings.log import LogSettings
from internvl_server.settings.media import MediaSettings
from internvl_server.settings.model import DEMO_MODEL, ModelSettings
from internvl_server.settings.root import ENV_PREFIX, Settings
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
    "ServerSettings",
    "Settings",
    "TurbomindSettings",
]
