"""Conversations as programs send them back: past tool calls, reasoning, bookkeeping, any order of roles."""

import json
from typing import Any

import pytest

from tests.cases.asking import MODEL, RESPONSES, CaseServer, chat, load, text_part, turns

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
ARGUMENTS = [
    '{"city": "Ber',
    '{"city": "the "big" one"}',
    "",
    "{}",
    "null",
    "Berlin",
    '"Berlin"',
    "[1, 2",
    "{'city': 'Berlin'}",
    '{"city": "Berlin",}',
    '{"city": "Berlin"} {"city": "Rome"}',
    '{"city": NaN}',
    '{"a": 1, "a": 2}',
    '{ "city" :\n  "M\u00fcnchen" }',
    '{"city": "\\ud800"}',
    "\u00e9\u4e2d\U0001f600",
    '{"n": 1e999}',
    "[" * 300,
]


def past_call(arguments: str, **fields: Any) -> list[dict[str, Any]]:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": arguments},
    }
    return [
        {"role": "user", "content": "Weather in Berlin?"},
        {"role": "assistant", "content": None, "tool_calls": [call | fields]},
        {"role": "tool", "tool_call_id": "c1", "content": "arguments were not valid JSON"},
        {"role": "user", "content": "Try again."},
    ]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda text: repr(text)[:24])
def test_a_past_call_is_written_as_it_is(server: CaseServer, arguments: str) -> None:
    reply = server.answer(turns(past_call(arguments), tools=[TOOL]))
    prompt = server.prompt(reply.request)
    assert "get_weather" in prompt.partition("Berlin?")[2]
    assert arguments in prompt


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda text: repr(text)[:24])
def test_responses_write_the_same_prompt(server: CaseServer, arguments: str) -> None:
    items = [
        {"role": "user", "content": "Weather in Berlin?"},
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "get_weather",
            "arguments": arguments,
        },
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": "arguments were not valid JSON",
        },
        {"role": "user", "content": "Try again."},
    ]
    tools = [{"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": False}]
    body = {"model": MODEL, "input": items, "tools": tools, "max_output_tokens": 16}
    reply = server.answer(body | {"temperature": 0}, RESPONSES)
    expected = server.answer(turns(past_call(arguments), tools=[TOOL]))
    assert server.prompt(reply.request) == server.prompt(expected.request)


@pytest.mark.parametrize("max_tokens", [4, 12, 16, 20, 24, 200])
def test_a_streamed_call_is_taken_back(server: CaseServer, max_tokens: int) -> None:
    """However early it was cut off."""
    server.will_answer(
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    )
    ask = chat("Weather in Rome?", tools=[TOOL], tool_choice="required")
    streamed = server.answer(ask | {"max_tokens": max_tokens, "stream": True})
    deltas = [choice["delta"] for event in streamed.events for choice in event["choices"]]
    calls: dict[int, dict[str, Any]] = {}
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls") or ()):
        call = calls.setdefault(
            piece["index"], {"id": "", "type": "function", "name": "", "text": ""}
        )
        call["id"] += piece.get("id") or ""
        call["name"] += piece["function"].get("name") or ""
        call["text"] += piece["function"].get("arguments") or ""
    assistant: dict[str, Any] = {"role": "assistant", "content": streamed.text or None}
    if calls:
        assistant["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["text"]},
            }
            for call in calls.values()
        ]
    answers = [
        {"role": "tool", "tool_call_id": call["id"], "content": "?"} for call in calls.values()
    ]
    history = [*ask["messages"], assistant, *answers, {"role": "user", "content": "And now?"}]
    server.will_answer(None)
    reply = server.answer(turns(history, tools=[TOOL]))
    assert all(call["text"] in server.prompt(reply.request) for call in calls.values())


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "let me see"},
        {"reasoning_content": ""},
        {"reasoning_content": None},
        {"reasoning": "let me see"},
        {"reasoning": None},
        {"reasoning_details": []},
        {"refusal": None},
        {"audio": None},
        {"function_call": None},
        {"tool_calls": None},
        {"tool_calls": []},
        {"annotations": []},
        {"name": "bot"},
        {"id": "msg_1"},
        {"prefix": False},
        {"partial": False},
        {"timestamp": 1764000000},
        {"metadata": {"a": 1}},
        {"cache_control": {"type": "ephemeral"}},
        {"thinking_blocks": []},
        {"provider_specific_fields": {}},
        {"response_metadata": {"model_name": "m"}},
    ],
    ids=str,
)
def test_an_assistant_message_may_have(server: CaseServer, fields: dict[str, Any]) -> None:
    history = load("requests/history_reasoning")["messages"]
    plain = [{"role": m["role"], "content": m["content"]} for m in history]
    expected = server.answer(turns(plain))
    plain[1] |= fields
    reply = server.answer(turns(plain))
    assert reply.request.prompt_token_ids == expected.request.prompt_token_ids
    assert reply.text == expected.text
    [name], [value] = fields.keys(), fields.values()
    if name in ("reasoning_content", "reasoning") and value:
        assert reply.ignored == [f"messages[1].{name}"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": [text_part("")]},
        {"role": "assistant", "content": [text_part("a"), text_part("b")]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "system", "content": "again"},
        {"role": "developer", "content": "again"},
        {"role": "user", "content": [text_part("")]},
        {"role": "user", "content": ""},
    ],
    ids=str,
)
def test_a_message_in_the_middle(server: CaseServer, message: dict[str, Any]) -> None:
    history = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    reply = server.answer(turns([*history, message, {"role": "user", "content": "c"}]))
    assert reply.text or reply.whole["usage"]["completion_tokens"]


def test_results_in_any_order_and_calls_without_one(server: CaseServer) -> None:
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
        for n in range(3)
    ]
    history = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c0", "content": [text_part("zero")]},
        {"role": "user", "content": "And?"},
    ]
    prompt = server.prompt(server.answer(turns(history, tools=[TOOL])).request)
    assert "two" in prompt
    assert "zero" in prompt


def test_a_history_with_calls_needs_no_tools(server: CaseServer) -> None:
    server.answer(turns(past_call(json.dumps({"city": "Berlin"}))))
