"""The settings of the log."""

from typing import Literal

from internvl_server.settings.section import Section

__all__ = ["LogSettings"]


class LogSettings(Section):
    """What is logged. Prompts, images and keys never are."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""
