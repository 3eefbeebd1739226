"""Reasoning, texts and calls have one order, however the engine hands tokens over, in both SDKs' streams."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.settings import Settings

from tests.live_server import LiveServer
from tests.scripted_engine import ScriptedEngine

SCHEMA = {"type": "object", "properties": {}}
CALL = '<tool_call>\n{"name": "count", "arguments": {}}\n</tool_call>'
SAID = f"<think>\nHm.\n</think>\n\nI call.\n{CALL}\nA > B.\n{CALL}\n{CALL}\nDone."
SIZES = (1, 5, 40, 500)


@pytest.fixture(params=SIZES, scope="module")
def server(request: pytest.FixtureRequest, thinking_checkpoint: Path) -> Iterator[LiveServer]:
    """A server whose engine hands some tokens over at a time."""
    words = load_tokenizer(thinking_checkpoint)
    ids = words.encode_answer(SAID)
    script = [ids[i : i + request.param] for i in range(0, len(ids), request.param)]
    engine = ScriptedEngine(script, end_id=words.control_id("<|im_end|>"))
    model = {"path": str(thinking_checkpoint), "served_name": "m"}
    with LiveServer(Settings(model=model), engine) as server:
        yield server


def said(block: Any) -> tuple[str, str]:
    return block.type, (getattr(block, "text", "") or getattr(block, "thinking", "")).strip()


def check_one_is_open(places: list[tuple[str, int]], begin: str, end: str) -> None:
    """Each part ends before the next begins, and every event is of the part that is open."""
    open_part = None
    for kind, place in places:
        if kind == begin:
            assert open_part is None
            open_part = place
        assert open_part == place
        if kind == end:
            open_part = None
    assert places[0][0] == begin
    assert open_part is None


def test_blocks_of_a_message(server: LiveServer) -> None:
    client = server.anthropic_client()
    ask: dict[str, Any] = {
        "model": "m", "max_tokens": 500, "tools": [{"name": "count", "input_schema": SCHEMA}],
        "messages": [{"role": "user", "content": "hi"}],
    }  # fmt: skip
    with client.messages.stream(**ask) as stream:
        events = list(stream)
        streamed = stream.get_final_message()
    places = [(event.type, event.index) for event in events if hasattr(event, "index")]
    check_one_is_open(places, "content_block_start", "content_block_stop")
    for message in (streamed, client.messages.create(**ask)):
        assert [said(block) for block in message.content] == [
            ("thinking", "Hm."), ("text", "I call."), ("tool_use", ""), ("text", "A > B."),
            ("tool_use", ""), ("tool_use", ""), ("text", "Done."),
        ]  # fmt: skip


def test_items_of_a_response(server: LiveServer) -> None:
    client = server.client()
    tools = [{"type": "function", "name": "count", "parameters": SCHEMA, "strict": None}]
    ask: dict[str, Any] = {"model": "m", "input": "hi", "tools": tools}
    with client.responses.stream(**ask) as stream:
        events: list[Any] = list(stream)
        streamed = stream.get_final_response()
    places = [
        (event.type, event.output_index) for event in events if hasattr(event, "output_index")
    ]
    check_one_is_open(places, "response.output_item.added", "response.output_item.done")
    for response in (streamed, client.responses.create(**ask)):
        parts = [
            (item.content or [item])[0] if hasattr(item, "content") else item
            for item in response.output
        ]
        assert [said(part) for part in parts] == [
            ("reasoning_text", "Hm."), ("output_text", "I call."), ("function_call", ""),
            ("output_text", "A > B."), ("function_call", ""), ("function_call", ""),
            ("output_text", "Done."),
        ]  # fmt: skip


def test_chunks_of_a_chat(server: LiveServer) -> None:
    tools: Any = [{"type": "function", "function": {"name": "count", "parameters": SCHEMA}}]
    seen: list[str] = []
    for chunk in server.client().chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], tools=tools, stream=True
    ):
        delta = chunk.choices[0].delta
        kinds = [("text", delta.content)] if delta.content and delta.content.strip() else []
        kinds += [("call", call.id) for call in delta.tool_calls or () if call.id]
        seen += [kind for kind, _ in kinds if not (seen and seen[-1] == kind == "text")]
    assert seen == ["text", "call", "text", "call", "call", "text"]
