"""The limits of one request and of all requests together."""

from typing import Annotated

from pydantic import Field

from internvl_server.settings.section import PositiveFloat, PositiveInt, Section

__all__ = ["LimitSettings"]


class LimitSettings(Section):
    """What one request, and all of them together, may ask for."""

    max_body_bytes: PositiveInt = 32 << 20
    """Largest request body."""
    body_timeout_s: PositiveFloat = 30.0
    """Seconds a client may take to send its body."""
    max_in_flight: PositiveInt = 128
    """Requests accepted at the same time, waiting ones included; more get 429 at once."""
    max_tiles_in_flight: PositiveInt = 1024
    """Tiles of all requests in flight, counted for each choice, 2.4 MB of memory each; more get 429."""
    max_messages: PositiveInt = 256
    """Most messages of one conversation."""
    max_parts: PositiveInt = 64
    """Most content parts of one message."""
    max_tools: PositiveInt = 128
    """Most tools of one request, and most tool calls of one message."""
    max_choices: Annotated[int, Field(gt=0, le=128)] = 16
    """Most answers of one request (`n`)."""
    max_prompts: PositiveInt = 64
    """Most prompts, times `n` if there are several, of one request of `/v1/completions`."""
    default_max_tokens: PositiveInt = 1024
    """Most tokens of an answer whose request names no limit."""
