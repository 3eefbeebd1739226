"""`/v1/responses` on the CPU engine with the bundled demo model: pictures, formats and tools for real."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from internvl_server.settings import Settings
from pydantic import BaseModel

from tests.live_server import LiveServer

pytestmark = pytest.mark.model

MODEL = "internvl-demo"
PICTURE = Path(__file__).parents[1] / "data" / "example.jpg"
URL = "data:image/jpeg;base64," + base64.b64encode(PICTURE.read_bytes()).decode()


class Shape(BaseModel):
    colour: Literal["red", "blue"]
    is_round: bool


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with LiveServer(Settings()) as server, server.client() as made:
        yield made


def look(question: str) -> dict[str, Any]:
    image = {"type": "input_image", "image_url": URL, "detail": "auto"}
    items = [{"role": "user", "content": [image, {"type": "input_text", "text": question}]}]
    return {"model": MODEL, "temperature": 0, "max_output_tokens": 128, "input": items}


def test_a_picture_is_described_as_in_chat(client: openai.OpenAI) -> None:
    response = client.responses.create(**look("Describe the image."))
    parts = [
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "text", "text": "Describe the image."},
    ]
    chat = client.chat.completions.create(
        model=MODEL, temperature=0, max_tokens=128, messages=[{"role": "user", "content": parts}]
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.total_tokens == chat.usage.total_tokens


def test_parse_gives_the_model_asked_for(client: openai.OpenAI) -> None:
    ask = look("Which shape is in the centre?")
    response = client.responses.parse(**ask, text_format=Shape)
    assert isinstance(response.output_parsed, Shape)
    with client.responses.stream(**ask, text_format=Shape) as stream:
        parsed = [e.parsed for e in stream if e.type == "response.output_text.done"]
        final = stream.get_final_response()
    assert parsed == [final.output_parsed] == [response.output_parsed]


async def test_parse_with_the_async_client(client: openai.OpenAI) -> None:
    async with openai.AsyncOpenAI(base_url=client.base_url, api_key="none", max_retries=0) as other:
        response = await other.responses.parse(**look("What is there?"), text_format=Shape)
    assert isinstance(response.output_parsed, Shape)


def test_a_required_call_fits_its_schema_and_its_result_goes_back_in(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Shape, name="draw", description="Draws a shape.")
    tools = [{"type": "function", **tool["function"]}]
    ask = look("Draw the shape in the centre.")
    called = client.responses.parse(
        **ask, tools=tools, tool_choice="required", parallel_tool_calls=False
    )
    [call] = called.output
    assert call.type == "function_call"
    assert call.name == "draw"
    shape = Shape.model_validate_json(call.arguments)
    assert called.status == "completed"
    events = list(
        client.responses.create(
            **ask, tools=tools, tool_choice="required", parallel_tool_calls=False, stream=True
        )
    )
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == call.arguments
    result = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": json.dumps(shape.model_dump()),
    }
    after = client.responses.create(
        **ask | {"input": [*ask["input"], *called.output, result]}, tools=tools, tool_choice="none"
    )
    assert after.output[0].type == "message"
