"""Wire to core: messages to a `Conversation`."""

from collections.abc import Iterator

from server.core import Conversation, Detail, ImageReference, Message, Role, TextPart
from server.errors import InvalidRequestError
from server.protocol.chat import ChatCompletionRequest
from server.protocol.messages import ChatMessage, ImagePart

__all__ = ["to_conversation"]


def to_conversation(body: ChatCompletionRequest) -> Conversation:
    """The messages in our words; `developer` becomes `system`."""
    messages = tuple(
        _message(message, f"messages[{index}]") for index, message in enumerate(body.messages)
    )
    _check_continuation(body)
    return Conversation(
        messages,
        continue_final_message=bool(body.continue_final_message),
        add_generation_prompt=body.add_generation_prompt is not False,
    )


def _check_continuation(body: ChatCompletionRequest) -> None:
    if not body.continue_final_message:
        return
    if body.add_generation_prompt:
        raise InvalidRequestError(
            "'continue_final_message' goes on inside the last message, 'add_generation_prompt' begins "
            "a new one. Set one of them.",
            param="add_generation_prompt",
        )
    if body.messages[-1].role != "assistant":
        raise InvalidRequestError(
            "'continue_final_message' needs a last message of the assistant to go on with.",
            param="continue_final_message",
        )


def _message(message: ChatMessage, path: str) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    content = message.content
    if isinstance(content, str):
        return Message(role, (TextPart(content),))
    return Message(role, tuple(_parts(message, path)))


def _parts(message: ChatMessage, path: str) -> Iterator[TextPart | ImageReference]:
    for index, part in enumerate(message.content):
        where = f"{path}.content[{index}]"
        if isinstance(part, ImagePart):
            yield _image(part, where)
        elif not isinstance(part, str):
            yield TextPart(part.text)


def _image(part: ImagePart, path: str) -> ImageReference:
    image = part.image_url
    return ImageReference(
        url=image.url,
        detail=Detail(image.detail or "auto"),
        max_tiles=image.max_tiles,
        param=f"{path}.image_url",
    )
