"""No JSON value that is added as an unknown member, anywhere, changes the status or the answer."""

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from internvl_server.protocol.chat.request import CHAT_FIELDS
from internvl_server.protocol.completions.request import COMPLETION_FIELDS
from internvl_server.protocol.fields.suggestions import Speller
from internvl_server.protocol.messages.request import MESSAGES_FIELDS
from internvl_server.protocol.responses.request import RESPONSES_FIELDS
from internvl_server.protocol.tokenize import TOKENIZE_FIELDS
from PIL import Image

from tests.conftest import data_url
from tests.live_server import LiveServer

PICTURE = data_url(Image.new("RGB", (30, 20), "red"))
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 30,
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "one two"},
                {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
            ],
        },
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "three"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
RESPONSE: dict[str, Any] = {
    "model": "tiny",
    "max_output_tokens": 30,
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "one two"},
                {"type": "input_image", "image_url": PICTURE},
            ],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "three"},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
    "text": {"format": {"type": "text"}},
}
MESSAGE: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 30,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "one two"},
                {"type": "image", "source": {"type": "url", "url": PICTURE}},
                {"type": "document", "source": {"type": "text", "data": "four"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c",
                    "content": [{"type": "text", "text": "three"}],
                }
            ],
        },
    ],
    "tools": [{"name": "f", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto"},
    "output_config": {},
}
TOKENIZE = {"messages": CHAT["messages"], "tools": CHAT["tools"]}
# Path, a body that is answered, and the fields of the endpoint.
BODIES: list[tuple[str, dict[str, Any], Any]] = [
    ("/v1/chat/completions", CHAT, CHAT_FIELDS),
    ("/v1/chat/completions", CHAT | {"tools": None, "response_format": FORMAT}, CHAT_FIELDS),
    (
        "/v1/chat/completions",
        CHAT | {"stream": True, "stream_options": {"include_usage": True}},
        CHAT_FIELDS,
    ),
    ("/v1/completions", {"model": "tiny", "prompt": "one two", "max_tokens": 8}, COMPLETION_FIELDS),
    ("/v1/responses", RESPONSE, RESPONSES_FIELDS),
    ("/v1/messages", MESSAGE, MESSAGES_FIELDS),
    ("/tokenize", TOKENIZE, TOKENIZE_FIELDS),
]
# Their members are the client's own: a schema, or the text of arguments.
FREE = {"input", "input_schema", "parameters", "schema"}

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), TEXT,
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip
MEMBERS = st.dictionaries(
    st.one_of(TEXT, st.sampled_from(["trace_id", "cache_control", "X", "n2", "é", "a.b"])),
    JSON,
    min_size=1,
    max_size=4,
)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a body whose members the API defines."""
    if isinstance(value, dict):
        yield value
        for name, member in value.items():
            if name not in FREE:
                yield from objects(member)
    if isinstance(value, list):
        for entry in value:
            yield from objects(entry)


def known_somewhere(body: dict[str, Any], fields: Any) -> set[str]:
    """All names that mean something in some object of a body, the client's own excepted."""
    names = {name for value in objects(body) for name in value}
    foreign = {name.rpartition(".")[2] for name in fields.foreign} | fields.defined.groups
    return {*names, *foreign, *fields.implemented, *fields.refused, *fields.bookkeeping}


def answered(server: LiveServer, path: str, body: dict[str, Any]) -> str:
    """The status and the answer, without ids, times and random padding."""
    answer = httpx2.post(server.url + path, json=body, timeout=60)
    text = re.sub(r'("\w*id": ?)"[^"]*"', r'\1""', answer.text)
    text = re.sub(r'("(?:created|created_at|completed_at)": ?)[\d.]+', r"\g<1>0", text)
    return f"{answer.status_code} {text}"


@cache
def plain_answer(server: LiveServer, path: str, body: str) -> str:
    return answered(server, path, json.loads(body))


@pytest.mark.parametrize(("path", "body", "fields"), BODIES)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=MEMBERS, data=st.data())
def test_no_unknown_member_changes_an_answer(
    echo_server: LiveServer,
    path: str,
    body: dict[str, Any],
    fields: Any,
    members: dict[str, Any],
    data: st.DataObject,
) -> None:
    changed = copy.deepcopy(body)
    holder = data.draw(st.sampled_from(list(objects(changed))))
    known = known_somewhere(body, fields)
    for name, value in members.items():
        if name not in known and Speller().suggest(name, known) is None:
            holder.setdefault(name, value)
    expected = plain_answer(echo_server, path, json.dumps(body))
    assert expected.startswith("200 ")
    assert answered(echo_server, path, changed) == expected
