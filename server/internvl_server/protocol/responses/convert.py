"""Wire to core for `/v1/responses`: items to a `Conversation`, fields to parameters."""

from collections.abc import Iterator, Sequence

from internvl_server.core import (
    AnswerParams,
    Constraint,
    Content,
    Conversation,
    Detail,
    ImageReference,
    Message,
    Part,
    SamplingParams,
    TextPart,
    ToolCall,
    ToolChoice,
)
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.constraints import combine, tool_call_constraint
from internvl_server.protocol.response_format import json_constraint
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
from internvl_server.protocol.responses.request import PromptFields, ResponsesRequest
from internvl_server.protocol.responses.text_format import JsonObjectText, JsonSchemaText
from internvl_server.protocol.responses.tools import to_tool_choice, to_tools
from internvl_server.protocol.tools import to_arguments

__all__ = [
    "to_answer_params",
    "to_choice",
    "to_constraint",
    "to_conversation",
    "to_sampling_params",
]


def to_conversation(body: PromptFields) -> Conversation:
    """The items in our words, `instructions` first.

    Raises:
        InvalidRequestError: Items do not fit each other, or one is not usable where it stands.
    """
    first = () if body.instructions is None else (_text_message(body.instructions),)
    items = [] if isinstance(body.input, str) else body.input
    _check_outputs(items)
    messages = _messages(items) if items else [Message("user", (TextPart(str(body.input)),))]
    tools = () if body.tool_choice == "none" else to_tools(body.tools)
    return Conversation((*first, *messages), tools)


def _text_message(instructions: str) -> Message:
    return Message("system", (TextPart(instructions),))


def _check_outputs(items: Sequence[InputItem]) -> None:
    """A tool's output answers a call that stands before it."""
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
    """One message an item, but calls join the assistant's turn they belong to."""
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
                "Pictures belong in messages of the user.",
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


def to_sampling_params(body: ResponsesRequest) -> SamplingParams:
    """The sampling fields, with OpenAI's defaults for those left out.

    Raises:
        InvalidRequestError: A field is not usable.
    """
    return SamplingParams(
        max_tokens=body.max_output_tokens,
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=max(body.top_k or 0, 0),
        min_p=_or(body.min_p, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        seed=body.seed,
        stop=_stops(body),
        num_logprobs=_num_logprobs(body),
        constraint=to_constraint(body),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
    )


def to_answer_params(body: ResponsesRequest) -> AnswerParams:
    """What of the answer is shown.

    Raises:
        InvalidRequestError: Fields contradict each other.
    """
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    return AnswerParams(
        tool_choice=to_choice(body),
        tool_names=tuple(tool.name for tool in body.tools or ()),
    )


def to_choice(body: PromptFields) -> ToolChoice:
    """The choice among the tools; raises like `to_tool_choice`."""
    return to_tool_choice(body.tool_choice, body.parallel_tool_calls, body.tools)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _stops(body: ResponsesRequest) -> tuple[str, ...]:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if not all(stops):
        raise InvalidRequestError("'stop' strings must not be empty.", param="stop")
    return tuple(stops)


def _num_logprobs(body: ResponsesRequest) -> int | None:
    """ParsedRequest for by `include`, or by how many are wanted at each place."""
    return (body.top_logprobs or 0) if body.include or body.top_logprobs else None


def to_constraint(body: PromptFields) -> Constraint | None:
    """What the answer must be: its format, calls of tools, or either of them."""
    calls = tool_call_constraint(to_tools(body.tools), to_choice(body))
    return combine(calls, _format_constraint(body))


def _format_constraint(body: PromptFields) -> Constraint | None:
    text_format = body.text.format if body.text else None
    if isinstance(text_format, JsonObjectText):
        return json_constraint(None, "text.format")
    if isinstance(text_format, JsonSchemaText):
        return json_constraint(text_format.schema_, "text.format")
    return None
