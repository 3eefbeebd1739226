from typing import Any

import pytest
from openai.types.chat import completion_create_params

from server.errors import UnsupportedParameterError
from server.protocol.chat import ChatCompletionRequest
from server.protocol.fields import BOOKKEEPING, IMPLEMENTED, REFUSED, without_bookkeeping

NOT_NEUTRAL: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "logit_bias": {"1": 1},
    "logprobs": True,
    "modalities": ["audio"],
    "moderation": {"model": "m"},
    "n": 2,
    "parallel_tool_calls": "yes",
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 1,
    "reasoning_effort": "high",
    "response_format": {"type": "json_object"},
    "service_tier": "priority",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_logprobs": 3,
    "verbosity": "low",
    "web_search_options": {},
}


def test_every_parameter_of_the_installed_sdk_is_in_one_group() -> None:
    params = completion_create_params.CompletionCreateParamsBase.__annotations__.keys()
    known = set(params) | {"stream"}
    assert known <= IMPLEMENTED | BOOKKEEPING | REFUSED.keys()


def test_no_field_is_in_two_groups() -> None:
    assert not IMPLEMENTED & BOOKKEEPING
    assert not (IMPLEMENTED | BOOKKEEPING) & REFUSED.keys()


def test_the_model_has_exactly_the_implemented_fields() -> None:
    assert set(ChatCompletionRequest.model_fields) == IMPLEMENTED


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_fields_are_named_unless_they_ask_for_nothing(name: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        without_bookkeeping({name: NOT_NEUTRAL[name]})
    assert caught.value.param == name
    for neutral in (None, *REFUSED[name]):
        assert without_bookkeeping({name: neutral}) == {}


@pytest.mark.parametrize("name", ["temprature", "session_id", "chat_template", "input_ids", ""])
def test_unknown_fields_are_refused_even_when_null(name: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        without_bookkeeping({name: None})
    assert caught.value.param == name
    assert caught.value.code == "unknown_parameter"


def test_true_is_not_one() -> None:
    with pytest.raises(UnsupportedParameterError):
        without_bookkeeping({"n": True})


@pytest.mark.parametrize("name", sorted(BOOKKEEPING))
def test_bookkeeping_is_accepted(name: str) -> None:
    assert without_bookkeeping({name: {"any": "thing"}}) == {}
