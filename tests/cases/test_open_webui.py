"""What Open WebUI 0.12.4 sends to a connection of the kind OpenAI, field for field."""

from typing import Any

import httpx2
import pytest

from tests.cases.asking import MODEL, CaseServer, image_part, text_part

HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer none"}
SYSTEM = {"role": "system", "content": "Answer in one sentence."}
USAGE = {"include_usage": True}
# Its templates for titles, tags and follow-up questions are single user messages of this form.
TASK = """### Task:
Write a title for the chat.
### Output:
JSON format: { "title": "your title" }
### Chat History:
<chat_history>
USER: What is in the picture?
ASSISTANT: A red circle.
</chat_history>"""


def tool(name: str, required: list[str], **properties: Any) -> dict[str, Any]:
    """As Open WebUI derives tools from the signatures of Python functions."""
    parameters = {"type": "object", "properties": properties, "required": required}
    described = {"name": name, "description": "A tool.", "parameters": parameters}
    return {"type": "function", "function": described}


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "default": 5}
OBJECTS = {"items": {"additionalProperties": True, "type": "object"}, "type": "array"}
TEXTS = {"items": {"type": "string"}, "type": "array"}
BUILTIN_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_current_timestamp",
            "description": "The time.",
            "parameters": {"properties": {}, "type": "object"},
        },
    },
    tool("ask_user", ["questions"], questions=OBJECTS, allow_other={"default": True, "type": "boolean"}),
    tool("query_knowledge_files", ["query"], query=TEXT, knowledge_ids=TEXTS, count=NUMBER),
    tool("search_chats", ["query"], query=TEXT, count=NUMBER, start_timestamp={"type": "integer"}),
]  # fmt: skip


def body(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"stream": True, "model": MODEL, "messages": [SYSTEM, *messages]} | fields


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_the_connection_is_verified_by_listing_models(server: CaseServer) -> None:
    answer = httpx2.get(f"{server.live.url}/v1/models", headers=HEADERS)
    [model] = answer.raise_for_status().json()["data"]
    assert model["id"] == MODEL
    assert model.get("name", MODEL) is not None


def test_a_chat_with_pictures_in_earlier_turns(server: CaseServer) -> None:
    looked = user([text_part("What is this?"), image_part(0), image_part(1)])
    answer = {"role": "assistant", "content": "Two circles."}
    again = user([text_part("And this?"), image_part(2)])
    reply = server.answer(body(looked, answer, again, stream_options=USAGE))
    assert reply.ignored == []
    *_, last = reply.events
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == len(reply.request.prompt_token_ids)
    prompt = server.prompt(reply.request)
    assert prompt.index(SYSTEM["content"]) < prompt.index("What is this?")
    assert prompt.count("<IMG_CONTEXT>") == 3


def test_the_loop_of_its_tools(server: CaseServer) -> None:
    """A picture that a tool returned follows in a user message."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "search_chats", "arguments": '{"query": "circle"}'},
    }
    called = {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "Hm."}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "A picture."}
    shown = user([text_part("Here are the images from the tools."), image_part()])
    asked = body(user("Search."), called, result, shown, tools=BUILTIN_TOOLS, stream_options=USAGE)
    reply = server.answer(asked)
    assert reply.ignored == ["messages[2].reasoning_content"]
    prompt = server.prompt(reply.request)
    assert prompt.index("ask_user") < prompt.index("A picture.") < prompt.index("<IMG_CONTEXT>")


def test_titles_tags_and_questions(server: CaseServer) -> None:
    task = {"model": MODEL, "messages": [user(TASK)], "stream": False, "max_tokens": 1000}
    assert isinstance(server.answer(task).text, str)


def test_advanced_parameters(server: CaseServer) -> None:
    fields = {
        "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1,
        "max_tokens": 5, "seed": 3, "stop": ["\n\n\n"],
    }  # fmt: skip
    reply = server.answer(body(user("hi"), **fields))
    sampling = reply.request.sampling
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (40, 0.05, 1.1)
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.7, 0.9, 3)


def test_parameters_of_ollama(server: CaseServer) -> None:
    """They are on the same page, and are sent to every connection once they are set."""
    neutral = {"mirostat": 0, "tfs_z": 1.0, "think": False}
    local = {"num_ctx": 4096, "num_thread": 2, "use_mmap": True, "repeat_last_n": 64}
    reply = server.answer(body(user("hi"), max_tokens=5, keep_alive="5m", **neutral, **local))
    assert set(reply.ignored) == {"keep_alive", *local}
    assert "temperature" in server.refuse(body(user("hi"), mirostat=1))["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_json_with_a_message(server: CaseServer, stream: bool) -> None:
    """Open WebUI shows `error.message`, and takes the answer for a stream if its type says so."""
    reply = server.ask(body(user("long " * 20_000), stream=stream))
    assert reply.status == 400
    assert reply.headers["content-type"] == "application/json"
    assert reply.error["code"] == "context_length_exceeded"
    assert "maximum context length" in reply.error["message"]
