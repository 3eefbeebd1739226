"""Fields of other servers: neutral values change nothing, others are used or named."""

import json
from typing import Any

import pytest

from tests.cases.asking import CaseServer, chat, image_part, load, text_part

ASKING_NOTHING: list[dict[str, Any]] = [
    {"session_id": -1},
    {"kwargs": {}},
    {"enable_thinking": False},
    {"thinking": {"type": "disabled"}},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"chat_template_kwargs": {}},
    {"chat_template_kwargs": None},
    {"reasoning": None},
    {"reasoning_effort": None},
    {"include_reasoning": False},
    {"separate_reasoning": False},
    {"guided_json": None, "guided_regex": None, "guided_choice": None},
    {"guided_decoding_backend": None},
    {"structured_outputs": None},
    {"use_beam_search": False},
    {"best_of": 1},
    {"length_penalty": 1.0},
    {"repetition_penalty": 1.0},
    {"ignore_eos": False},
    {"echo": False},
    {"add_generation_prompt": True},
    {"skip_special_tokens": True},
    {"spaces_between_special_tokens": True},
    {"min_tokens": 0},
    {"min_new_tokens": None},
    {"presence_penalty": 0.0, "frequency_penalty": 0},
    {"mirostat": 0},
    {"typical_p": 1.0},
    {"adapter_name": None},
    {"lora_path": None},
    {"do_preprocess": True},
    {"cache_prompt": False},
    {"slot_id": -1},
    {"priority": 0},
    {"return_hidden_states": False},
    {"return_token_ids": False},
    {"extra_body": {}},
    {"tools": []},
    {"tools": None, "tool_choice": None, "parallel_tool_calls": None},
    {"functions": None, "function_call": None},
    {"functions": []},
    {"logit_bias": {}},
    {"stop": []},
    {"stop": ""},
    {"stop": [""]},
    {"stop": None},
    {"response_format": {"type": "text"}},
    {"modalities": ["text"]},
    {"audio": None},
    {"prediction": None},
    {"web_search_options": None},
    {"logprobs": False},
    {"metadata": {}},
    {"store": False},
    {"n": 1},
    {"seed": 1, "top_k": -1},
    {"prompt_logprobs": None},
    {"bad_words": []},
    {"mm_processor_kwargs": {}},
    {"think": False},
    {"do_sample": False, "num_beams": 1},
    {"reasoning": {"enabled": False}},
    {"thinking_budget": 0},
    {"format": ""},
    {"grammar": ""},
    {"mirostat": 0, "dry_multiplier": 0.0, "xtc_probability": 0},
    {"verbosity": "medium"},
    {"truncate_prompt_tokens": None, "include_stop_str_in_output": False},
    {"continue_final_message": False},
]
BOOKKEEPING: list[dict[str, Any]] = [
    {"user": "u1"},
    {"metadata": {"a": "b"}},
    {"safety_identifier": "u"},
    {"prompt_cache_key": "k"},
    {"service_tier": "auto"},
    {"keep_alive": "5m"},
    {"chat_id": "c", "message_id": "m"},
    {"trace_id": "t"},
    {"transforms": []},
    {"plugins": [{"id": "x"}]},
    {"provider": {"order": ["a"]}},
    {"usage": {"include": True}},
    {"x-anything": {"deep": [1, {"b": None}]}},
]


def same_answer(server: CaseServer, body: dict[str, Any], fields: dict[str, Any]) -> list[str]:
    """Assert that the fields change nothing, and return those named as ignored."""
    expected, reply = server.answer(body), server.answer(body | fields)
    assert reply.request.prompt_token_ids == expected.request.prompt_token_ids
    assert reply.request.sampling == expected.request.sampling
    assert (reply.text, reply.finish_reason) == (expected.text, expected.finish_reason)
    assert "x-warnings" not in reply.headers
    return reply.ignored


@pytest.mark.parametrize("fields", ASKING_NOTHING, ids=json.dumps)
def test_neutral_values_change_nothing(server: CaseServer, fields: dict[str, Any]) -> None:
    same_answer(server, chat(seed=1), fields)


