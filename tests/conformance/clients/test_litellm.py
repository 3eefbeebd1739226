"""LiteLLM, with the server as `openai/…`."""

from typing import Any

import litellm

from tests.conformance.clients.asking import (
    BASE_URL,
    MODEL,
    SEEN,
    TOOL,
    City,
    Shapes,
    hello,
    look,
    which_city,
)


def ask(messages: list[Any], **options: Any) -> Any:
    return litellm.completion(
        model=f"openai/{MODEL}", api_base=BASE_URL, api_key="none", messages=messages,
        temperature=0, max_tokens=256, num_retries=0, **options,
    )  # fmt: skip


def test_text() -> None:
    answer = ask(hello())
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


def test_stream() -> None:
    streamed = ask(hello(), stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == ask(hello()).choices[0].message.content


def test_picture() -> None:
    assert SEEN in ask(look()).choices[0].message.content


def test_object() -> None:
    answer = ask(look(), response_format=Shapes)
    Shapes.model_validate_json(answer.choices[0].message.content)


def test_tools() -> None:
    messages = which_city()
    message = ask(messages, tools=[TOOL], tool_choice="required").choices[0].message
    messages.append(message)
    for call in message.tool_calls:
        City.model_validate_json(call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "Berlin"})
    assert ask(messages, tools=[TOOL], tool_choice="none").choices[0].message.content
