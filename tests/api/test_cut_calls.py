"""A call that the end of the answer cuts off is in whole answers as it is in streams."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.settings import Settings

from tests.live_server import LiveServer
from tests.scripted_engine import ScriptedEngine

FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
ASK: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "required",
}
HEAD = '<tool_call>\n{"name": "f", "arguments": '


@contextmanager
def serving(
    checkpoint: Path, arguments: str, limit: dict[str, Any]
) -> Iterator[tuple[LiveServer, dict[str, Any]]]:
    """A server whose model begins a call, and the fields of a request that is cut off there."""
    words = load_tokenizer(checkpoint)
    engine = ScriptedEngine(end_id=words.control_id("<|im_end|>"))
    ids = words.encode_answer(HEAD + arguments)
    engine.script = [(i,) for i in itertools.chain(ids, words.encode_answer("STOP"))]
    if limit.get("max_tokens", 0) is None:
        limit = {"max_tokens": len(ids)}
    model = {"path": str(checkpoint), "served_name": "m"}
    with LiveServer(Settings(model=model), engine) as server:
        yield server, limit


@pytest.mark.parametrize("limit", [{"max_tokens": None}, {"stop": ["STOP"]}])
def test_it_is_returned_with_the_arguments_that_were_written(
    tiny_checkpoint: Path, limit: dict[str, Any]
) -> None:
    with serving(tiny_checkpoint, '{"a": "long', limit) as (server, limit):
        create = server.client().chat.completions.create
        choice = create(**ASK, **limit).choices[0]
        chunks = [chunk.choices[0] for chunk in create(**ASK, **limit, stream=True)]
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("f", '{"a": "long')
    assert choice.message.content is None
    assert (
        choice.finish_reason
        == chunks[-1].finish_reason
        == ("length" if "max_tokens" in limit else "stop")
    )
    pieces = [p.function for c in chunks for p in c.delta.tool_calls or () if p.function]
    assert "".join(p.arguments or "" for p in pieces) == call.function.arguments


@pytest.mark.parametrize(
    ("arguments", "written"),
    [('{"a": "long', {}), ('{"b": 1, "a": "long', {"b": 1}), ("{", {})],
)
@pytest.mark.parametrize(
    "limit", [{"max_tokens": None}, {"max_tokens": 500, "stop_sequences": ["STOP"]}]
)
def test_a_message_has_the_members_that_were_written(
    tiny_checkpoint: Path, arguments: str, written: dict[str, Any], limit: dict[str, Any]
) -> None:
    tool = {"name": "f", "input_schema": FUNCTION["parameters"]}
    ask = ASK | {"tools": [tool], "tool_choice": {"type": "any"}}
    with serving(tiny_checkpoint, arguments, limit) as (server, fields):
        client = server.anthropic_client()
        whole = client.messages.create(**ask | fields)
        with client.messages.stream(**ask | fields) as stream:
            streamed = stream.get_final_message()
    for message in (whole, streamed):
        [block] = message.content
        assert block.type == "tool_use"
        assert (block.name, block.input) == ("f", written)
        assert message.stop_reason == (
            "stop_sequence" if "stop_sequences" in limit else "max_tokens"
        )
