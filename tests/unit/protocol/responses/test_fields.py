from typing import Any, get_args, get_type_hints

import pytest
from internvl_server.errors import UnsupportedParameterError
from internvl_server.protocol.fields import known_fields
from internvl_server.protocol.responses.request import COUNT_FIELDS, RESPONSES_FIELDS
from internvl_server.protocol.responses.unsupported import HOSTED_ITEMS, HOSTED_TOOLS
from openai.types.responses import (
    input_token_count_params,
    response_create_params,
    response_input_param,
    tool_param,
)

RESPONSES_REFUSED = RESPONSES_FIELDS.refused
SDK_PARAMS = set(response_create_params.ResponseCreateParamsBase.__annotations__) | {"stream"}
NOT_NEUTRAL: dict[str, Any] = {
    "access_programs": {"cyber": "standard"},
    "background": True,
    "background_options": {"completion_window": "2h"},
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "image": {"context_compression": "enabled"},
    "max_tool_calls": 3,
    "moderation": {"model": "m"},
    "previous_response_id": "resp_1",
    "prompt": {"id": "pmpt_1"},
    "store": True,
    "truncation": "auto",
}


def types_of(union: Any) -> set[str]:
    """The `type` literals of a union of the SDK's typed dicts."""
    found: set[str] = set()
    for member in get_args(union):
        hint = str(get_type_hints(member, include_extras=False).get("type"))
        found |= {
            name.strip("'\" ") for name in hint.split("Literal[")[-1].split("]")[0].split(",")
        }
    return found


def test_every_parameter_of_the_installed_sdk_is_in_one_group() -> None:
    implemented = RESPONSES_FIELDS.implemented - RESPONSES_FIELDS.extensions
    groups = [implemented, RESPONSES_FIELDS.bookkeeping, set(RESPONSES_REFUSED)]
    assert set().union(*groups) == SDK_PARAMS
    assert sum(map(len, groups)) == len(SDK_PARAMS)
    assert not RESPONSES_FIELDS.extensions & SDK_PARAMS


def test_every_parameter_of_counting_is_in_one_group() -> None:
    params = set(input_token_count_params.InputTokenCountParams.__annotations__)
    openais = COUNT_FIELDS.implemented - COUNT_FIELDS.extensions
    assert openais | set(COUNT_FIELDS.refused) == params
    assert COUNT_FIELDS.extensions == {
        "enable_thinking", "max_tiles", "reasoning_effort", "thinking",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(RESPONSES_REFUSED))
def test_refused_fields_are_named_unless_they_ask_for_nothing(name: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        known_fields({name: NOT_NEUTRAL[name]}, RESPONSES_FIELDS)
    assert caught.value.param == name
    for neutral in (None, *RESPONSES_REFUSED[name]):
        assert known_fields({name: neutral}, RESPONSES_FIELDS) == ({}, ())


def test_every_item_of_the_installed_sdk_is_implemented_or_refused_by_name() -> None:
    kinds = types_of(response_input_param.ResponseInputItemParam)
    assert kinds == HOSTED_ITEMS | {
        "message", "function_call", "function_call_output", "reasoning",
    }  # fmt: skip


def test_every_tool_of_the_installed_sdk_is_implemented_or_refused_by_name() -> None:
    assert types_of(tool_param.ToolParam) == HOSTED_TOOLS | {"function"}
