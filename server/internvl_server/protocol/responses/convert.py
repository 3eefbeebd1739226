"""Converts input items to a `Conversation`."""

from collections.abc import Iterator, Sequence

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
)
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.responses.items import (
    AssistantItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputImage,
    InputItem,
    InputPart,
    MessageItem,
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
        InvalidRequestError: Items do not fit each other, or one cannot be used where it stands.
    """
    messages = [] if instructions is None else [Message("system", (TextPart(instructions),))]
    if isinstance(items, str):
        messages.append(Message("user", (TextPart(items),)))
    else:
        _check_outputs(items)
        messages += _messages(items)
    return Conversation(with_max_tiles(messages, max_tiles), tools)


def _check_outputs(items: Sequence[InputItem]) -> None:
    """Check that each output of a tool answers a call before it."""
    call_ids: set[str] = set()
    for index, item in enumerate(items):
        if isinstance(item, FunctionCallItem):
            call_ids.add(item.call_id)
        if isinstance(item, FunctionCallOutputItem) and item.call_id not in call_ids:
            path = f"input[{index}].call_id"
            raise InvalidRequestError(
                f"'{path}' answers no call: no 'function_call' before it has this 'call_id'. Responses "
                "are not stored here, so send the calls as well.",
                param=path,
            )


def _messages(items: Sequence[InputItem]) -> list[Message]:
    """One message an item, except that calls join the assistant's turn they belong to."""
    messages: list[Message] = []
    for index, item in enumerate(items):
        path = f"input[{index}]"
        if not isinstance(item, FunctionCallItem):
            messages.append(_message(item, path))
            continue
        turn = Message("assistant", ())
        if messages and messages[-1].role == "assistant":
            turn = messages.pop()
        calls = (*turn.tool_calls, _call(item, path))
        messages.append(Message("assistant", turn.content, calls))
    return messages


def _message(item: MessageItem | AssistantItem | FunctionCallOutputItem, path: str) -> Message:
    if isinstance(item, AssistantItem):
        return Message("assistant", _answer(item))
    if isinstance(item, FunctionCallOutputItem):
        content = tuple(_parts(item.output, f"{path}.output"))
        return Message("tool", content, tool_call_id=item.call_id)
    content = tuple(_parts(item.content, f"{path}.content"))
    if item.role == "user":
        return Message("user", content)
    _check_no_image(content)
    return Message("system", content)


def _check_no_image(content: Content) -> None:
    for part in content:
        if isinstance(part, ImageReference):
            raise InvalidRequestError(
                "Images are only allowed in messages of the user.",
                param=part.param.removesuffix(".image_url"),
            )


def _answer(item: AssistantItem) -> Content:
    if isinstance(item.content, str):
        return (TextPart(item.content),)
    return tuple(
        TextPart(part.refusal if isinstance(part, Refusal) else part.text) for part in item.content
    )


def _parts(content: str | list[InputPart], path: str) -> Iterator[Part]:
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
            yield TextPart(part.text)


def _call(item: FunctionCallItem, path: str) -> ToolCall:
    return ToolCall(item.call_id, item.name, to_arguments(item.arguments, f"{path}.arguments"))
