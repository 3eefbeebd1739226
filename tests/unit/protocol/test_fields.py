from typing import Any

import pytest
from internvl_server.errors import UnsupportedParameterError
from internvl_server.protocol.chat.request import ChatCompletionRequest
from internvl_server.protocol.fields import (
    BOOKKEEPING,
    EXTENSIONS,
    IMPLEMENTED,
    REFUSED,
    known_fields,
)
from openai.types.chat import completion_create_params

NOT_NEUTRAL: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "modalities": ["audio"],
    "moderation": {"model": "m"},
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "high",
    "verbosity": "low",
    "web_search_options": {},
}


def test_every_parameter_of_the_installed_sdk_is_in_one_group() -> None:
    params = completion_create_params.CompletionCreateParamsBase.__annotations__.keys()
    known = set(params) | {"stream"}
    assert known <= IMPLEMENTED | BOOKKEEPING | REFUSED.keys()


def test_no_field_is_in_two_groups() -> None:
    groups = [IMPLEMENTED, EXTENSIONS, BOOKKEEPING, set(REFUSED)]
    assert len(set().union(*groups)) == sum(map(len, groups))


def test_openais_fields_are_openais() -> None:
    params = completion_create_params.CompletionCreateParamsBase.__annotations__.keys()
    assert IMPLEMENTED | BOOKKEEPING | REFUSED.keys() <= set(params) | {"stream"}
    assert not EXTENSIONS & set(params)


def test_the_model_has_exactly_the_implemented_fields() -> None:
    assert set(ChatCompletionRequest.model_fields) == IMPLEMENTED | EXTENSIONS


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_fields_are_named_unless_they_ask_for_nothing(name: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        known_fields({name: NOT_NEUTRAL[name]})
    assert caught.value.param == name
    for neutral in (None, *REFUSED[name]):
        assert known_fields({name: neutral}) == ({}, ())


@pytest.mark.parametrize("name", ["temprature", "session_id", "chat_template", "input_ids", ""])
def test_unknown_fields_are_refused_even_when_null(name: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        known_fields({name: None})
    assert caught.value.param == name
    assert caught.value.code == "unknown_parameter"


def test_unknown_fields_are_named_where_they_are_ignored() -> None:
    body = {"model": "m", "temprature": 1, "n": 2}
    assert known_fields(body, ignore_unknown=True) == ({"model": "m", "n": 2}, ("temprature",))
    with pytest.raises(UnsupportedParameterError):
        known_fields({"audio": {}}, ignore_unknown=True)


@pytest.mark.parametrize("name", sorted(BOOKKEEPING))
def test_bookkeeping_is_accepted(name: str) -> None:
    assert known_fields({name: {"any": "thing"}}) == ({}, ())
