"""The anthropic SDK: messages."""

from typing import Any, Literal

import anthropic
from pydantic import BaseModel

from tests.conformance.clients.asking import (
    BASE_URL,
    MODEL,
    PICTURE_BASE64,
    QUESTION,
    SEEN,
    City,
    hello,
    which_city,
)

client = anthropic.Anthropic(base_url=BASE_URL.removesuffix("/v1"), api_key="none", max_retries=0)
# The SDK of this version has no `temperature` among its parameters.
ASK = {"model": MODEL, "max_tokens": 256, "extra_body": {"temperature": 0}}
TOOLS = [{"name": "find_city", "input_schema": City.model_json_schema()}]


def look() -> list[dict[str, Any]]:
    source = {"type": "base64", "media_type": "image/jpeg", "data": PICTURE_BASE64}
    content = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


def test_text() -> None:
    message = client.messages.create(**ASK, messages=hello())
    assert message.content[0].text
    count = client.messages.count_tokens(model=MODEL, messages=hello())
    assert message.usage.input_tokens == count.input_tokens


def test_stream() -> None:
    whole = client.messages.create(**ASK, messages=hello())
    with client.messages.stream(**ASK, messages=hello()) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens
    assert text == whole.content[0].text


def test_picture() -> None:
    assert SEEN in client.messages.create(**ASK, messages=look()).content[0].text


class Shape(BaseModel):
    """Without a minimum and maximum: this SDK moves them into the description."""

    colour: Literal["red", "blue"]
    count: Literal[1, 2, 3]


def test_object() -> None:
    answer = client.messages.parse(**ASK, messages=look(), output_format=Shape)
    assert isinstance(answer.parsed_output, Shape)


def test_tools() -> None:
    messages = which_city()
    asked = {**ASK, "messages": messages, "tools": TOOLS}
    first = client.messages.create(**asked, tool_choice={"type": "any"})
    calls = [block for block in first.content if block.type == "tool_use"]
    assert all(City.model_validate(call.input) for call in calls)
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": "Berlin"} for call in calls
    ]
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": results},
    ]
    answer = client.messages.create(**asked, tool_choice={"type": "none"})
    assert answer.content[0].text
