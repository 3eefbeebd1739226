from typing import Any

import pytest
from internvl_server.engine.base import Capability
from internvl_server.errors import UnsupportedParameterError
from internvl_server.protocol.chat.request import CHAT_FIELDS
from internvl_server.protocol.completions.request import COMPLETION_FIELDS
from internvl_server.protocol.fields import FieldTable, known_fields
from internvl_server.protocol.responses.request import RESPONSES_FIELDS
from openai.types.chat import completion_create_params

BOOKKEEPING, REFUSED, EXTENSIONS = (
    CHAT_FIELDS.bookkeeping,
    CHAT_FIELDS.refused,
    CHAT_FIELDS.extensions,
)
IMPLEMENTED = CHAT_FIELDS.implemented - EXTENSIONS

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


@pytest.mark.parametrize("table", [CHAT_FIELDS, COMPLETION_FIELDS, RESPONSES_FIELDS])
def test_every_field_has_a_note_and_needs_a_known_capability(table: FieldTable) -> None:
    for row in table.rows():
        assert row.note, row.name
        assert row.needs is None or Capability(row.needs)


def test_whether_a_field_is_an_extension_depends_on_the_api() -> None:
    assert "seed" not in CHAT_FIELDS.extensions | COMPLETION_FIELDS.extensions
    assert "seed" in RESPONSES_FIELDS.extensions
    for table in (CHAT_FIELDS, COMPLETION_FIELDS, RESPONSES_FIELDS):
        assert "min_p" in table.extensions
        assert "temperature" not in table.extensions


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_fields_are_named_unless_they_ask_for_nothing(name: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        known_fields({name: NOT_NEUTRAL[name]}, CHAT_FIELDS)
    assert caught.value.param == name
    for neutral in (None, *REFUSED[name]):
        assert known_fields({name: neutral}, CHAT_FIELDS) == ({}, ())


@pytest.mark.parametrize("name", ["temprature", "session_id", "chat_template", "input_ids", ""])
def test_unknown_fields_are_refused_even_when_null_where_that_is_set(name: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        known_fields({name: None}, CHAT_FIELDS)
    assert caught.value.param == name
    assert caught.value.code == "unknown_parameter"


def test_unknown_fields_are_named_where_they_are_ignored() -> None:
    body = {"model": "m", "colour": 1, "n": 2}
    kept = {"model": "m", "n": 2}
    assert known_fields(body, CHAT_FIELDS, ignore_unknown=True) == (kept, ("colour",))
    with pytest.raises(UnsupportedParameterError):
        known_fields({"audio": {}}, CHAT_FIELDS, ignore_unknown=True)


@pytest.mark.parametrize("name", sorted(BOOKKEEPING))
def test_bookkeeping_is_accepted(name: str) -> None:
    assert known_fields({name: {"any": "thing"}}, CHAT_FIELDS) == ({}, ())
