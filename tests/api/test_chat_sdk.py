"""The real `openai` SDK, strict validation on, against the whole server with the echo engine."""

from collections.abc import Callable

import openai
import pytest
from internvl_server.prompt.tokenizer import PromptTokenizer

from tests.live_server import LiveServer

MODEL = "tiny"


def ask(text: str) -> list[dict[str, str]]:
    """The echo engine repeats the prompt: a system text of one letter keeps that short."""
    return [{"role": "system", "content": "s"}, {"role": "user", "content": text}]


ECHO = "system\ns\nuser\nhello\nassistant\n"


def test_a_whole_answer(echo_server: LiveServer) -> None:
    answer = echo_server.client().chat.completions.create(model=MODEL, messages=ask("hello"))
    assert answer.choices[0].message.content == ECHO
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")


def test_stream_and_whole_answer_agree(echo_server: LiveServer) -> None:
    client = echo_server.client()
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=ask("héllo 世界 🙂"), stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    whole = client.chat.completions.create(model=MODEL, messages=ask("héllo 世界 🙂"))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert "世界 🙂" in text
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        "stop"
    ]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_usage_is_the_tokenizers_count(echo_server: LiveServer, tokenizer: PromptTokenizer) -> None:
    answer = echo_server.client().chat.completions.create(model=MODEL, messages=ask("hello"))
    rendered = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    num_prompt = len(tokenizer._full.encode(rendered, add_special_tokens=False).ids)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == num_prompt
    # The stop token was generated too.
    assert answer.usage.completion_tokens == len(tokenizer.encode_text(ECHO)) + 1
    assert answer.usage.total_tokens == num_prompt + answer.usage.completion_tokens


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_answers_end_at_their_limit(echo_server: LiveServer, limit: str) -> None:
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=ask("hello"), **{limit: 3}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


@pytest.mark.parametrize("stream", [True, False])
def test_stop_strings_end_the_text_before_them(echo_server: LiveServer, stream: bool) -> None:
    made = echo_server.client().chat.completions.create(
        model=MODEL, messages=ask("one two three"), stop=["o th", "zzz"], stream=stream
    )
    if stream:
        chunks = [c.choices[0] for c in made]
        text = "".join(c.delta.content or "" for c in chunks)
        reason = chunks[-1].finish_reason
    else:
        text, reason = made.choices[0].message.content, made.choices[0].finish_reason
    assert text == "system\ns\nuser\none tw"
    assert reason == "stop"


def test_a_stopped_answer_leaves_nothing_running(echo_server: LiveServer) -> None:
    echo_server.client().chat.completions.create(model=MODEL, messages=ask("a b c"), stop="b")
    assert echo_server.engine.health().num_running == 0
    assert echo_server.gate.num_in_flight == 0


def test_images_count_as_tokens(echo_server: LiveServer, picture_url: Callable[..., str]) -> None:
    def usage(detail: str) -> tuple[int, int]:
        parts = [
            {"type": "image_url", "image_url": {"url": picture_url(900, 900), "detail": detail}},
            {"type": "text", "text": "What?"},
        ]
        answer = echo_server.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=1
        )
        assert answer.usage is not None
        image_tokens = answer.usage.model_dump()["prompt_tokens_details"]["image_tokens"]
        return answer.usage.prompt_tokens, image_tokens

    low, high = usage("low"), usage("high")
    per_tile = echo_server.get("/v1/models").json()["data"][0]["num_tokens_per_tile"]
    assert low[1] == per_tile
    assert high[1] > low[1]
    assert high[1] % per_tile == 0
    assert high[0] - low[0] == high[1] - low[1]


def test_models(echo_server: LiveServer) -> None:
    client = echo_server.client()
    assert [m.id for m in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


def test_bookkeeping_and_neutral_fields_change_nothing(echo_server: LiveServer) -> None:
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=ask("hello"), user="u", metadata={"a": "b"}, store=False, n=1,
        presence_penalty=0, logprobs=False, safety_identifier="s", response_format={"type": "text"},
    )  # fmt: skip
    assert answer.choices[0].message.content == ECHO


async def test_async_client_streams(echo_server: LiveServer) -> None:
    async with echo_server.async_client() as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=ask("hello"), stream=True
        )
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
    assert text == ECHO


def test_fields_that_are_shown_beside_the_answer(echo_server: LiveServer) -> None:
    """`service_tier`, `stream` and `stream_options` change what is sent; `model` is checked."""
    client = echo_server.client()
    plain = client.chat.completions.create(model=MODEL, messages=ask("hello"))
    tier = client.chat.completions.create(
        model=MODEL, messages=ask("hello"), service_tier="auto", prompt_cache_key="k"
    )
    assert (plain.service_tier, tier.service_tier) == (None, "default")
    options = {"model": MODEL, "messages": ask("hello"), "stream": True}
    bare = list(client.chat.completions.create(**options))
    filled = list(
        client.chat.completions.create(
            stream_options={"include_usage": True, "include_obfuscation": True}, **options
        )
    )
    assert all(chunk.choices for chunk in bare)
    assert filled[-1].usage == plain.usage
    assert all("obfuscation" in chunk.model_fields_set for chunk in filled if chunk.choices)
    assert not any("obfuscation" in chunk.model_fields_set for chunk in bare)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=ask("hello"))


def test_usage_tells_each_pictures_tiles_and_tokens(
    echo_server: LiveServer, picture_url: Callable[..., str]
) -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": picture_url(900, 900), "detail": detail}}
        for detail in ("high", "low")
    ]
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=1
    )
    assert answer.usage is not None
    details = answer.usage.model_dump()["prompt_tokens_details"]
    per_tile = echo_server.get("/v1/models").json()["data"][0]["num_tokens_per_tile"]
    assert all(image["tokens"] == per_tile * image["tiles"] for image in details["images"])
    assert sum(image["tokens"] for image in details["images"]) == details["image_tokens"]
    assert details["images"][0]["tiles"] > details["images"][1]["tiles"]
    assert details["text_tokens"] + details["image_tokens"] == answer.usage.prompt_tokens
    assert details["cached_tokens"] == 0
