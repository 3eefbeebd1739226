"""`/v1/messages` on the CPU engine with the bundled demo model: pictures, formats and tools for real."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import pytest
from internvl_server.settings import Settings
from pydantic import BaseModel

from tests.live_server import LiveServer

pytestmark = pytest.mark.model

MODEL = "internvl-demo"
PICTURE = Path(__file__).parents[1] / "data" / "example.jpg"
DATA = base64.b64encode(PICTURE.read_bytes()).decode()


class Shape(BaseModel):
    colour: Literal["red", "blue"]
    is_round: bool


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(Settings()) as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with server.anthropic_client() as made:
        yield made


def look(question: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/jpeg", "data": DATA}
    content = [{"type": "image", "source": source}, {"type": "text", "text": question}]
    return {
        "model": MODEL,
        "max_tokens": 128,
        "messages": [{"role": "user", "content": content}],
        "extra_body": {"temperature": 0},
    }


def test_a_picture_is_described_as_in_chat(client: anthropic.Anthropic, server: LiveServer) -> None:
    message = client.messages.create(**look("Describe the image."))
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{DATA}"}},
        {"type": "text", "text": "Describe the image."},
    ]
    chat = server.client().chat.completions.create(
        model=MODEL, temperature=0, max_tokens=128, messages=[{"role": "user", "content": parts}]
    )
    [block] = message.content
    assert block.text == chat.choices[0].message.content
    usage = message.usage
    assert chat.usage is not None
    assert usage.input_tokens + usage.cache_read_input_tokens == chat.usage.prompt_tokens
    with client.messages.stream(**look("Describe the image.")) as stream:
        assert stream.get_final_text() == block.text


def test_parse_gives_the_model_asked_for(client: anthropic.Anthropic) -> None:
    ask = look("Which shape is in the centre?")
    parsed = client.messages.parse(**ask, output_format=Shape)
    assert isinstance(parsed.parsed_output, Shape)


def test_a_required_call_fits_its_schema_and_its_result_goes_back_in(
    client: anthropic.Anthropic,
) -> None:
    schema = Shape.model_json_schema() | {"additionalProperties": False}
    tool = {"name": "draw", "description": "Draws.", "input_schema": schema}
    ask = look("Draw the shape in the centre.")
    choice = {"type": "any", "disable_parallel_tool_use": True}
    called = client.messages.create(**ask, tools=[tool], tool_choice=choice)
    assert called.stop_reason == "tool_use"
    [call] = called.content
    assert isinstance(Shape.model_validate(call.input), Shape)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "done"}
    turns = [
        *ask["messages"],
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ]
    after = client.messages.create(**ask | {"messages": turns}, tools=[tool])
    assert after.stop_reason in ("end_turn", "max_tokens", "tool_use")
    assert after.usage.cache_read_input_tokens > called.usage.input_tokens  # all of the first turn
    assert after.usage.input_tokens > 0


def test_a_begun_answer_is_continued(client: anthropic.Anthropic) -> None:
    ask = look("Describe the image.")
    [block] = client.messages.create(**ask).content
    begun, rest = block.text[:20], block.text[20:]
    turns = [*ask["messages"], {"role": "assistant", "content": begun}]
    [continued] = client.messages.create(**ask | {"messages": turns}).content
    assert continued.text == rest
