"""Function calls through `/v1/responses`: the echo engine repeats the calls that a user's text spells out."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import FunctionToolParam, Response

from tests.live_server import LiveServer

MODEL = "tiny"


def tool(name: str, **parameters: Any) -> FunctionToolParam:
    schema = {"type": "object", "properties": parameters, "required": sorted(parameters)}
    return {"type": "function", "name": name, "parameters": schema, "strict": False}


TOOLS = [tool("weather", city={"type": "string"}), tool("time")]


def spelled(name: str, **arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


TWO = f"{spelled('weather', city='北 🙂')}\n{spelled('time')}"
ASK: dict[str, Any] = {"model": MODEL, "instructions": "s", "input": TWO, "tools": TOOLS}


@pytest.fixture
def client(echo_server: LiveServer) -> Iterator[openai.OpenAI]:
    with echo_server.client() as made:
        yield made


def calls_of(response: Response) -> list[tuple[str, Any]]:
    return [
        (item.name, json.loads(item.arguments))
        for item in response.output
        if item.type == "function_call"
    ]


def test_two_calls_in_one_turn_and_their_outputs(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASK)
    assert response.status == "completed"
    assert calls_of(response) == [("weather", {"city": "北 🙂"}), ("time", {})]
    first, second = (item for item in response.output if item.type == "function_call")
    assert first.call_id.startswith("call_")
    assert first.call_id != second.call_id
    assert first.id is not None
    assert first.id.startswith("fc_")
    assert [tool.name for tool in response.tools if tool.type == "function"] == ["weather", "time"]
    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": first.call_id, "output": "sunny"},
        {
            "type": "function_call_output",
            "call_id": second.call_id,
            "output": [{"type": "input_text", "text": "noon"}],
        },
    ]
    items = [{"role": "user", "content": "go"}, *response.output[1:3], *outputs]
    after = client.responses.create(**ASK | {"input": items, "tools": []})
    text = after.output_text.split("sunny")
    assert len(text) == 2
    assert "noon" in text[1]
    assert spelled("weather", city="北 🙂") in text[0]


def test_streamed_calls_are_the_whole_responses(client: openai.OpenAI) -> None:
    whole = client.responses.create(**ASK)
    with client.responses.stream(**ASK) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert calls_of(final) == calls_of(whole)
    assert final.output_text == whole.output_text
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    done = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert [json.loads(e.arguments) for e in done] == [{"city": "北 🙂"}, {}]
    snapshots = {
        e.item_id: e.snapshot for e in events if e.type == "response.function_call_arguments.delta"
    }
    assert list(snapshots.values()) == [e.arguments for e in done]


async def test_calls_with_the_async_client(echo_server: LiveServer) -> None:
    async with echo_server.async_client() as client:
        async with client.responses.stream(**ASK) as stream:
            final = await stream.get_final_response()
        whole = await client.responses.create(**ASK)
    assert calls_of(final) == calls_of(whole)
    assert len(calls_of(whole)) == 2


def test_one_call_at_most(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASK, parallel_tool_calls=False)
    assert calls_of(response) == [("weather", {"city": "北 🙂"})]
    assert response.parallel_tool_calls is False


def test_only_allowed_tools_are_called(client: openai.OpenAI) -> None:
    allowed: Any = {"type": "function", "name": "time"}
    response = client.responses.create(
        **ASK, tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [allowed]}
    )
    assert calls_of(response) == [("time", {})]


def test_without_tools_a_call_is_text(client: openai.OpenAI) -> None:
    options: dict[str, Any]
    for options in ({"tools": []}, {"tool_choice": "none"}):
        response = client.responses.create(**ASK | options)
        assert [item.type for item in response.output] == ["message"]
        assert TWO in response.output_text


def test_pydantic_tools_are_parsed(client: openai.OpenAI) -> None:
    response = client.responses.parse(**ASK | {"tools": [TOOLS[0] | {"strict": True}, TOOLS[1]]})
    parsed = [i.parsed_arguments for i in response.output if i.type == "function_call"]
    assert parsed == [{"city": "北 🙂"}, None]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_required_and_named_tools(client: openai.OpenAI, choice: Any) -> None:
    response = client.responses.create(**ASK | {"input": "hello", "tool_choice": choice})
    [call] = response.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": ""})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": "required", "tools": [TOOLS[0] | {"parameters": {"properties": 3}}]}, "tools"),
        ({"tool_choice": {"type": "function", "name": "nobody"}}, "tool_choice.name"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": 1, "output": "x"}]},
         "input[0].call_id"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(client: openai.OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ASK | fields)
    assert caught.value.param == param
