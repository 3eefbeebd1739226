"""Each implemented field changes what the engine is asked, or what comes out."""

import json
from typing import Any

import pytest
from internvl_server.protocol.chat.request import CHAT_FIELDS, parse_chat_request
from internvl_server.settings import LimitSettings, MediaSettings

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "g"}}

# Field → a body with it, beside the same body without it.
CHANGES: dict[str, dict[str, Any]] = {
    "add_generation_prompt": {"add_generation_prompt": False},
    "continue_final_message": {"continue_final_message": True},
    "enable_thinking": {"enable_thinking": True},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "ignore_eos": {"ignore_eos": True},
    "include_reasoning": {"include_reasoning": False},
    "include_stop_str_in_output": {"include_stop_str_in_output": True},
    "logit_bias": {"logit_bias": {"5": 3}},
    "logprobs": {"logprobs": True},
    "max_completion_tokens": {"max_completion_tokens": 3},
    "max_tiles": {"max_tiles": 3},
    "max_tokens": {"max_tokens": 3},
    "messages": {"messages": [{"role": "user", "content": "other"}]},
    "min_p": {"min_p": 0.5},
    "min_tokens": {"min_tokens": 3},
    "n": {"n": 2},
    "num_frames": {"num_frames": 2},
    "parallel_tool_calls": {"parallel_tool_calls": False},
    "presence_penalty": {"presence_penalty": 0.5},
    "reasoning": {"reasoning": {"enabled": True}},
    "reasoning_effort": {"reasoning_effort": "low"},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "response_format": {"response_format": {"type": "json_object"}},
    "seed": {"seed": -3},
    "separate_reasoning": {"separate_reasoning": False},
    "skip_special_tokens": {"skip_special_tokens": False},
    "stop": {"stop": "x"},
    "stop_token_ids": {"stop_token_ids": [4]},
    "structured_outputs": {"structured_outputs": {"regex": "a"}},
    "temperature": {"temperature": 0.5},
    "thinking": {"thinking": {"type": "enabled"}},
    "tool_choice": {"tool_choice": "required"},
    "tools": {"tools": [TOOL, OTHER]},
    "top_k": {"top_k": 3},
    "top_logprobs": {"top_logprobs": 3},
    "top_p": {"top_p": 0.5},
}
# Those that change the answer's frames or what is said beside it; tests/api proves each.
SHOWN = {"model", "stream", "stream_options", "service_tier"}
BASE: dict[str, Any] = {
    "model": "m",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:,"}},
                {"type": "video_url", "video_url": {"url": "data:,"}},
            ],
        },
        {"role": "assistant", "content": "so"},
    ],
}
NEEDS: dict[str, dict[str, Any]] = {
    "parallel_tool_calls": {"tools": [TOOL]},
    "tool_choice": {"tools": [TOOL]},
    "top_logprobs": {"logprobs": True},
}


def asked(body: dict[str, Any]) -> tuple[Any, ...]:
    parsed = parse_chat_request(json.dumps(body).encode(), LimitSettings(), media=MediaSettings())
    return parsed.conversation, parsed.sampling, parsed.answer


def test_each_implemented_field_is_here() -> None:
    assert CHANGES.keys() | SHOWN == CHAT_FIELDS.implemented
    assert not CHANGES.keys() & SHOWN


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_it_changes_what_is_asked(name: str) -> None:
    base = BASE | NEEDS.get(name, {})
    assert asked(base | CHANGES[name]) != asked(base)
