"""Wire to core: a validated request body to a `Conversation` and `SamplingParams`."""

import re
from collections.abc import Iterator

from server.core import (
    Conversation,
    Detail,
    ImageReference,
    Message,
    Role,
    SamplingParams,
    TextPart,
)
from server.errors import InvalidRequestError
from server.protocol.chat import ChatCompletionRequest, ChatMessage, ImagePart
from server.settings import LimitSettings

__all__ = ["to_conversation", "to_sampling_params"]

_MAX_STOPS = 4
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_conversation(body: ChatCompletionRequest, limits: LimitSettings) -> Conversation:
    """The messages in our words; `developer` becomes `system`.

    Raises:
        InvalidRequestError: More messages or parts than the limits allow, or a lone surrogate.
    """
    if len(body.messages) > limits.max_messages:
        raise InvalidRequestError(
            f"The conversation has {len(body.messages)} messages; "
            f"the limit is {limits.max_messages} (limits.max_messages).",
            param="messages",
        )
    return Conversation(
        tuple(
            _message(message, f"messages[{index}]", limits)
            for index, message in enumerate(body.messages)
        )
    )


def to_sampling_params(body: ChatCompletionRequest) -> SamplingParams:
    """The sampling fields, with OpenAI's defaults for those left out.

    Raises:
        InvalidRequestError: Fields contradict each other, or `stop` is not usable.
    """
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    top_k = body.top_k or 0
    return SamplingParams(
        max_tokens=_max_tokens(body),
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=max(top_k, 0),
        min_p=_or(body.min_p, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        seed=body.seed,
        stop=_stops(body),
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _max_tokens(body: ChatCompletionRequest) -> int | None:
    """The newer name wins; both with different values contradict each other."""
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequestError(
            "'max_tokens' and 'max_completion_tokens' differ. Give one of them.", param="max_tokens"
        )
    return old if new is None else new


def _stops(body: ChatCompletionRequest) -> tuple[str, ...]:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > _MAX_STOPS:
        raise InvalidRequestError(
            f"'stop' has {len(stops)} strings; at most {_MAX_STOPS} are allowed.", param="stop"
        )
    if not all(stops):
        raise InvalidRequestError("'stop' strings must not be empty.", param="stop")
    return tuple(stops)


def _message(message: ChatMessage, path: str, limits: LimitSettings) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    content = message.content
    if isinstance(content, str):
        return Message(role, (TextPart(_checked(content, f"{path}.content")),))
    if len(content) > limits.max_parts:
        raise InvalidRequestError(
            f"{path} has {len(content)} parts; the limit is {limits.max_parts} (limits.max_parts).",
            param=f"{path}.content",
        )
    return Message(role, tuple(_parts(message, path)))


def _parts(message: ChatMessage, path: str) -> Iterator[TextPart | ImageReference]:
    for index, part in enumerate(message.content):
        where = f"{path}.content[{index}]"
        if isinstance(part, ImagePart):
            yield _image(part, where)
        elif not isinstance(part, str):
            yield TextPart(_checked(part.text, f"{where}.text"))


def _image(part: ImagePart, path: str) -> ImageReference:
    image = part.image_url
    return ImageReference(
        url=image.url,
        detail=Detail(image.detail or "auto"),
        max_tiles=image.max_tiles,
        param=f"{path}.image_url",
    )


def _checked(text: str, path: str) -> str:
    """The text, which no tokenizer could take with half of a surrogate pair in it."""
    if _SURROGATE.search(text):
        raise InvalidRequestError(f"'{path}' has a lone surrogate character.", param=path)
    return text
