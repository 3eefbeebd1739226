"""The openai SDK: responses."""

from typing import Any

import openai
from openai.lib._pydantic import to_strict_json_schema

from tests.conformance.clients.asking import (
    BASE_URL,
    CITY,
    HELLO,
    MODEL,
    PICTURE_URL,
    QUESTION,
    SEEN,
    City,
    Shapes,
)

client = openai.OpenAI(base_url=BASE_URL, api_key="none", max_retries=0)
ASK = {"model": MODEL, "temperature": 0, "max_output_tokens": 256}
TOOL = {
    "type": "function",
    "name": "find_city",
    "strict": True,
    "parameters": to_strict_json_schema(City),
}


def look() -> list[dict[str, Any]]:
    image = {"type": "input_image", "image_url": PICTURE_URL, "detail": "auto"}
    return [{"role": "user", "content": [image, {"type": "input_text", "text": QUESTION}]}]


def test_text() -> None:
    response = client.responses.create(**ASK, input=HELLO)
    assert response.status == "completed"
    assert response.output_text


def test_stream() -> None:
    whole = client.responses.create(**ASK, input=HELLO)
    with client.responses.stream(**ASK, input=HELLO) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert stream.get_final_response().usage == whole.usage
    assert "".join(texts) == whole.output_text


def test_picture() -> None:
    assert SEEN in client.responses.create(**ASK, input=look()).output_text


def test_object() -> None:
    response = client.responses.parse(**ASK, input=look(), text_format=Shapes)
    assert isinstance(response.output_parsed, Shapes)


def test_tools() -> None:
    asked = {**ASK, "tools": [TOOL]}
    first = client.responses.create(**asked, input=CITY, tool_choice="required")
    items: list[Any] = [{"role": "user", "content": CITY}, *first.output]
    for call in (item for item in first.output if item.type == "function_call"):
        City.model_validate_json(call.arguments)
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "Berlin"}
        items.append(result)
    assert len(items) > len(first.output) + 1
    assert client.responses.create(**asked, input=items, tool_choice="none").output_text
