"""`/v1/completions` with the real `openai` SDK, strict validation on, against the echo engine."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import openai
import pytest
from internvl_server.prompt.tokenizer import PromptTokenizer

from tests.api.test_errors import assert_envelope
from tests.live_server import LiveServer

MODEL = "tiny"
PATH = "/v1/completions"


def post(server: LiveServer, body: dict[str, Any], **headers: str) -> Any:
    import httpx2

    return httpx2.post(server.url + PATH, json=body, headers=headers, timeout=60)


def streaming(server: LiveServer) -> openai.OpenAI:
    """Without strict validation: the SDK's type has no null for `finish_reason`, OpenAI's streams do."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_a_text_is_continued_without_a_template(
    echo_server: LiveServer, tokenizer: PromptTokenizer
) -> None:
    """The echo engine says the prompt again: it had nothing but the prompt."""
    answer = echo_server.client().completions.create(model=MODEL, prompt="Once upon", max_tokens=99)
    [choice] = answer.choices
    assert (choice.text, choice.index, choice.finish_reason) == ("Once upon", 0, "stop")
    assert choice.logprobs is None
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.system_fingerprint == echo_server.get("/version").json()["system_fingerprint"]
    num_tokens = len(tokenizer.encode_text("Once upon"))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == num_tokens
    assert answer.usage.completion_tokens == num_tokens + 1


def test_the_limit_is_16_tokens_unless_named(echo_server: LiveServer) -> None:
    create = echo_server.client().completions.create
    long = "word " * 40
    for options, num_tokens in (({}, 16), ({"max_tokens": 5}, 5)):
        answer = create(model=MODEL, prompt=long, **options)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == num_tokens
        assert answer.choices[0].finish_reason == "length"


def test_control_tokens_are_text_in_text_and_themselves_as_ids(
    echo_server: LiveServer, tokenizer: PromptTokenizer
) -> None:
    create = echo_server.client().completions.create
    assert create(model=MODEL, prompt="<|im_end|>", max_tokens=99).choices[0].text == "<|im_end|>"
    ids = [tokenizer.control_id("<|im_start|>"), *tokenizer.encode_text("user\nhi")]
    answer = create(model=MODEL, prompt=ids, max_tokens=99)
    assert answer.choices[0].text == "user\nhi"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)


