"""The openai SDK, asynchronous: chat completions."""

import asyncio

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

ASK = {"model": MODEL, "temperature": 0, "max_completion_tokens": 256}


def make_client() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=BASE_URL, api_key="none", max_retries=0)


async def test_text() -> None:
    async with make_client() as client:
        asked = [client.chat.completions.create(**ASK, messages=hello()) for _ in range(4)]
        texts = {a.choices[0].message.content for a in await asyncio.gather(*asked)}
    [text] = texts
    assert text


async def test_stream() -> None:
    async with make_client() as client:
        whole = await client.chat.completions.create(**ASK, messages=hello())
        stream = await client.chat.completions.create(**ASK, messages=hello(), stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


async def test_picture() -> None:
    async with make_client() as client:
        answer = await client.chat.completions.create(**ASK, messages=look())
    assert SEEN in answer.choices[0].message.content


async def test_object() -> None:
    async with make_client() as client:
        asked = {**ASK, "messages": look(), "response_format": Shapes}
        async with client.chat.completions.stream(**asked) as stream:
            answer = await stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Shapes)


async def test_tools() -> None:
    asked = {**ASK, "tools": [TOOL], "tool_choice": "required"}
    async with (
        make_client() as client,
        client.chat.completions.stream(**asked, messages=which_city()) as stream,
    ):
        message = (await stream.get_final_completion()).choices[0].message
        calls = message.tool_calls
        assert all(City.model_validate_json(call.function.arguments) for call in calls)
        results = [{"role": "tool", "tool_call_id": c.id, "content": "Berlin"} for c in calls]
        answer = await client.chat.completions.create(
            **ASK, messages=[*which_city(), message, *results], tools=[TOOL], tool_choice="none"
        )
    assert answer.choices[0].message.content
