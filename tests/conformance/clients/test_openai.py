"""The openai SDK: chat completions."""

import openai

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

client = openai.OpenAI(base_url=BASE_URL, api_key="none", max_retries=0)
ASK = {"model": MODEL, "temperature": 0, "max_completion_tokens": 256}


def test_text() -> None:
    answer = client.chat.completions.create(**ASK, messages=hello())
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens > answer.usage.prompt_tokens > 0


def test_stream() -> None:
    whole = client.chat.completions.create(**ASK, messages=hello())
    options = {"include_usage": True}
    with client.chat.completions.stream(**ASK, messages=hello(), stream_options=options) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.content == whole.choices[0].message.content
    assert streamed.usage == whole.usage


def test_picture() -> None:
    answer = client.chat.completions.create(**ASK, messages=look())
    assert SEEN in answer.choices[0].message.content


def test_object() -> None:
    answer = client.chat.completions.parse(**ASK, messages=look(), response_format=Shapes)
    assert isinstance(answer.choices[0].message.parsed, Shapes)


def test_tools() -> None:
    messages = which_city()
    asked = {**ASK, "messages": messages, "tools": [TOOL]}
    answer = client.chat.completions.create(**asked, tool_choice="required")
    message = answer.choices[0].message
    for call in message.tool_calls:
        City.model_validate_json(call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "Berlin"})
    messages.insert(1, message)
    assert client.chat.completions.create(**asked, tool_choice="none").choices[0].message.content
