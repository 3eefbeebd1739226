"""Converts input items to a `Conversation`."""

from collections.abc import Iterator, Sequence

from internvl_server.core import (
    Conversation,
    Detail,
    ImageReference,
    Message,
    Part,
    Role,
    TextPart,
    Tool,
    ToolCall,
    VideoReference,
    is_video_url,
)
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.responses.items import (
    AnswerPart,
    AssistantItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputImage,
    InputItem,
    InputPart,
    MessageItem,
    ReasoningItem,
    Refusal,
)
from internvl_server.protocol.tiles import with_max_tiles
from internvl_server.protocol.tools import to_arguments
from internvl_server.settings import MediaSettings

__all__ = ["to_conversation"]


def to_conversation(
    items: str | Sequence[InputItem],
    instructions: str | None,
    tools: tuple[Tool, ...],
    max_tiles: int | None,
    media: MediaSettings,
) -> Conversation:
    """Convert the input; `instructions` come first.

    Args:
        items: The field `input`.
        instructions: The field.
        tools: The tools that the prompt lists.
        max_tiles: The field.
        media: How many frames of a video are used.

    Raises:
        InvalidRequestError: There is no message.
    """
    messages = [] if instructions is None else [Message("system", (TextPart(instructions),))]
    if isinstance(items, str):
        messages.append(Message("user", (TextPart(items),)))
    else:
        messages += _messages(items, media)
    if not messages:
        raise InvalidRequestError("'input' has no message, only reasoning.", param="input")
    return Conversation(with_max_tiles(messages, max_tiles), tools)


def _messages(items: Sequence[InputItem], media: MediaSettings) -> list[Message]:
    """One message an item, but calls join the assistant's turn they belong to, and reasoning is left out."""
    messages: list[Message] = []
    for index, item in enumerate(items):
        if isinstance(item, ReasoningItem):
            continue
        if not isinstance(item, FunctionCallItem):
            messages.append(_message(item, f"input[{index}]", media))
            continue
        turn = Message("assistant", ())
        if messages and messages[-1].role == "assistant":
            turn = messages.pop()
        calls = (*turn.tool_calls, _call(item))
        messages.append(Message("assistant", turn.content, calls))
    return messages


def _message(
    item: MessageItem | AssistantItem | FunctionCallOutputItem, path: str, media: MediaSettings
) -> Message:
    if isinstance(item, FunctionCallOutputItem):
        content = tuple(_parts(item.output, f"{path}.output", media))
        return Message("tool", content, tool_call_id=item.call_id)
    role: Role = "system" if item.role == "developer" else item.role
    return Message(role, tuple(_parts(item.content, f"{path}.content", media)))


def _parts(
    content: str | Sequence[InputPart | AnswerPart], path: str, media: MediaSettings
) -> Iterator[Part]:
    if isinstance(content, str):
        yield TextPart(content)
        return
    for index, part in enumerate(content):
        if isinstance(part, InputImage):
            yield _image(part, f"{path}[{index}].image_url", media)
        else:
            yield TextPart(part.refusal if isinstance(part, Refusal) else part.text)


def _image(part: InputImage, path: str, media: MediaSettings) -> ImageReference | VideoReference:
    """An image; a video in the place of an image becomes one tile a frame, as in chat."""
    if is_video_url(part.image_url):
        return VideoReference(part.image_url, media.default_video_frames, path)
    return ImageReference(
        url=part.image_url,
        detail=Detail(part.detail or "auto"),
        max_tiles=part.max_tiles,
        param=path,
    )


def _call(item: FunctionCallItem) -> ToolCall:
    return ToolCall(item.call_id, item.name, to_arguments(item.arguments))
