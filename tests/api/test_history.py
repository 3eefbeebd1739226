"""Whatever a client has of earlier turns can be sent back, on chat and on Responses."""

import json
from typing import Any

import httpx2
import pytest

from tests.live_server import LiveServer

MODEL = "tiny"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 40}},
    "required": ["city"],
}
ASK = {"role": "user", "content": "hi"}


def post(server: LiveServer, path: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(server.url + path, json={"model": MODEL} | body, timeout=60)


def prompt(server: LiveServer, *messages: dict[str, Any]) -> str:
    """The prompt of messages, which the echo engine repeats."""
    body = {"messages": [{"role": "system", "content": "s"}, ASK, *messages]}
    response = post(server, "/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text.removeprefix("system\ns\nuser\nhi\n").removesuffix("\nassistant\n")


def call(arguments: Any, call_id: str = "c1") -> dict[str, Any]:
    made = {"name": "f", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": made}


def turn(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)} | fields


def result(call_id: str, content: Any = "42") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    lines = (line.removeprefix("data: ") for line in response.text.splitlines())
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.parametrize("arguments", ['{"city": "Ber', '{"a": "the "big" one"}', "nothing", "[1]"])
def test_arguments_of_any_kind_are_in_the_prompt(echo_server: LiveServer, arguments: str) -> None:
    written = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
    assert written in prompt(echo_server, turn(call(arguments)), result("c1"), ASK)
    item = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": arguments}
    output = {"type": "function_call_output", "call_id": "c1", "output": "x"}
    answer = post(echo_server, "/v1/responses", {"input": [ASK, item, output]})
    assert answer.status_code == 200, answer.text
    assert written in answer.json()["output"][0]["content"][0]["text"]


def test_a_call_that_max_tokens_cut_off_is_taken_back(echo_server: LiveServer) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]
    body = {"messages": [ASK], "tools": tools, "tool_choice": "required", "max_tokens": 60}
    chunks = events(post(echo_server, "/v1/chat/completions", body | {"stream": True}))
    pieces = [p for c in chunks for p in c["choices"][0]["delta"].get("tool_calls") or ()]
    made = dict(pieces[0]["function"])
    made["arguments"] = "".join(piece["function"]["arguments"] for piece in pieces)
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(made["arguments"])
    history = turn({"id": pieces[0]["id"], "type": "function", "function": made}, content=None)
    assert made["arguments"] in prompt(echo_server, history, ASK)


def test_an_item_that_max_output_tokens_cut_off_is_taken_back(echo_server: LiveServer) -> None:
    tools = [{"type": "function", "name": "f", "parameters": PARAMETERS}]
    body = {"input": [ASK], "tools": tools, "tool_choice": "required", "max_output_tokens": 60}
    streamed = events(post(echo_server, "/v1/responses", body | {"stream": True}))
    items = [e["item"] for e in streamed if e["type"] == "response.output_item.done"]
    again = post(echo_server, "/v1/responses", {"input": [ASK, *items, ASK]})
    assert again.status_code == 200, again.text
    assert items[0]["arguments"] in again.json()["output"][0]["content"][0]["text"]


def test_results_are_written_in_the_order_of_their_calls(echo_server: LiveServer) -> None:
    calls = turn(call("{}", "a"), call("{}", "b"))
    in_order = prompt(echo_server, calls, result("a", "one"), result("b", "two"), ASK)
    assert prompt(echo_server, calls, result("b", "two"), result("a", "one"), ASK) == in_order
    assert "one\n</tool_response>\n<tool_response>\ntwo" in in_order
    assert "nobody asked" in prompt(echo_server, calls, result("z", "nobody asked"))


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": "", "tool_calls": []},
    ],
)
def test_an_empty_answer_is_an_empty_turn(echo_server: LiveServer, message: dict[str, Any]) -> None:
    assert prompt(echo_server, message, ASK) == "assistant\n\nuser\nhi"


@pytest.mark.parametrize("content", ["", [], [{"type": "text", "text": ""}]])
def test_an_empty_question_is_an_empty_turn(echo_server: LiveServer, content: Any) -> None:
    assert prompt(echo_server, {"role": "user", "content": content}) == "user\n"


def test_several_system_messages_stay_where_they_are(echo_server: LiveServer) -> None:
    later = {"role": "system", "content": "Be brief."}
    assert prompt(echo_server, later, ASK, later) == (
        "system\nBe brief.\nuser\nhi\nsystem\nBe brief."
    )


def test_reasoning_is_left_out_and_named(echo_server: LiveServer) -> None:
    answer = {"role": "assistant", "content": "b", "reasoning_content": "let me see"}
    body = {"messages": [ASK, answer, ASK]}
    response = post(echo_server, "/v1/chat/completions", body)
    assert response.headers["x-ignored-fields"] == "messages%5B1%5D.reasoning_content"
    assert "let me see" not in response.json()["choices"][0]["message"]["content"]
    item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}
    response = post(echo_server, "/v1/responses", {"input": [ASK, item, ASK]})
    assert response.headers["x-ignored-fields"] == "input%5B1%5D.summary"
