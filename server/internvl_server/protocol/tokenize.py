"""The bodies and answers of `/tokenize`, `/detokenize` and `/v1/chat/completions/input_tokens`.

The names and shapes of the first two are vLLM's; OpenAI has no such endpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from internvl_server.core import Conversation, ImageMeasure, Usage
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.chat.convert import to_conversation
from internvl_server.protocol.chat.messages import ConversationFields, prepare_messages
from internvl_server.protocol.fields import FieldTable, Foreign, known_fields
from internvl_server.protocol.fields.foreign import CHAT_CONVERSATION
from internvl_server.protocol.limits import check_length, check_lists
from internvl_server.protocol.parsing import read_object, validate
from internvl_server.protocol.thinking import with_thinking
from internvl_server.protocol.tools import to_tools
from internvl_server.protocol.wire import MaxTiles, Wire
from internvl_server.settings import LimitSettings, MediaSettings

__all__ = [
    "DetokenizeRequest",
    "ParsedDetokenize",
    "ParsedTokenize",
    "TokenizeRequest",
    "input_tokens_json",
    "parse_detokenize_request",
    "parse_tokenize_request",
    "tokens_json",
]

_MAX_IGNORED_SHOWN = 1000


class TokenizeOptions(Wire):
    """The fields of both forms of the request."""

    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeRequest(TokenizeOptions):
    """Either `prompt`, or `messages` with the fields that belong to them, as in a chat request."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    max_tiles: MaxTiles | None = None
    num_frames: int | None = None
    enable_thinking: Any = None
    reasoning: Any = None
    reasoning_effort: Any = None
    thinking: Any = None


class TextTokenizeRequest(TokenizeOptions):
    """The form with `prompt`."""

    prompt: str


class ChatTokenizeRequest(ConversationFields, TokenizeOptions):
    """The form with `messages`."""


class DetokenizeRequest(Wire):
    """Token ids, as `/tokenize` returns them."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


TOKENIZE_FIELDS = FieldTable(
    api="tokenize",
    model=TokenizeRequest,
    bookkeeping=frozenset(),
    refused={},
    foreign={
        **CHAT_CONVERSATION,
        "add_special": Foreign("add_special_tokens"),
        "content": Foreign("prompt"),
        "with_pieces": Foreign(instead="Use 'return_token_strs'."),
    },
)
DETOKENIZE_FIELDS = FieldTable(
    api="detokenize", model=DetokenizeRequest, bookkeeping=frozenset(), refused={}
)


@dataclass(frozen=True, slots=True)
class ParsedTokenize:
    """A valid request: a `text` or a `conversation`, and the JSON paths that were ignored."""

    options: TokenizeOptions
    text: str
    conversation: Conversation | None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedDetokenize:
    """A valid request, and the JSON paths that were ignored in it."""

    body: DetokenizeRequest
    ignored: tuple[str, ...] = ()


def parse_tokenize_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool = False, media: MediaSettings
) -> ParsedTokenize:
    """Parse and validate a body of `/tokenize`. CPU-bound: large bodies belong in a thread.

    Args:
        body: UTF-8 JSON.
        limits: How long lists may be.
        ignore_unknown: Ignore unknown fields and list them instead of refusing them.
        media: How many frames of a video are used, by default and at most.

    Raises:
        InvalidRequestError: With the JSON path of the first thing that is wrong.
        UnsupportedParameterError: For an unknown field.
    """
    fields, unknown = known_fields(
        read_object(body), TOKENIZE_FIELDS, ignore_unknown=ignore_unknown
    )
    if fields.get("messages") is None:
        return _parse_text(fields, unknown, ignore_unknown=ignore_unknown)
    if fields.pop("prompt", None) is not None:
        raise InvalidRequestError("Give 'prompt' or 'messages', not both.", param="prompt")
    check_lists(fields, limits)
    prepare_messages(fields, limits)
    request, ignored = validate(ChatTokenizeRequest, fields, ignore_unknown=ignore_unknown)
    tools = to_tools([t.function for t in request.tools or ()], "tools[{}].function.name")
    conversation = with_thinking(to_conversation(request, tools, media), request, None)
    return ParsedTokenize(request, "", conversation, unknown + ignored)


def _parse_text(
    fields: dict[str, Any], unknown: tuple[str, ...], *, ignore_unknown: bool
) -> ParsedTokenize:
    for name in ConversationFields.model_fields:
        if fields.pop(name, None) is not None:
            raise InvalidRequestError(f"'{name}' is only allowed with 'messages'.", param=name)
    request, ignored = validate(TextTokenizeRequest, fields, ignore_unknown=ignore_unknown)
    return ParsedTokenize(request, request.prompt, None, unknown + ignored)


def parse_detokenize_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool = False, max_tokens: int
) -> ParsedDetokenize:
    """Parse and validate a body of `/detokenize`; raises as `parse_tokenize_request`.

    Args:
        body: UTF-8 JSON.
        limits: Not used: `max_tokens` bounds the only list.
        ignore_unknown: Ignore unknown fields and list them instead of refusing them.
        max_tokens: Most ids.
    """
    del limits
    fields, unknown = known_fields(
        read_object(body), DETOKENIZE_FIELDS, ignore_unknown=ignore_unknown
    )
    check_length(fields.get("tokens"), "tokens", max_tokens, "the model's context")
    request, ignored = validate(DetokenizeRequest, fields, ignore_unknown=ignore_unknown)
    return ParsedDetokenize(request, unknown + ignored)


def tokens_json(
    tokens: Sequence[int], token_strs: Sequence[str] | None, *, max_model_len: int
) -> dict[str, Any]:
    """The answer of `/tokenize`.

    Args:
        tokens: The ids.
        token_strs: The text of each; None if it was not asked for.
        max_model_len: The model's context in tokens.
    """
    return {
        "count": len(tokens),
        "max_model_len": max_model_len,
        "tokens": tokens,
        "token_strs": token_strs,
    }


def input_tokens_json(
    usage: Usage,
    images: Sequence[ImageMeasure],
    *,
    max_model_len: int,
    max_tokens: int,
    fits: bool,
    ignored: Sequence[str],
) -> dict[str, Any]:
    """The answer of `/v1/chat/completions/input_tokens`.

    Args:
        usage: Token counts of the prompt.
        images: The sizes of its images.
        max_model_len: The model's context in tokens.
        max_tokens: Most tokens of an answer.
        fits: Whether prompt and answer fit the context.
        ignored: JSON paths of fields that were accepted without effect; the answer has at most 1000 of them.
    """
    return {
        "object": "chat.completion.input_tokens",
        "input_tokens": usage.num_prompt_tokens,
        "text_tokens": usage.num_prompt_tokens - usage.num_image_tokens,
        "image_tokens": usage.num_image_tokens,
        "images": [
            {
                "tiles": took.num_tiles,
                "tokens": took.num_tokens,
                "width": image.size[0],
                "height": image.size[1],
                "grid": list(image.grid),
            }
            for took, image in zip(usage.images, images, strict=True)
        ],
        "max_model_len": max_model_len,
        "max_tokens": max_tokens,
        "fits": fits,
        "ignored_fields": ignored[:_MAX_IGNORED_SHOWN],
    }