@pytest.mark.parametrize("fields", BOOKKEEPING, ids=json.dumps)
def test_bookkeeping_changes_nothing(server: CaseServer, fields: dict[str, Any]) -> None:
    same_answer(server, chat(seed=1), fields)


def test_an_unknown_field_is_named(server: CaseServer) -> None:
    ignored = same_answer(server, chat(seed=1), {"wholly_unknown": {"a": 1}})
    assert ignored == ["wholly_unknown"]


@pytest.mark.parametrize(
    ("place", "path"),
    [
        (["messages", 0], "messages[0].wholly_unknown"),
        (["messages", 0, "content", 0], "messages[0].content[0].wholly_unknown"),
        (["messages", 0, "content", 1], "messages[0].content[1].wholly_unknown"),
        (["messages", 0, "content", 0, "image_url"], "messages[0].content[0].image_url.wholly_unknown"),
        (["tools", 0], "tools[0].wholly_unknown"),
        (["tools", 0, "function"], "tools[0].function.wholly_unknown"),
    ],
)  # fmt: skip
def test_unknown_fields_inside_are_named(server: CaseServer, place: list[Any], path: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    body = chat([image_part(), text_part("x")], tools=[tool])
    expected = server.answer(body)
    target: Any = body
    for step in place:
        target = target[step]
    target["wholly_unknown"] = "x"
    reply = server.answer(body)
    assert reply.request.prompt_token_ids == expected.request.prompt_token_ids
    assert reply.ignored == [path]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"cache_control": {"type": "ephemeral"}}, 0),
        ({"cache_control": {"type": "ephemeral"}}, 1),
        ({"text": None}, 0),
        ({"image_url": None}, 1),
        ({"annotations": []}, 1),
        ({"id": "p1"}, 0),
        ({"uuid": "p1"}, 0),
    ],
    ids=str,
)
def test_a_part_may_have(server: CaseServer, fields: dict[str, Any], place: int) -> None:
    content = [image_part(), text_part("x")]
    expected = server.answer(chat(content))
    content[place] = content[place] | fields
    reply = server.answer(chat(content))
    assert reply.request.prompt_token_ids == expected.request.prompt_token_ids


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"min_new_tokens": 3}, {"min_tokens": 3}),
        ({"n_predict": 5, "max_tokens": None}, {"max_tokens": 5}),
        ({"max_new_tokens": 5, "max_tokens": None}, {"max_tokens": 5}),
        ({"repeat_penalty": 1.1}, {"repetition_penalty": 1.1}),
    ],
    ids=str,
)
def test_another_name_of_a_field(
    server: CaseServer, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    reply, expected = server.answer(chat(seed=1) | theirs), server.answer(chat(seed=1) | ours)
    assert reply.request.sampling == expected.request.sampling
    assert reply.request.max_tokens == expected.request.max_tokens
    assert reply.ignored == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("stream_otpions", "stream_options"),
        ("top_kk", "top_k"),
        ("respons_format", "response_format"),
        ("Temperature", "temperature"),
    ],
)
def test_a_wrong_letter_is_refused(server: CaseServer, wrong: str, right: str) -> None:
    body = chat()
    body.pop(right, None)
    error = server.refuse(body | {wrong: 1})
    assert error["param"] == wrong
    assert f"'{right}'" in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"use_beam_search": True},
        {"best_of": 3},
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"temperature": "hot"},
        {"prediction": {"type": "content", "content": "x"}},
        {"modalities": ["text", "audio"]},
    ],
    ids=str,
)
def test_what_would_change_the_answer_is_refused(
    server: CaseServer, fields: dict[str, Any]
) -> None:
    [name] = fields
    error = server.refuse(chat() | fields)
    assert error["param"].startswith(name)


def test_functions_are_tools(server: CaseServer) -> None:
    """The deprecated form is mapped, or refused with the name of the newer one."""
    body = load("clients/dify_function_call")
    reply = server.ask(body)
    if reply.status == 400:
        assert "tools" in reply.error["message"]
        return
    tools = [{"type": "function", "function": function} for function in body.pop("functions")]
    expected = server.answer(body | {"tools": tools})
    assert reply.request.prompt_token_ids == expected.request.prompt_token_ids
