"""What a client gets: text, log probabilities, tool calls and counts; and how much of it."""

from dataclasses import dataclass

from internvl_server.core.conversation import NO_TOOLS, ToolChoice
from internvl_server.core.generation import FinishReason

__all__ = [
    "AnswerParams",
    "ImageUsage",
    "LogprobToken",
    "TextDelta",
    "TextLogprobs",
    "ToolCallDelta",
    "Usage",
]


@dataclass(frozen=True, slots=True)
class AnswerParams:
    """How many answers there are, where they end, and what of their tokens is shown.

    `stop_token_ids` end an answer as well as the model's own, which with `ignore_eos` do not.
    With `include_stop` the stop string, or the stop token's text, that ended it is part of it.
    `tool_names` are those of all tools the model was told of.
    """

    num_choices: int = 1
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    include_stop: bool = False
    tool_choice: ToolChoice = NO_TOOLS
    tool_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """What one image, or one frame, took of the prompt."""

    num_tiles: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request. Image tokens and cached tokens are part of the prompt's."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_image_tokens: int = 0
    num_cached_tokens: int = 0
    images: tuple[ImageUsage, ...] = ()


@dataclass(frozen=True, slots=True)
class LogprobToken:
    """A token as the client sees it: text, bytes (maybe part of a character), natural log probability."""

    text: str
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TextLogprobs:
    """A chosen token and the likeliest at its place, likeliest first; the chosen one is among them."""

    token: LogprobToken
    top: tuple[LogprobToken, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: `id` and `name` come with its first piece, `arguments` is appended."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that is certain: whole characters, no part of a stop string or of a tool call.

    `finish_reason` and `usage` are set on the last delta of a choice only. `logprobs`, when asked for,
    are of the tokens that ended since the last delta. `index` numbers the choices of a request.
    """

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[TextLogprobs, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    index: int = 0
