"""The fields about reasoning, in the ways of several APIs."""

import json
from typing import Any

import pytest
from internvl_server.core import AnswerParams, Thinking
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.chat.request import parse_chat_request
from internvl_server.protocol.messages.parse import (
    parse_count_tokens_request,
    parse_messages_request,
)
from internvl_server.protocol.responses.parse import (
    parse_input_tokens_request,
    parse_responses_request,
)
from internvl_server.protocol.tokenize import parse_tokenize_request
from internvl_server.settings import LimitSettings, MediaSettings

SAID = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def parsed(parser: Any = parse_chat_request, body: Any = SAID, **fields: Any) -> Any:
    data = json.dumps(body | fields).encode()
    return parser(data, LimitSettings(), media=MediaSettings(), ignore_unknown=True)


def thinking(**fields: Any) -> Thinking:
    found: Thinking = parsed(**fields).conversation.thinking
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"enable_thinking": True},
        {"enable_thinking": "on"},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"chat_template_kwargs": {"thinking": True}},
        {"think": "high"},
        {"thinking": {"type": "enabled"}},
        {"thinking": True},
        {"thinking": "enabled"},
        {"reasoning_effort": "minimal"},
        {"reasoning_effort": "max"},
        {"reasoning": {"effort": "low"}},
        {"reasoning": {"enabled": True, "effort": "none"}},
        {"reasoning": "high"},
        {"reasoning": True, "enable_thinking": True, "think": True},
    ],
)
def test_it_is_wanted(fields: dict[str, Any]) -> None:
    found = thinking(**fields)
    assert found.is_wanted is True
    assert found.param in ("enable_thinking", "reasoning", "reasoning_effort", "thinking")
    assert not parsed(**fields).ignored


@pytest.mark.parametrize(
    ("fields", "is_wanted"),
    [
        ({"max_tokens": 2000}, True),
        ({"max_tokens": 2000, "effort": "none"}, False),
        ({"max_tokens": 2000, "enabled": False}, False),
        ({"max_tokens": "many"}, None),
        ({"max_tokens": True}, None),
    ],
)
def test_a_budget_asks_for_it_and_is_named_as_ignored(
    fields: dict[str, Any], is_wanted: bool | None
) -> None:
    assert thinking(reasoning=fields).is_wanted is is_wanted
    assert parsed(reasoning=fields).ignored == ("reasoning.max_tokens",)
    assert thinking(reasoning={"max_tokens": 0}).is_wanted is False


@pytest.mark.parametrize(
    "fields",
    [
        {"enable_thinking": False},
        {"enable_thinking": "off"},
        {"chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": False},
        {"think": False},
        {"thinking": {"type": "disabled", "clear_thinking": True}},
        {"thinking": "off"},
        {"thinking": False},
        {"reasoning_effort": "none"},
        {"reasoning_effort": "off"},
        {"reasoning": {"effort": "none"}},
        {"reasoning": {"enabled": False}},
        {"reasoning": "none"},
    ],
)
def test_it_is_declined(fields: dict[str, Any]) -> None:
    assert thinking(**fields).is_wanted is False


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"enable_thinking": None, "reasoning": None, "reasoning_effort": None, "thinking": None},
        {"enable_thinking": "auto", "think": "auto", "thinking": "auto", "reasoning": {}},
        {"thinking": {"type": "adaptive", "display": "summarized"}},
        {"thinking": {}, "reasoning": {"exclude": True}, "reasoning_effort": ""},
        {"chat_template_kwargs": {"thinking": {"type": "auto"}}},
    ],
)
def test_it_is_left_to_the_server(fields: dict[str, Any]) -> None:
    assert thinking(**fields) == Thinking()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort"),
        ({"reasoning": {"effort": "none"}, "thinking": {"type": "enabled"}}, "thinking"),
        ({"enable_thinking": True, "think": False}, "think"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"reasoning": {"enabled": 1}}, "reasoning.enabled"),
        ({"include_reasoning": "no"}, "include_reasoning"),
    ],
)
def test_what_cannot_be_used_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(**fields)
    assert caught.value.param == param


def test_budgets_and_summaries_are_named() -> None:
    fields = {
        "thinking": {"type": "enabled", "budget_tokens": 1024, "later": 1},
        "reasoning": {"effort": "low", "summary": "auto", "max_tokens": 9, "mode": None},
        "thinking_budget": 3,
    }
    assert set(parsed(**fields).ignored) == {
        "reasoning.max_tokens", "reasoning.summary", "thinking.budget_tokens", "thinking.later",
        "thinking_budget",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "excluded_by"),
    [
        ({"response_format": SCHEMA}, "response_format"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tools"),
        ({"tools": TOOLS}, ""),
        ({}, ""),
    ],
)
def test_a_format_of_the_whole_answer_leaves_no_place_for_it(
    fields: dict[str, Any], excluded_by: str
) -> None:
    assert thinking(enable_thinking=True, **fields).excluded_by == excluded_by


@pytest.mark.parametrize(
    ("fields", "shows", "splits"),
    [
        ({}, True, True),
        ({"include_reasoning": True, "separate_reasoning": True}, True, True),
        ({"include_reasoning": False}, False, True),
        ({"reasoning": {"exclude": True}}, False, True),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, False, True),
        ({"separate_reasoning": False}, True, False),
    ],
)
def test_how_it_is_returned(fields: dict[str, Any], shows: bool, splits: bool) -> None:
    answer: AnswerParams = parsed(**fields).answer
    assert (answer.shows_reasoning, answer.splits_reasoning) == (shows, splits)


OTHERS = [
    (parse_responses_request, {"model": "m", "input": "hi"}),
    (parse_input_tokens_request, {"model": "m", "input": "hi"}),
    (parse_messages_request, SAID | {"max_tokens": 9}),
    (parse_count_tokens_request, SAID),
    (parse_tokenize_request, SAID),
]


@pytest.mark.parametrize(("parser", "body"), OTHERS)
@pytest.mark.parametrize(
    "fields",
    [
        {"enable_thinking": True},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"reasoning_effort": "low"},
        {"reasoning": {"effort": "low", "summary": None}},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ],
)
def test_all_dialects_have_all_of_them(parser: Any, body: Any, fields: dict[str, Any]) -> None:
    found = parsed(parser, body, **fields)
    assert found.conversation.thinking.is_wanted is True
    assert found.ignored == (("thinking.budget_tokens",) if "thinking" in fields else ())
