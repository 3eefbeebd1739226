"""Formats and required tools with the real SDK, strict validation on, against the echo engine."""

import json
from enum import StrEnum
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.api.test_errors import assert_envelope
from tests.live_server import LiveServer

MODEL = "tiny"
ASK: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int = Field(ge=10)
    label: str = Field(pattern=r"^[a-z]{2}$")


class Picture(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["picture"]
    colour: Colour
    points: list[Point] = Field(min_length=2)
    note: str | None
    parent: "Picture | None"


class Weather(BaseModel):
    """Look up the weather."""

    city: str
    unit: Literal["C", "F"]


TOOLS = [
    openai.pydantic_function_tool(Weather, name="weather"),
    {"type": "function", "function": {"name": "clock"}},
]


def fields(answer: Any) -> tuple[str, list[str]]:
    [choice] = answer.choices
    return choice.finish_reason, [c.function.name for c in choice.message.tool_calls or []]


def test_parse_gives_a_model(echo_server: LiveServer) -> None:
    answer = echo_server.client().chat.completions.parse(
        model=MODEL, messages=ASK, response_format=Picture
    )
    [choice] = answer.choices
    assert choice.finish_reason == "stop"
    picture = choice.message.parsed
    assert isinstance(picture, Picture)
    assert len(picture.points) == 2
    assert picture.parent is None


def test_a_parsed_stream_is_the_whole_answer(echo_server: LiveServer) -> None:
    client = echo_server.client()
    whole = client.chat.completions.parse(model=MODEL, messages=ASK, response_format=Picture)
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, response_format=Picture
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed


def test_responses_parse(echo_server: LiveServer) -> None:
    response = echo_server.client().responses.parse(model=MODEL, input="hello", text_format=Weather)
    assert response.output_parsed == Weather(city="", unit="C")


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"choice": ["red-ish", "blue"]}, "blue"),
        ({"regex": r"\d{2}"}, "01"),
        ({"grammar": 'root ::= "(" root ")" | "x"'}, "x"),
        ({"json_object": True}, "{}"),
        ({"json": {"type": "integer"}}, "0"),
    ],
)
def test_structured_outputs(echo_server: LiveServer, outputs: Any, expected: str) -> None:
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=ASK, extra_body={"structured_outputs": outputs}
    )
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("required", "weather"),
        ({"type": "function", "function": {"name": "clock"}}, "clock"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_required_and_named_tools(
    echo_server: LiveServer, choice: Any, name: str, stream: bool
) -> None:
    client = echo_server.client()
    options: Any = {"model": MODEL, "messages": ASK, "tools": TOOLS, "tool_choice": choice}
    if stream:
        with client.chat.completions.stream(**options) as events:
            answer: Any = events.get_final_completion()
    else:
        answer = client.chat.completions.create(**options)
    assert fields(answer) == ("tool_calls", [name])
    [call] = answer.choices[0].message.tool_calls
    expected = {"city": "", "unit": "C"} if name == "weather" else {}
    assert json.loads(call.function.arguments) == expected


def test_tools_that_may_be_called_beside_a_format(echo_server: LiveServer) -> None:
    client = echo_server.client()
    answer = client.chat.completions.parse(
        model=MODEL, messages=ASK, tools=TOOLS[:1], response_format=Picture
    )
    assert fields(answer) == ("stop", [])
    assert isinstance(answer.choices[0].message.parsed, Picture)
    called = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice="required",
        response_format={"type": "json_object"},
    )  # fmt: skip
    assert fields(called) == ("tool_calls", ["weather"])
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=ASK, tools=TOOLS,
            extra_body={"structured_outputs": {"regex": "a"}},
        )  # fmt: skip
    assert caught.value.param == "structured_outputs.regex"


def test_parsed_arguments(echo_server: LiveServer) -> None:
    answer = echo_server.client().chat.completions.parse(
        model=MODEL, messages=ASK, tools=TOOLS[:1], tool_choice="required"
    )
    [call] = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Weather(city="", unit="C")


def test_choices_log_probabilities_and_stop_strings(echo_server: LiveServer) -> None:
    client = echo_server.client()
    options: Any = {
        "model": MODEL, "messages": ASK, "response_format": {"type": "json_object"}, "n": 2,
        "logprobs": True, "top_logprobs": 1,
    }  # fmt: skip
    answer = client.chat.completions.create(**options)
    for choice in answer.choices:
        assert choice.message.content == "{}"
        assert choice.logprobs is not None
        assert "".join(entry.token for entry in choice.logprobs.content or []) == "{}"
    cut = client.chat.completions.create(**options, stop="}")
    assert [(c.message.content, c.finish_reason) for c in cut.choices] == [("{", "stop")] * 2
    echo_server.wait_idle()


def test_max_tokens_cut_a_format(echo_server: LiveServer) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        echo_server.client().chat.completions.parse(
            model=MODEL, messages=ASK, response_format=Picture, max_tokens=5
        )


@pytest.mark.parametrize("stream", [False, True])
def test_bad_guides_name_their_field(echo_server: LiveServer, stream: bool) -> None:
    schema = {"name": "x", "schema": {"type": "nonsense"}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"enum": []}}}]
    for body, param in (
        ({"response_format": {"type": "json_schema", "json_schema": schema}},
         "response_format"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"tools": tools, "tool_choice": "required"}, "tools"),
    ):  # fmt: skip
        response = echo_server.post({"model": MODEL, "messages": ASK, "stream": stream} | body)
        assert_envelope(response, 400, "invalid_request", param)
    assert echo_server.gate.num_in_flight == 0
