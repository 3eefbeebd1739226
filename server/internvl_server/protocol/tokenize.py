"""The bodies and answers of `/tokenize`, `/detokenize` and `/v1/chat/completions/input_tokens`.

Names and shapes of the first two are vLLM's; OpenAI has none. A conversation is read by the chat
parser, so that it is counted as it would be answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from internvl_server.core import Conversation, ImageMeasure, Usage
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.chat.convert import to_conversation
from internvl_server.protocol.chat.request import parse_chat_fields
from internvl_server.protocol.parsing import read_object, validate
from internvl_server.protocol.wire import Wire
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

_CHAT_FIELDS = ("messages", "tools", "add_generation_prompt", "continue_final_message")


class TokenizeOptions(Wire):
    """What both forms of the request have."""

    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeRequest(TokenizeOptions):
    """Either `prompt`, or `messages` with what belongs to them; those are read as in a chat request."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class TextTokenizeRequest(TokenizeOptions):
    """The form with `prompt`."""

    prompt: str


class DetokenizeRequest(Wire):
    """Token ids, as `/tokenize` gives them."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


@dataclass(frozen=True, slots=True)
class ParsedTokenize:
    """A valid request: `text`, or else the `conversation`; and the JSON paths of what was ignored."""

    options: TokenizeOptions
    text: str
    conversation: Conversation | None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedDetokenize:
    """A valid request, and the JSON paths of what was ignored in it."""

    body: DetokenizeRequest
    ignored: tuple[str, ...] = ()


def parse_tokenize_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool = False, media: MediaSettings
) -> ParsedTokenize:
    """Read and validate a body of `/tokenize`. CPU-bound: call it off the event loop for large ones.

    Args:
        body: UTF-8 JSON.
        limits: How long lists may be.
        ignore_unknown: Leave out fields that are not known instead of refusing them.
        media: How many frames of a video are looked at.

    Raises:
        InvalidRequestError: With the JSON path of the first thing that is wrong.
        UnsupportedParameterError: For a field that is not known.
    """
    fields = read_object(body)
    conversational = {name: fields.pop(name) for name in _CHAT_FIELDS if name in fields}
    if conversational.get("messages") is None:
        _refuse_without_messages(conversational)
        request, ignored = validate(TextTokenizeRequest, fields, ignore_unknown=ignore_unknown)
        return ParsedTokenize(request, request.prompt, None, ignored)
    if fields.pop("prompt", None) is not None:
        raise InvalidRequestError("Give 'prompt' or 'messages', not both.", param="prompt")
    options, ignored = validate(TokenizeOptions, fields, ignore_unknown=ignore_unknown)
    chat = parse_chat_fields(
        conversational | {"model": options.model or ""}, limits, ignore_unknown=ignore_unknown
    )
    return ParsedTokenize(options, "", to_conversation(chat.body, media), ignored + chat.ignored)


def parse_detokenize_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool = False, max_tokens: int
) -> ParsedDetokenize:
    """Read and validate a body of `/detokenize`; as `parse_tokenize_request`.

    Args:
        body: UTF-8 JSON.
        limits: Not needed: the one list is bounded by `max_tokens`.
        ignore_unknown: Ignore unknown fields instead of refusing them.
        max_tokens: Most ids.
    """
    del limits
    fields = read_object(body)
    tokens = fields.get("tokens")
    if isinstance(tokens, list) and len(tokens) > max_tokens:
        raise InvalidRequestError(
            f"'tokens' has {len(tokens)} entries; the model's context has {max_tokens}.",
            param="tokens",
        )
    request, ignored = validate(DetokenizeRequest, fields, ignore_unknown=ignore_unknown)
    return ParsedDetokenize(request, ignored)


def _refuse_without_messages(conversational: Mapping[str, Any]) -> None:
    for name, value in conversational.items():
        if value is not None:
            raise InvalidRequestError(f"'{name}' is only allowed with 'messages'.", param=name)


def tokens_json(
    tokens: Sequence[int], token_strs: Sequence[str] | None, *, max_model_len: int
) -> dict[str, Any]:
    """The answer of `/tokenize`."""
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
) -> dict[str, Any]:
    """The answer of `/v1/chat/completions/input_tokens`."""
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
            }
            for took, image in zip(usage.images, images, strict=True)
        ],
        "max_model_len": max_model_len,
        "max_tokens": max_tokens,
        "fits": fits,
    }
