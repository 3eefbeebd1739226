"""From a body to the tokens of its prompt."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.core import Conversation
from internvl_server.prompt.builder import PromptBuilder
from internvl_server.prompt.template import InternVL25Template
from internvl_server.prompt.tokenizer import PromptTokenizer
from internvl_server.protocol.messages.parse import parse_messages_request
from internvl_server.settings import LimitSettings, MediaSettings, ModelSettings


@pytest.fixture(scope="module")
def builder(tiny_checkpoint: Path, tokenizer: PromptTokenizer) -> PromptBuilder:
    checkpoint = load_checkpoint(ModelSettings(path=str(tiny_checkpoint)))
    return PromptBuilder(checkpoint, tokenizer, InternVL25Template(), max_model_len=2048)


def parsed(**fields: Any) -> Conversation:
    body = {"model": "m", "max_tokens": 5} | fields
    return parse_messages_request(
        json.dumps(body).encode(), LimitSettings(), media=MediaSettings()
    ).conversation


def written_everywhere(text: str) -> dict[str, Any]:
    """A body with a text in every field that takes one."""
    block = {"type": "text", "text": text}
    document = {
        "type": "document",
        "title": text,
        "context": text,
        "source": {"type": "content", "content": [block]},
    }
    found = {"type": "search_result", "title": text, "source": text, "content": [block]}
    plain = {"type": "document", "source": {"type": "text", "data": text}}
    call = {"type": "tool_use", "id": text or "x", "name": "t", "input": {text: text}}
    result = {"type": "tool_result", "tool_use_id": text or "x", "is_error": True}
    schema = {"type": "object", "properties": {text: {"description": text}}}
    return {
        "system": [block, block],
        "tools": [{"name": "t", "description": text, "input_schema": schema}],
        "messages": [
            {"role": "user", "content": [block, document, found, plain]},
            {"role": "assistant", "content": [block, call]},
            {"role": "user", "content": [result | {"content": [block, found]}, block]},
            {"role": "system", "content": text},
            {"role": "user", "content": text},
            {"role": "assistant", "content": text},
        ],
    }


@settings(max_examples=60)
@given(data=st.data())
def test_no_text_becomes_a_control_token(
    builder: PromptBuilder, tokenizer: PromptTokenizer, data: st.DataObject
) -> None:
    names = st.sampled_from(sorted(tokenizer.control_ids))
    pieces = st.lists(names | st.text(max_size=5), min_size=1, max_size=5)
    text = data.draw(pieces.map("".join).filter(bool))
    control = set(tokenizer.control_ids.values())

    def control_ids(value: str) -> list[int]:
        pieces = builder.skeleton(parsed(**written_everywhere(value))).pieces
        assert all(isinstance(piece, list) for piece in pieces)
        return [token for piece in pieces for token in piece if token in control]

    assert control_ids(text) == control_ids("harmless")


def test_a_conversation_has_a_message() -> None:
    conversation = parsed(messages=[{"role": "system", "content": ""}])
    assert [message.role for message in conversation.messages] == ["user"]


TURNS = st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=8)


@given(roles=TURNS)
def test_neighbours_are_merged_and_a_last_answer_is_continued(roles: list[str]) -> None:
    conversation = parsed(messages=[{"role": role, "content": "x"} for role in roles])
    merged = [message.role for message in conversation.messages]
    assert all(a != b or a == "system" for a, b in pairwise(merged))
    lines = [part.text for message in conversation.messages for part in message.content]
    assert "\n".join(lines).split("\n") == ["x"] * len(roles)
    assert conversation.continue_final_message == (roles[-1] == "assistant")
