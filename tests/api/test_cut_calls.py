"""A call that the end of the answer cuts off is in whole answers as it is in streams."""

import itertools
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


@pytest.mark.parametrize("limit", [{"max_tokens": None}, {"stop": ["STOP"]}])
def test_it_is_returned_with_the_arguments_that_were_written(
    tiny_checkpoint: Path, limit: dict[str, Any]
) -> None:
    words = load_tokenizer(tiny_checkpoint)
    engine = ScriptedEngine(end_id=words.control_id("<|im_end|>"))
    ids = words.encode_answer(HEAD + '{"a": "long')
    engine.script = [(i,) for i in itertools.chain(ids, words.encode_answer("STOP"))]
    if "max_tokens" in limit:
        limit = {"max_tokens": len(ids)}
    model = {"path": str(tiny_checkpoint), "served_name": "m"}
    with LiveServer(Settings(model=model), engine) as server:
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
