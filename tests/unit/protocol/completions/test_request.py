import json
from dataclasses import replace
from typing import Any

import pytest
from internvl_server.core import LogprobToken, TextLogprobs
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.chat.request import ChatCompletionRequest
from internvl_server.protocol.completions.render import legacy_logprobs
from internvl_server.protocol.completions.request import (
    COMPLETION_FIELDS,
    CompletionRequest,
    ParsedCompletion,
    parse_completion_request,
)
from internvl_server.settings import LimitSettings
from openai.types import completion_create_params

SET: dict[str, Any] = {
    "frequency_penalty": 0.5,
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "logit_bias": {"3": -5},
    "logprobs": 2,
    "max_tokens": 5,
    "min_p": 0.1,
    "min_tokens": 3,
    "n": 2,
    "presence_penalty": 0.5,
    "repetition_penalty": 1.5,
    "response_format": {"type": "json_object"},
    "seed": -7,
    "skip_special_tokens": False,
    "stop": "x",
    "stop_token_ids": [3],
    "structured_outputs": {"regex": "a+"},
    "temperature": 0.3,
    "top_k": 4,
    "top_p": 0.5,
}
# Neither sampling nor what is shown of an answer's tokens.
ELSEWHERE = {"best_of", "echo", "model", "prompt", "stream", "stream_options"}


def parse(**fields: Any) -> ParsedCompletion:
    body = json.dumps({"model": "m", "prompt": "p"} | fields).encode()
    return parse_completion_request(body, LimitSettings())


def test_every_parameter_of_the_installed_sdk_is_known() -> None:
    params = completion_create_params.CompletionCreateParamsBase.__annotations__.keys()
    known = (
        COMPLETION_FIELDS.implemented
        | COMPLETION_FIELDS.bookkeeping
        | COMPLETION_FIELDS.refused.keys()
    )
    assert set(params) | {"stream"} <= known


def test_each_implemented_field_is_here() -> None:
    assert COMPLETION_FIELDS.implemented == SET.keys() | ELSEWHERE


def test_fields_of_both_endpoints_take_the_same_values() -> None:
    ours, chats = (
        model.model_json_schema()["properties"]
        for model in (CompletionRequest, ChatCompletionRequest)
    )
    shared = ours.keys() & chats.keys() - {"logprobs"}
    assert len(shared) >= 20
    for name in shared:
        assert ours[name] | {"description": ""} == chats[name] | {"description": ""}


@pytest.mark.parametrize("name", sorted(SET))
def test_setting_a_field_changes_what_is_asked_for(name: str) -> None:
    plain, changed = parse(), parse(**{name: SET[name]})
    assert (changed.sampling, changed.answer) != (plain.sampling, plain.answer)


def test_defaults() -> None:
    sampling, answer = parse().sampling, parse().answer
    assert (sampling.max_tokens, sampling.temperature, sampling.num_logprobs) == (16, 1.0, None)
    assert (answer.num_choices, answer.skip_special_tokens) == (1, None)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a", [1]], ("a", (1,))),
    ],
)
def test_prompts(prompt: Any, prompts: Any) -> None:
    body = json.dumps({"model": "m", "prompt": prompt}).encode()
    assert parse_completion_request(body, LimitSettings()).prompts == prompts


def test_answers_of_all_prompts_together_are_limited() -> None:
    limits = LimitSettings(max_prompts=4)

    def parsed(num_prompts: int, n: int) -> None:
        body = {"model": "m", "prompt": ["a"] * num_prompts, "n": n}
        parse_completion_request(json.dumps(body).encode(), limits)

    parsed(1, 5)
    parsed(2, 2)
    parsed(4, 1)
    with pytest.raises(InvalidRequestError, match="max_prompts") as caught:
        parsed(2, 3)
    assert caught.value.param == "n"
    with pytest.raises(InvalidRequestError, match="max_prompts") as caught:
        parsed(5, 1)
    assert caught.value.param == "prompt"


def entry(data: bytes, *top: bytes) -> TextLogprobs:
    def token(piece: bytes, logprob: float) -> LogprobToken:
        return LogprobToken(piece.decode("utf-8", "replace"), piece, logprob)

    return TextLogprobs(token(data, -3.0), tuple(token(t, -n / 10) for n, t in enumerate(top)))


def test_the_chosen_token_is_shown_beside_the_likeliest() -> None:
    shown = legacy_logprobs([entry(b"a", b"b", b"c", b"a"), entry(b"b", b"b", b"c", b"d")], 2)
    assert shown is not None
    assert shown["top_logprobs"] == [
        {"a": -3.0, "b": 0.0, "c": -0.1},
        {"b": 0.0, "c": -0.1},
    ]


def test_parts_of_a_character_have_names() -> None:
    shown = legacy_logprobs([entry(piece) for piece in (b"a", b"\xe4\xb8", b"\x96", b"b")], 0)
    assert shown is not None
    assert shown["tokens"] == ["a", "bytes:\\xe4\\xb8", "bytes:\\x96", "b"]


def test_offsets_are_those_of_the_answer() -> None:
    entries = [replace(entry(b"<end>"), offset=3), replace(entry(b"b"), offset=3)]
    shown = legacy_logprobs(entries, 0)
    assert shown is not None
    assert shown["text_offset"] == [3, 3]


def test_nothing_where_there_is_nothing() -> None:
    assert legacy_logprobs((), 2) is None
