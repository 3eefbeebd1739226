"""Converts messages to a `Conversation`."""

from collections.abc import Iterator, Mapping

from internvl_server.core import (
    Conversation,
    Detail,
    FrameList,
    ImageReference,
    Message,
    Part,
    Role,
    TextPart,
    Tool,
    VideoReference,
    is_video_url,
)
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.chat.messages import (
    AssistantMessage,
    ChatMessage,
    ConversationFields,
    FramesPart,
    ImagePart,
    RefusalPart,
    TextContentPart,
    ToolMessage,
    VideoPart,
)
from internvl_server.protocol.chat.tools import to_tool_calls
from internvl_server.protocol.tiles import with_max_tiles
from internvl_server.settings import MediaSettings

__all__ = ["to_conversation"]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "function": "tool",
}


def to_conversation(
    body: ConversationFields, tools: tuple[Tool, ...], media: MediaSettings
) -> Conversation:
    """Convert the messages; the role `developer` becomes `system`.

    Args:
        body: The request.
        tools: The tools that the prompt lists.
        media: How many frames of a video are used, by default and at most.

    Raises:
        InvalidRequestError: The last message cannot be continued, or a video has too many frames.
    """
    if body.num_frames is not None:
        _check_num_frames(body.num_frames, "num_frames", media)
        media = media.model_copy(update={"default_video_frames": body.num_frames})
    messages = tuple(
        _message(message, f"messages[{index}]", media)
        for index, message in enumerate(body.messages)
    )
    if body.continue_final_message:
        _check_continuation(body, messages[-1])
    return Conversation(
        with_max_tiles(messages, body.max_tiles),
        tools=tools,
        continue_final_message=bool(body.continue_final_message),
        add_generation_prompt=body.add_generation_prompt is not False,
    )


def _check_continuation(body: ConversationFields, last: Message) -> None:
    if body.add_generation_prompt:
        raise InvalidRequestError(
            "'continue_final_message' continues the last message and 'add_generation_prompt' begins a "
            "new one. Set only one of them.",
            param="add_generation_prompt",
        )
    if last.role != "assistant" or last.tool_calls:
        raise InvalidRequestError(
            "'continue_final_message' needs a last message of the assistant without 'tool_calls'.",
            param="continue_final_message",
        )


def _message(message: ChatMessage, path: str, media: MediaSettings) -> Message:
    parts = tuple(_parts(message, path, media))
    if isinstance(message, ToolMessage):
        return Message("tool", parts, tool_call_id=message.tool_call_id)
    if isinstance(message, AssistantMessage):
        calls = to_tool_calls(message.tool_calls, message.function_call)
        return Message("assistant", parts, calls)
    return Message(_ROLES[message.role], parts)


def _parts(message: ChatMessage, path: str, media: MediaSettings) -> Iterator[Part]:
    if isinstance(message.content, str):
        yield TextPart(message.content)
    parts = message.content if isinstance(message.content, list) else ()
    for index, part in enumerate(parts):
        where = f"{path}.content[{index}]"
        if isinstance(part, ImagePart):
            yield _image(part, f"{where}.image_url", media)
        elif isinstance(part, VideoPart):
            yield _video(part, f"{where}.video_url", media)
        elif isinstance(part, FramesPart):
            yield _frames(part, f"{where}.video", media)
        elif isinstance(part, RefusalPart):
            yield TextPart(part.refusal)
        elif isinstance(part, TextContentPart):
            yield TextPart(part.text)
    if isinstance(message, AssistantMessage) and message.refusal:
        yield TextPart(message.refusal)


def _image(part: ImagePart, path: str, media: MediaSettings) -> ImageReference | VideoReference:
    """An image; a video, which some programs send in the place of an image, with one tile a frame."""
    image = part.image_url
    if is_video_url(image.url):
        return VideoReference(image.url, media.default_video_frames, path)
    return ImageReference(
        url=image.url,
        detail=Detail(image.detail or "auto"),
        max_tiles=image.max_tiles,
        param=path,
    )


def _video(part: VideoPart, path: str, media: MediaSettings) -> VideoReference:
    video = part.video_url
    num_frames = video.num_frames or media.default_video_frames
    _check_num_frames(num_frames, f"{path}.num_frames", media)
    return VideoReference(url=video.url, num_frames=num_frames, param=path)


def _frames(part: FramesPart, path: str, media: MediaSettings) -> FrameList:
    """Each frame becomes an image of one tile."""
    _check_num_frames(len(part.video), path, media)
    return FrameList(
        tuple(
            ImageReference(url, Detail.LOW, max_tiles=1, param=f"{path}[{index}]")
            for index, url in enumerate(part.video)
        )
    )


def _check_num_frames(num_frames: int, path: str, media: MediaSettings) -> None:
    if num_frames > media.max_video_frames:
        raise InvalidRequestError(
            f"Invalid value for '{path}': {num_frames} frames; at most {media.max_video_frames} frames of "
            "a video are used (media.max_video_frames).",
            param=path,
            code="invalid_value",
        )
