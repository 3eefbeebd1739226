"""Each implemented field changes what the engine is asked, or what comes out."""

import json
from typing import Any

import pytest
from internvl_server.protocol.messages.parse import parse_messages_request
from internvl_server.protocol.messages.request import MESSAGES_FIELDS
from internvl_server.settings import LimitSettings, MediaSettings

TOOL = {"name": "f", "input_schema": {"type": "object"}}
FORMAT = {"type": "json_schema", "schema": {"type": "object"}}
PICTURE = {"type": "image", "source": {"type": "base64", "data": "eA=="}}

# Field → a body with it, beside the same body without it.
CHANGES: dict[str, dict[str, Any]] = {
    "enable_thinking": {"enable_thinking": True},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "ignore_eos": {"ignore_eos": True},
    "include_reasoning": {"include_reasoning": False},
    "include_stop_str_in_output": {"include_stop_str_in_output": True},
    "logit_bias": {"logit_bias": {"5": 3}},
    "max_tiles": {"max_tiles": 3},
    "max_tokens": {"max_tokens": 3},
    "messages": {"messages": [{"role": "user", "content": "other"}]},
    "min_p": {"min_p": 0.5},
    "min_tokens": {"min_tokens": 3},
    "output_config": {"output_config": {"format": FORMAT}},
    "output_format": {"output_format": FORMAT},
    "presence_penalty": {"presence_penalty": 0.5},
    "reasoning": {"reasoning": {"exclude": True}},
    "reasoning_effort": {"reasoning_effort": "low"},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "seed": {"seed": -3},
    "separate_reasoning": {"separate_reasoning": False},
    "skip_special_tokens": {"skip_special_tokens": False},
    "stop": {"stop": "x"},
    "stop_sequences": {"stop_sequences": ["x"]},
    "stop_token_ids": {"stop_token_ids": [4]},
    "structured_outputs": {"structured_outputs": {"regex": "a"}},
    "system": {"system": "x"},
    "temperature": {"temperature": 0.5},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "tool_choice": {"tools": [TOOL], "tool_choice": {"type": "any"}},
    "tools": {"tools": [TOOL]},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.5},
}
# Those that change what is said beside the answer, or how it is sent; tests/api proves each.
SHOWN = {"model", "stream"}
BASE: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": [PICTURE]}],
}


def asked(body: dict[str, Any]) -> tuple[Any, ...]:
    parsed = parse_messages_request(
        json.dumps(body).encode(), LimitSettings(), media=MediaSettings()
    )
    return parsed.conversation, parsed.sampling, parsed.answer


def test_each_implemented_field_is_here() -> None:
    assert CHANGES.keys() | SHOWN == MESSAGES_FIELDS.implemented
    assert not CHANGES.keys() & SHOWN


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_it_changes_what_is_asked(name: str) -> None:
    change = CHANGES[name]
    without = BASE | {other: value for other, value in change.items() if other != name}
    assert asked(without | {name: change[name]}) != asked(without)


def test_sampling_is_passed_on() -> None:
    body = BASE | {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "stop_sequences": ["a", "b"],
        "stop": ["b", "c"],
    }
    _, sampling, _ = asked(body)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 7)
    assert sampling.stop == ("a", "b", "c")
    assert (sampling.max_tokens, sampling.default_max_tokens) == (None, 9)


@pytest.mark.parametrize(
    ("choice", "mode", "names", "is_parallel"),
    [
        ({"type": "auto"}, "auto", (), True),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", (), False),
        ({"type": "tool", "name": "f"}, "required", ("f",), True),
        ({"type": "none"}, "none", (), True),
    ],
)
def test_choices_of_tools(
    choice: dict[str, Any], mode: str, names: tuple[str, ...], is_parallel: bool
) -> None:
    _, _, answer = asked(BASE | {"tools": [TOOL], "tool_choice": choice})
    made = answer.tool_choice
    assert (made.mode, made.names, made.is_parallel) == (mode, names, is_parallel)