def test_several_prompts_and_choices_are_numbered_through(
    echo_server: LiveServer, tokenizer: PromptTokenizer
) -> None:
    create = echo_server.client().completions.create
    texts = ["one", "two three", "four"]
    for prompt in (texts, [tokenizer.encode_text(text) for text in texts]):
        answer = create(model=MODEL, prompt=prompt, n=2, best_of=2, max_tokens=99)
        assert [c.index for c in answer.choices] == list(range(6))
        assert [c.text for c in answer.choices] == [t for t in texts for _ in range(2)]
        singles = [create(model=MODEL, prompt=t, max_tokens=99).usage for t in texts]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == sum(u.prompt_tokens for u in singles if u)
        assert answer.usage.completion_tokens == 2 * sum(u.completion_tokens for u in singles if u)


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("obfuscation", [False, True])
def test_streams_say_what_whole_answers_say(
    echo_server: LiveServer, echo: bool, obfuscation: bool
) -> None:
    create = streaming(echo_server).completions.create
    options: dict[str, Any] = {
        "model": MODEL, "prompt": ["héllo 世界 🙂", "b"], "n": 2, "echo": echo, "max_tokens": 99,
    }  # fmt: skip
    chunks = list(
        create(
            **options, stream=True,
            stream_options={"include_usage": True, "include_obfuscation": obfuscation},
        )
    )  # fmt: skip
    whole = create(**options)
    texts = Counter[int]()
    pieces: dict[int, str] = {}
    for chunk in chunks[:-1]:
        [choice] = chunk.choices
        pieces[choice.index] = pieces.get(choice.index, "") + choice.text
        texts[choice.index] += choice.finish_reason == "stop"
        assert chunk.object == "text_completion"
        assert ("obfuscation" in chunk.model_dump()) == obfuscation
    assert pieces == {c.index: c.text for c in whole.choices}
    assert pieces[0] == "héllo 世界 🙂" * (2 if echo else 1)
    assert texts == dict.fromkeys(range(4), 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_echo_shows_ids_as_text(echo_server: LiveServer, tokenizer: PromptTokenizer) -> None:
    ids = [tokenizer.control_id("<|im_start|>"), *tokenizer.encode_text("hi")]
    answer = echo_server.client().completions.create(model=MODEL, prompt=ids, echo=True)
    assert answer.choices[0].text == "<|im_start|>hihi"


def test_stop_strings(echo_server: LiveServer) -> None:
    create = echo_server.client().completions.create
    answer = create(model=MODEL, prompt="one two three", stop=["o th", "zzz"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one tw", "stop")
    shown = create(
        model=MODEL, prompt="one two", stop="two", extra_body={"include_stop_str_in_output": True}
    )
    assert shown.choices[0].text == "one two"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": None}, "invalid_value", "prompt"),
        ({"prompt": ""}, "invalid_request", "prompt"),
        ({"prompt": []}, "invalid_value", "prompt"),
        ({"prompt": 5}, "invalid_value", "prompt"),
        ({"prompt": {"a": 1}}, "invalid_value", "prompt"),
        ({"prompt": ["a", ""]}, "invalid_request", "prompt[1]"),
        ({"prompt": ["a", 5]}, "invalid_value", "prompt[1]"),
        ({"prompt": [[1], ["a"]]}, "invalid_value", "prompt[1]"),
        ({"prompt": [True]}, "invalid_value", "prompt[0]"),
        ({"prompt": ["a"] * 65}, "invalid_request", "prompt"),
        ({"prompt": [10**9]}, "invalid_request", "prompt"),
        ({"prompt": [[1], [-1]]}, "invalid_request", "prompt[1]"),
        ({"prompt": [1] * 5000}, "context_length_exceeded", "prompt"),
        ({"prompt": ["a", "word " * 3000]}, "context_length_exceeded", "prompt[1]"),
        ({"max_tokens": 5000}, "context_length_exceeded", "prompt"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"logprobs": 6}, "invalid_value", "logprobs"),
        ({"logprobs": True}, "invalid_value", "logprobs"),
        ({"suffix": "x"}, "unsupported_parameter", "suffix"),
        ({"best_of": 2}, "unsupported_parameter", "best_of"),
        ({"n": 2, "best_of": 3}, "unsupported_parameter", "best_of"),
        ({"echo": True, "logprobs": 0}, "unsupported_parameter", "echo"),
        ({"stop": ["a"] * 5}, "invalid_request", "stop"),
        ({"stream_options": {"include_usage": True}}, "invalid_request", "stream_options"),
        ({"logit_bias": {"99999": 1}}, "invalid_request", "logit_bias"),
        ({"n": 100}, "invalid_value", "n"),
    ],
)
def test_refusals(echo_server: LiveServer, fields: dict[str, Any], code: str, param: str) -> None:
    assert_envelope(post(echo_server, {"model": MODEL, "prompt": "a"} | fields), 400, code, param)
    assert echo_server.gate.num_in_flight == 0
    assert echo_server.engine.health().num_running == 0


def test_a_prompt_and_a_model_are_needed(echo_server: LiveServer) -> None:
    code = "missing_required_parameter"
    assert_envelope(post(echo_server, {"model": MODEL}), 400, code, "prompt")
    assert_envelope(post(echo_server, {"prompt": "a"}), 400, code, "model")
    other = {"model": "x", "prompt": "a"}
    assert_envelope(post(echo_server, other), 404, "model_not_found", "model")


def test_the_image_token_is_no_token_of_a_prompt(
    echo_server: LiveServer, tokenizer: PromptTokenizer
) -> None:
    ids = [1, tokenizer.control_id("<IMG_CONTEXT>")]
    body = {"model": MODEL, "prompt": ids}
    assert_envelope(post(echo_server, body), 400, "invalid_request", "prompt")


def test_a_client_that_leaves_ends_all(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"echo": {"hang_after_tokens": 3}, "max_num_seqs": 2})
    stream = streaming(server).completions.create(
        model=MODEL, prompt=["one two three"] * 3, n=2, stream=True
    )
    next(iter(stream))
    stream.close()
    server.wait_idle()
    assert server.engine.num_aborted == 6
    assert server.gate.num_in_flight == 0


def test_a_failure_ends_the_stream_with_an_error(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"echo": {"fail_after_tokens": 1}})
    create = streaming(server).completions.create
    with pytest.raises(openai.APIError, match="echo engine failed"):
        list(create(model=MODEL, prompt="one two three", stream=True))
    with pytest.raises(openai.InternalServerError):
        create(model=MODEL, prompt=["one two three", "b"])
    server.wait_idle()


async def test_async_client_streams(echo_server: LiveServer) -> None:
    async with echo_server.async_client() as client:
        stream = await client.completions.create(model=MODEL, prompt="hello", stream=True)
        assert "".join([c.choices[0].text async for c in stream]) == "hello"
