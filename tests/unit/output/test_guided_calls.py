"""What the constraint of a request allows, the parser reads: the two must agree on the format."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.core import Tool, ToolChoice
from internvl_server.output.tool_calls import ToolCallParser
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.protocol.constraints import tool_call_constraint

from tests.unit.engine.guided.helpers import SCHEMAS, fits
from tests.unit.engine.guided.test_matcher import Words, walk

DEMO = Path(__file__).parents[3] / "server" / "internvl_server" / "demo_model"
OBJECTS = SCHEMAS.filter(lambda schema: schema.get("type") == "object")


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(load_tokenizer(DEMO))


@settings(deadline=None, max_examples=40)
@given(schema=OBJECTS, seed=st.integers(0, 2**32), is_parallel=st.booleans())
def test_random_calls_a_constraint_allows_are_read_whole(
    words: Words, schema: dict[str, object], seed: int, is_parallel: bool
) -> None:
    choice = ToolChoice("required", is_parallel=is_parallel)
    tools = [Tool("look", None, schema), Tool("look_2", "x", schema)]
    constraint = tool_call_constraint(tools, choice)
    assert constraint is not None
    token_ids, has_ended = walk(words, constraint, random.Random(seed), 500)
    parser = ToolCallParser(choice, ["look", "look_2"], lambda: "id")
    text = words.bytes_of(token_ids).decode("utf-8", "replace")
    parsed = [*map(parser.push, text), parser.flush()]
    assert "".join(piece.text for piece in parsed) == ""
    calls: list[str] = []
    for delta in (delta for piece in parsed for delta in piece.tool_calls):
        if delta.name is not None:
            calls.append("")
        calls[-1] += delta.arguments
    whole = calls[: len(calls) - parser.has_cut_call]
    assert all(fits(json.loads(arguments), schema) for arguments in whole)
    if has_ended:
        assert len(whole) == parser.num_calls > 0
        assert parser.is_complete is not is_parallel
