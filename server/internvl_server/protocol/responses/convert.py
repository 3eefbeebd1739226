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

__all__ = ["to_conversation"]


def to_conversation(
    items: str | Sequence[InputItem],
    instructions: str | None,
    tools: tuple[Tool, ...],
    max_tiles: int | None = None,
) -> Conversation:
    """Convert the input; `instructions` come first.

    Args:
        items: The field `input`.
        instructions: The field.
        tools: The tools that the prompt lists.
        max_tiles: The field.

    Raises:
        InvalidRequestError: There is no message.
    """
    messages = [] if instructions is None else [Message("system", (TextPart(instructions),))]
    if isinstance(items, str):
        messages.append(Message("user", (TextPart(items),)))
    else:
        messages += _messages(items)
    if not messages:
        raise InvalidRequestError("'input' has no message, only reasoning.", param="input")
    return Conversation(with_max_tiles(messages, max_tiles), tools)


def _messages(items: Sequence[InputItem]) -> list[Message]:
    """One message an item, but calls join the assistant's turn they belong to, and reasoning is left out."""
    messages: list[Message] = []
    for index, item in enumerate(items):
        if isinstance(item, ReasoningItem):
            continue
        if not isinstance(item, FunctionCallItem):
            messages.append(_message(item, f"input[{index}]"))
            continue
        turn = Message("assistant", ())
        if messages and messages[-1].role == "assistant":
            turn = messages.pop()
        calls = (*turn.tool_calls, _call(item))
        messages.append(Message("assistant", turn.content, calls))
    return messages


def _message(item: MessageItem | AssistantItem | FunctionCallOutputItem, path: str) -> Message:
    if isinstance(item, FunctionCallOutputItem):
        content = tuple(_parts(item.output, f"{path}.output"))
        return Message("tool", content, tool_call_id=item.call_id)
    role: Role = "system" if item.role == "developer" else item.role
    return Message(role, tuple(_parts(item.content, f"{path}.content")))


def _parts(content: str | Sequence[InputPart | AnswerPart], path: str) -> Iterator[Part]:
    if isinstance(content, str):
        yield TextPart(content)
        return
    for index, part in enumerate(content):
        if isinstance(part, InputImage):
            yield ImageReference(
                url=part.image_url,
                detail=Detail(part.detail or "auto"),
                max_tiles=part.max_tiles,
                param=f"{path}[{index}].image_url",
            )
        else:
            yield TextPart(part.refusal if isinstance(part, Refusal) else part.text)


def _call(item: FunctionCallItem) -> ToolCall:
    return ToolCall(item.call_id, item.name, to_arguments(item.arguments))
