"""litellm as a client: whole, streamed, with a picture, a schema and a tool."""

import base64
import json
from pathlib import Path
from typing import Any

import litellm
import pytest

EXAMPLE = Path(__file__).parents[1] / "data" / "example.jpg"
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["number"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def ask(base_url: str) -> Any:
    def ask(content: Any, **options: Any) -> Any:
        return litellm.completion(
            model="openai/internvl-demo",
            api_base=base_url,
            api_key="none",
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=96,
            num_retries=0,
            **options,
        )

    return ask


def picture(question: str) -> list[dict[str, Any]]:
    data = base64.b64encode(EXAMPLE.read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
    return [image, {"type": "text", "text": question}]


def test_a_picture_whole_and_streamed(ask: Any) -> None:
    whole = ask(picture("Describe the image."))
    streamed = ask(picture("Describe the image."), stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == whole.choices[0].message.content
    assert text
    assert whole.usage.prompt_tokens > 64


def test_a_tool_is_called(ask: Any) -> None:
    answer = ask("Call it.", tools=[TOOL], tool_choice="required")
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "note"
    assert 0 <= json.loads(call.function.arguments)["number"] <= 9


def test_a_schema_is_kept(ask: Any) -> None:
    schema = TOOL["function"]["parameters"]
    answer = ask(
        "A number.",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    )
    assert 0 <= json.loads(answer.choices[0].message.content)["number"] <= 9
