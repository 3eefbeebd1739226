"""Tools through the real SDK: the echo engine repeats the calls that a user's text spells out."""

import json
import sys
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.live_server import LiveServer

MODEL = "tiny"


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters, "required": sorted(parameters)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [tool("weather", city={"type": "string"}), tool("time")]


def spelled(name: str, **arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


TWO = f"{spelled('weather', city='北 🙂')}\n{spelled('time')}"


def ask(text: str) -> list[Any]:
    return [{"role": "system", "content": "s"}, {"role": "user", "content": text}]


def test_two_calls_in_one_turn_and_their_results(echo_server: LiveServer) -> None:
    client = echo_server.client()
    messages = ask(TWO)
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    first, second = choice.message.tool_calls or []
    assert first.type == second.type == "function"
    assert (first.function.name, second.function.name) == ("weather", "time")
    assert json.loads(first.function.arguments) == {"city": "北 🙂"}
    assert json.loads(second.function.arguments) == {}
    assert first.id.startswith("call_")
    assert first.id != second.id
    assert "<tool_call>" not in (choice.message.content or "").split("user\n")[-1]

    results = [
        {"role": "tool", "tool_call_id": first.id, "content": "sunny"},
        {"role": "tool", "tool_call_id": second.id, "content": [{"type": "text", "text": "noon"}]},
    ]
    history = [*messages, choice.message, *results]
    after = client.chat.completions.create(model=MODEL, messages=history)
    text = after.choices[0].message.content or ""
    assert "sunny" in text
    assert "noon" in text


def test_streamed_calls_are_the_whole_answers(echo_server: LiveServer) -> None:
    client = echo_server.client()
    whole = client.chat.completions.create(model=MODEL, messages=ask(TWO), tools=TOOLS)
    with client.chat.completions.stream(model=MODEL, messages=ask(TWO), tools=TOOLS) as stream:
        for event in stream:
            assert event.type != "error"
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    streamed, expected = (a.choices[0].message.tool_calls or [] for a in (final, whole))
    assert [c.function.name for c in streamed] == [c.function.name for c in expected]
    assert [c.function.arguments for c in streamed] == [c.function.arguments for c in expected]
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_one_call_at_most(echo_server: LiveServer) -> None:
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=ask(TWO), tools=TOOLS, parallel_tool_calls=False
    )
    assert [c.function.name for c in answer.choices[0].message.tool_calls or []] == ["weather"]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert echo_server.engine.health().num_running == 0


def test_unknown_tools_and_broken_calls_are_text(echo_server: LiveServer) -> None:
    text = spelled("nobody") + '<tool_call>\n{"name": "time", "arguments": {]}\n</tool_call>'
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=ask(text), tools=TOOLS
    )
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
    assert "nobody" in (answer.choices[0].message.content or "")


def test_without_tools_a_call_is_text(echo_server: LiveServer) -> None:
    for options in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        answer = echo_server.client().chat.completions.create(
            model=MODEL, messages=ask(spelled("time")), **options
        )
        assert answer.choices[0].message.tool_calls is None
        assert spelled("time") in (answer.choices[0].message.content or "")


def test_each_choice_has_its_calls(echo_server: LiveServer) -> None:
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=ask(spelled("time")), tools=TOOLS, n=2
    )
    ids = [(c.message.tool_calls or [])[0].id for c in answer.choices]
    assert len(set(ids)) == 2


def test_a_required_call_needs_an_engine_that_can_be_held_to_it(
    start_server: Callable[..., LiveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    for name in [name for name in sys.modules if name.startswith("internvl_server.engine.echo.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "internvl_server.engine.guided.matcher", raising=False)
    client = start_server().client()
    for options in ({"tool_choice": "required"}, {"response_format": {"type": "json_object"}}):
        extra: Any = {"tools": TOOLS} if "tool_choice" in options else {}
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, messages=ask("x"), **extra, **options)
        assert caught.value.param == next(iter(options))
        assert caught.value.code == "unsupported_parameter"
    answer = client.chat.completions.create(model=MODEL, messages=ask(spelled("time")), tools=TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"


def test_names_and_refusals_in_the_history(echo_server: LiveServer) -> None:
    messages: list[Any] = [
        {"role": "user", "content": "a", "name": "ann"},
        {"role": "assistant", "content": None, "refusal": "I would rather not."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "name": "bot"},
        {"role": "user", "content": "b"},
    ]
    answer = echo_server.client().chat.completions.create(model=MODEL, messages=messages)
    text = answer.choices[0].message.content or ""
    assert "I would rather not." in text
    assert "No." in text
