"""Converts messages and their content blocks to a `Conversation`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from internvl_server.core import (
    Content,
    Conversation,
    Detail,
    ImageReference,
    Message,
    Part,
    TextPart,
    Tool,
    ToolCall,
    VideoReference,
    is_video_url,
)
from internvl_server.protocol.messages.content import (
    Base64Source,
    ContentSource,
    DocumentBlock,
    ImageBlock,
    SearchResultBlock,
    TextBlock,
    UserPart,
)
from internvl_server.protocol.messages.turns import (
    AssistantTurn,
    SystemTurn,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UserBlock,
    blocks_of,
)
from internvl_server.protocol.tiles import with_max_tiles
from internvl_server.protocol.tools import to_arguments
from internvl_server.settings import MediaSettings

__all__ = ["dropped_blocks", "to_conversation"]


def to_conversation(
    turns: Sequence[Turn],
    system: str | list[TextBlock] | None,
    tools: tuple[Tool, ...],
    max_tiles: int | None,
    media: MediaSettings,
) -> Conversation:
    """Convert the messages; `system` comes first. A last message of the assistant is continued.

    Args:
        turns: The field `messages`. Neighbours of one role are joined, as in Anthropic's API.
        system: The field.
        tools: The tools that the prompt lists.
        max_tiles: The field.
        media: How many frames of a video are used.
    """
    messages = [] if system in (None, []) else [Message("system", _texts(system))]
    last_user = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    for index, turn in enumerate(turns):
        is_over = isinstance(turn, SystemTurn) and turn.clear_at == "next_user_message"
        if not (is_over and index < last_user):
            messages += _messages(turn, f"messages[{index}]")
    # Turns that only add and remove tools leave nothing.
    merged = [_with_videos(message, media) for message in _merged(messages)] or [
        Message("user", ())
    ]
    last = merged[-1]
    return Conversation(
        with_max_tiles(merged, max_tiles),
        tools=tools,
        continue_final_message=last.role == "assistant" and not last.tool_calls,
    )


def dropped_blocks(turns: Sequence[Turn]) -> tuple[str, ...]:
    """The JSON paths of the blocks that the conversation leaves out."""
    return tuple(
        f"messages[{index}].content[{place}]"
        for index, turn in enumerate(turns)
        for place, block in enumerate(blocks_of(turn))
        if isinstance(block, ThinkingBlock)
    )


def _messages(turn: Turn, path: str) -> Iterator[Message]:
    """The messages of one turn: each result of a tool is a message."""
    if isinstance(turn, SystemTurn):
        yield from _instructions(turn)
    elif isinstance(turn, AssistantTurn):
        yield _answer(turn, path)
    elif isinstance(turn.content, str):
        yield Message("user", (TextPart(turn.content),))
    else:
        yield from _user_messages(turn.content, path)


def _instructions(turn: SystemTurn) -> Iterator[Message]:
    """The message of a system turn; there is none if it only adds and removes tools."""
    texts = [block for block in blocks_of(turn) if isinstance(block, TextBlock)]
    if content := turn.content if isinstance(turn.content, str) else texts:
        yield Message("system", _texts(content))


def _texts(content: str | Sequence[TextBlock]) -> Content:
    texts = [content] if isinstance(content, str) else [block.text for block in content]
    return _spaced(TextPart(text) for text in texts)


def _answer(turn: AssistantTurn, path: str) -> Message:
    if isinstance(turn.content, str):
        return Message("assistant", (TextPart(turn.content),))
    parts: list[Part] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(turn.content):
        if isinstance(block, ToolUseBlock):
            calls.append(ToolCall(block.id, block.name, to_arguments(block.input)))
        elif not isinstance(block, ThinkingBlock):
            parts += _parts(block, f"{path}.content[{index}]")
    return Message("assistant", _spaced(parts), tuple(calls))


def _user_messages(blocks: Sequence[UserBlock], path: str) -> Iterator[Message]:
    rest: list[Part] = []
    for index, block in enumerate(blocks):
        where = f"{path}.content[{index}]"
        if isinstance(block, ToolResultBlock):
            if rest:
                yield Message("user", _spaced(rest))
            rest = []
            yield Message("tool", _result(block, where), tool_call_id=block.tool_use_id)
        else:
            rest += _parts(block, where)
    if rest or not blocks:
        yield Message("user", _spaced(rest))


def _result(block: ToolResultBlock, path: str) -> Content:
    parts: list[Part] = [TextPart("Error: ")] if block.is_error else []
    if isinstance(block.content, str):
        return (*parts, TextPart(block.content))
    content: list[Part] = []
    for index, part in enumerate(block.content or ()):
        if isinstance(part, ToolReferenceBlock):
            content.append(TextPart(part.tool_name))
        else:
            content += _parts(part, f"{path}.content[{index}]")
    return (*parts, *_spaced(content))


def _parts(block: UserPart, path: str) -> Iterator[Part]:
    if isinstance(block, TextBlock):
        yield TextPart(block.text)
    elif isinstance(block, ImageBlock):
        yield _image(block, f"{path}.source")
    elif isinstance(block, DocumentBlock):
        yield from [TextPart(text) for text in (block.title, block.context) if text]
        yield from _document(block, f"{path}.source")
    else:
        yield from _search_result(block)


def _search_result(block: SearchResultBlock) -> Iterator[Part]:
    texts = [block.title, block.source, *[part.text for part in block.content]]
    return (TextPart(text) for text in texts)


def _document(block: DocumentBlock, path: str) -> Iterator[Part]:
    source = block.source
    if not isinstance(source, ContentSource):
        yield TextPart(source.data)
    elif isinstance(source.content, str):
        yield TextPart(source.content)
    else:
        for index, part in enumerate(source.content):
            yield from _parts(part, f"{path}.content[{index}]")


def _image(block: ImageBlock, path: str) -> ImageReference:
    source = block.source
    is_data = isinstance(source, Base64Source)
    return ImageReference(
        url=_data_url(source) if isinstance(source, Base64Source) else source.url,
        detail=Detail(block.detail or "auto"),
        max_tiles=block.max_tiles,
        param=f"{path}.{'data' if is_data else 'url'}",
    )


def _with_videos(message: Message, media: MediaSettings) -> Message:
    """The message, where images whose URL is a video's are videos, as in chat."""
    content = [
        VideoReference(part.url, media.default_video_frames, part.param)
        if isinstance(part, ImageReference) and is_video_url(part.url)
        else part
        for part in message.content
    ]
    return replace(message, content=tuple(content))


def _data_url(source: Base64Source) -> str:
    if source.data.startswith("data:"):
        return source.data
    return f"data:{source.media_type or 'application/octet-stream'};base64,{source.data}"


def _spaced(parts: Iterator[Part] | Sequence[Part]) -> Content:
    """The parts, with adjacent texts joined by line breaks."""
    spaced: list[Part] = []
    for is_text, group in groupby(parts, key=lambda part: isinstance(part, TextPart)):
        if is_text:
            texts = [part.text for part in group if isinstance(part, TextPart)]
            spaced.append(TextPart("\n".join(filter(None, texts))))
        else:
            spaced += group
    return tuple(spaced)


def _merged(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages, with neighbours from the user, or from the assistant, joined."""
    for role, group in groupby(messages, key=lambda message: message.role):
        if role in ("system", "tool"):
            yield from group
            continue
        run = list(group)
        content = [part for message in run for part in message.content]
        calls = [call for message in run for call in message.tool_calls]
        yield Message(role, _spaced(content), tuple(calls))
