"""The answer to a request: text, log probabilities, tool calls and token counts."""

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
    """How many answers there are, where they end and which parts of them are visible.

    `stop_token_ids` end an answer in addition to the model's own stop tokens, which `ignore_eos` disables.
    With `include_stop` the answer includes the stop string, or the text of the stop token, that ended it.
    `tool_names` are the names of the tools listed in the prompt. By default special tokens are left out, but
    not content markers such as `<ref>`; `skip_special_tokens` leaves out both or neither. With `is_checked`
    finished JSON is compared with its schema, because the engine does not enforce all of it.
    `splits_reasoning` separates the reasoning before an answer from its text, which otherwise has both, and
    `shows_reasoning` shows it.
    """

    num_choices: int = 1
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    skip_special_tokens: bool | None = None
    include_stop: bool = False
    tool_choice: ToolChoice = NO_TOOLS
    tool_names: tuple[str, ...] = ()
    is_checked: bool = False
    splits_reasoning: bool = True
    shows_reasoning: bool = True


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """The size of one image or frame in the prompt."""

    num_tiles: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request.

    Image tokens and cached tokens are part of the prompt tokens, and reasoning tokens, which include the
    tags around the reasoning, are part of the completion tokens.
    """

    num_prompt_tokens: int
    num_completion_tokens: int
    num_image_tokens: int = 0
    num_cached_tokens: int = 0
    images: tuple[ImageUsage, ...] = ()
    num_reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LogprobToken:
    """A token in an answer: text, bytes (possibly part of a character), natural log probability."""

    text: str
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TextLogprobs:
    """A chosen token and the most likely ones at its position, in descending order, itself included.

    `is_reasoning` says that it belongs to the reasoning before the answer's text. `offset` is the number of
    characters of that text before the token's; a special token that is left out adds none.
    """

    token: LogprobToken
    top: tuple[LogprobToken, ...] = ()
    is_reasoning: bool = False
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call. Its first piece has `id` and `name`; `arguments` are concatenated."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of an answer: whole characters, without parts of stop strings or tool calls.

    `finish_reason` and `usage` are set only on the last delta of a choice, and so is `stop_string`, the stop
    string that ended it. `logprobs`, when requested, belong to the tokens that ended since the last delta.
    `index` is the number of the choice. `reasoning` is new text of the reasoning that comes before `text`.

    On the last delta, `refusal` says why the answer is not presented: it violates the schema of a strict
    format or tool. `violation` says how an answer violates a schema that is not strict.
    """

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[TextLogprobs, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    index: int = 0
    stop_string: str | None = None
    refusal: str = ""
    violation: str = ""
    reasoning: str = ""
