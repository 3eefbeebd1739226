"""Several answers to one request, over real sockets with the real SDK."""

from collections import Counter
from collections.abc import Callable

import openai
import pytest

from tests.live_server import LiveServer

MODEL = "tiny"
ASK = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]
ECHO = "system\ns\nuser\nhello\nassistant\n"


def test_each_choice_is_an_answer_and_the_prompt_is_counted_once(echo_server: LiveServer) -> None:
    client = echo_server.client()
    one = client.chat.completions.create(model=MODEL, messages=ASK)
    three = client.chat.completions.create(model=MODEL, messages=ASK, n=3)
    assert [c.index for c in three.choices] == [0, 1, 2]
    assert {c.message.content for c in three.choices} == {ECHO}
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens


def test_choices_are_streamed_interleaved(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"echo": {"token_delay_s": 0.002}})
    chunks = list(
        server.client().chat.completions.create(
            model=MODEL, messages=ASK, n=3, stream=True, stream_options={"include_usage": True}
        )
    )
    texts = Counter[int]()
    order = []
    for chunk in chunks[:-1]:
        [choice] = chunk.choices
        texts[choice.index] += len(choice.delta.content or "")
        order.append(choice.index)
    assert texts == dict.fromkeys(range(3), len(ECHO))
    assert order != sorted(order)
    ends = [c.choices[0].index for c in chunks[:-1] if c.choices[0].finish_reason == "stop"]
    assert sorted(ends) == [0, 1, 2]
    assert chunks[-1].usage is not None
    roles = [c.choices[0] for c in chunks[:-1] if c.choices[0].delta.role]
    assert [c.index for c in roles] == [0, 1, 2]


def test_pictures_are_prepared_once_for_all_choices(
    start_server: Callable[..., LiveServer],
    picture_url: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start_server()
    media = server.app.state.services.pipeline._prompts._media
    prepared: list[int] = []
    prepare = media.prepare

    async def counted(references, **options):
        prepared.append(len(references))
        return await prepare(references, **options)

    monkeypatch.setattr(media, "prepare", counted)
    parts = [{"type": "image_url", "image_url": {"url": picture_url()}}]
    answer = server.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": parts}], n=4
    )
    assert len(answer.choices) == 4
    assert prepared == [1]


def test_a_client_that_leaves_ends_all_choices(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"echo": {"hang_after_tokens": 3}, "max_num_seqs": 2})
    stream = server.client().chat.completions.create(model=MODEL, messages=ASK, n=4, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    server.wait_idle()
    assert server.engine.num_aborted == 4
    assert server.gate.num_in_flight == 0


def test_a_failure_of_the_engine_is_one_error(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"echo": {"fail_after_tokens": 2}})
    with (
        server.client() as client,
        client.chat.completions.create(model=MODEL, messages=ASK, n=2, stream=True) as stream,
        pytest.raises(openai.APIError, match="echo engine failed"),
    ):
        list(stream)
    server.wait_idle()


def test_stop_strings_end_each_choice_by_itself(echo_server: LiveServer) -> None:
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=ASK, n=2, stop="hel",
        extra_body={"include_stop_str_in_output": True},
    )  # fmt: skip
    assert {c.message.content for c in answer.choices} == {"system\ns\nuser\nhel"}
    assert echo_server.engine.health().num_running == 0


def test_special_tokens_can_be_shown(echo_server: LiveServer) -> None:
    shown = echo_server.client().chat.completions.create(
        model=MODEL, messages=ASK,
        extra_body={"skip_special_tokens": False, "include_stop_str_in_output": True},
    )  # fmt: skip
    text = shown.choices[0].message.content
    assert text is not None
    assert text.startswith(ECHO)
    assert text[len(ECHO) :] in ("<|im_end|>", "<|endoftext|>")


def test_more_choices_than_the_limit(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(limits={"max_choices": 2})
    for n in (3, 1000):
        with pytest.raises(
            openai.BadRequestError, match=r"the limit is 2 \(limits.max_choices\)"
        ) as caught:
            server.client().chat.completions.create(model=MODEL, messages=ASK, n=n)
        assert caught.value.param == "n"
        assert caught.value.code == "invalid_value"


def test_any_model_name_where_that_is_set(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(model={"accept_any_name": True})
    answer = server.client().chat.completions.create(model="gpt-4o", messages=ASK)
    assert answer.model == MODEL
