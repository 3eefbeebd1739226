"""The `log` section."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from internvl_server.settings.section import Section

__all__ = ["LogSettings"]


def _lower(level: object) -> object:
    return level.lower() if isinstance(level, str) else level


class LogSettings(Section):
    """What is logged. Prompts, images and API keys never are."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    """Least severe level that is written."""
    format: Literal["text", "json"] = "text"
    """`json` writes each event as one JSON object on a line, with the members of the access log."""
