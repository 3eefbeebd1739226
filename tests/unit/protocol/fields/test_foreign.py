"""Fields of other servers: other names of ours, values that ask for nothing, and refusals."""

import json
from typing import Any

import pytest
from internvl_server.core import Constraint, Grammar, ImageReference, JsonSchema, Regex
from internvl_server.errors import InvalidRequestError, UnsupportedParameterError
from internvl_server.protocol.chat.request import (
    CHAT_FIELDS,
    ChatCompletionRequest,
    parse_chat_request,
)
from internvl_server.protocol.completions.request import COMPLETION_FIELDS
from internvl_server.protocol.fields import FieldTable, known_fields
from internvl_server.protocol.messages.request import COUNT_FIELDS as MESSAGES_COUNT_FIELDS
from internvl_server.protocol.messages.request import MESSAGES_FIELDS
from internvl_server.protocol.parsing import ParsedRequest
from internvl_server.protocol.responses.request import COUNT_FIELDS, RESPONSES_FIELDS
from internvl_server.protocol.tokenize import TOKENIZE_FIELDS
from internvl_server.settings import LimitSettings, MediaSettings

TABLES = [
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    COUNT_FIELDS,
    MESSAGES_COUNT_FIELDS,
    MESSAGES_FIELDS,
    RESPONSES_FIELDS,
    TOKENIZE_FIELDS,
]


def parse(**fields: Any) -> ParsedRequest[ChatCompletionRequest]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    return parse_chat_request(
        json.dumps(body).encode(), LimitSettings(), ignore_unknown=True, media=MediaSettings()
    )


def with_image(**members: Any) -> list[dict[str, Any]]:
    part = {"type": "image_url", "image_url": {"url": "data:,"} | members}
    return [{"role": "user", "content": [part]}]


def beside_image(image_url: Any, **members: Any) -> list[dict[str, Any]]:
    part = {"type": "image_url", "image_url": image_url} | members
    return [{"role": "user", "content": [part]}]


def max_tiles(**fields: Any) -> int | None:
    [image] = parse(**fields).conversation.messages[0].content
    assert isinstance(image, ImageReference)
    return image.max_tiles


@pytest.mark.parametrize("table", TABLES)
def test_each_name_stands_for_an_implemented_field(table: FieldTable) -> None:
    for name, foreign in table.foreign.items():
        assert name not in {*table.implemented, *table.refused, *table.bookkeeping}
        if foreign.to:
            assert foreign.to.partition(".")[0] in table.implemented, name


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"min_new_tokens": 3}, {"min_tokens": 3}),
        ({"max_new_tokens": 30}, {"max_tokens": 30}),
        ({"n_predict": 30}, {"max_tokens": 30}),
        ({"n_predict": -1}, {}),
        ({"max_output_tokens": 30}, {"max_completion_tokens": 30}),
        ({"repeat_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"random_seed": 5}, {"seed": 5}),
        ({"stop_sequences": ["a"]}, {"stop": ["a"]}),
        ({"do_sample": False}, {"temperature": 0}),
        ({"do_sample": False, "temperature": 0.0}, {"temperature": 0}),
        ({"do_sample": True, "temperature": 0.5}, {"temperature": 0.5}),
        ({"options": {"do_sample": False}}, {"temperature": 0}),
        ({"ban_eos_token": True}, {"ignore_eos": True}),
        ({"no_stop_trim": True}, {"include_stop_str_in_output": True}),
        ({"options": {"num_predict": 9, "top_k": 3, "num_ctx": 99, "seed": None}},
         {"max_tokens": 9, "top_k": 3}),
        ({"options": {"temperature": 0.5}, "temperature": 0.5}, {"temperature": 0.5}),
        ({"logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
        ({"logprobs": 1, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"logprobs": 0}, {}),
        ({"guided_json": None, "guided_regex": "", "grammar": ""}, {}),
    ],
)  # fmt: skip
def test_other_names_of_fields(fields: dict[str, Any], same: dict[str, Any]) -> None:
    given, expected = parse(**fields), parse(**same)
    assert (given.sampling, given.answer) == (expected.sampling, expected.answer)


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"guided_json": SCHEMA}, JsonSchema(SCHEMA, "structured_outputs.json", is_strict=True)),
        ({"guided_json": json.dumps(SCHEMA)}, JsonSchema(SCHEMA, "structured_outputs.json", is_strict=True)),
        ({"json_schema": SCHEMA}, JsonSchema(SCHEMA, "structured_outputs.json", is_strict=True)),
        ({"guided_regex": "a+"}, Regex("a+", "structured_outputs.regex")),
        ({"regex": "a+"}, Regex("a+", "structured_outputs.regex")),
        ({"guided_choice": ["a", "b"]}, Regex("(a)|(b)", "structured_outputs.choice")),
        ({"guided_grammar": "root ::= x"}, Grammar("root ::= x", "structured_outputs.grammar")),
        ({"ebnf": "root ::= x"}, Grammar("root ::= x", "structured_outputs.grammar")),
        ({"grammar": "root ::= x"}, Grammar("root ::= x", "structured_outputs.grammar")),
        ({"response_format": {"type": "regex_schema", "regex_schema": "a+"}},
         Regex("a+", "response_format")),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}},
         JsonSchema(SCHEMA, "response_format")),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}},
         JsonSchema(SCHEMA, "response_format")),
    ],
)  # fmt: skip
def test_what_an_answer_must_be(fields: dict[str, Any], constraint: Constraint) -> None:
    assert parse(**fields).sampling.constraint == constraint


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"messages": with_image(max_dynamic_patch=6)}, 6),
        ({"messages": with_image(max_dynamic_patch=6, max_tiles=6)}, 6),
        ({"messages": beside_image("data:,", max_dynamic_patch=6)}, 6),
        ({"messages": beside_image({"url": "data:,", "max_tiles": None}, max_tiles=6)}, 6),
        ({"messages": with_image(min_dynamic_patch=1)}, None),
        ({"messages": with_image(), "max_dynamic_patch": 4}, 4),
        ({"messages": with_image(detail="auto"), "max_tiles": 4}, 4),
        ({"messages": with_image(detail="low"), "max_tiles": 4}, None),
        ({"messages": with_image(max_tiles=2), "max_tiles": 4}, 2),
        ({"messages": with_image(), "mm_processor_kwargs": {"max_dynamic_patch": 3}}, 3),
        ({"messages": with_image(),
          "mm_processor_kwargs": {"use_thumbnail": True, "min_dynamic_patch": 1}}, None),
    ],
)  # fmt: skip
def test_tiles(fields: dict[str, Any], expected: int | None) -> None:
    assert max_tiles(**fields) == expected


NOTHING: list[dict[str, Any]] = [
    {"session_id": -1, "ignore_eos": False, "kwargs": {}, "spaces_between_special_tokens": True},
    {"enable_thinking": False, "chat_template_kwargs": {"enable_thinking": False}},
    {"thinking": {"type": "disabled", "clear_thinking": True}, "think": "off"},
    {"reasoning": {"effort": "none"}, "extra_body": {"enable_thinking": False}},
    {"reasoning": {"enabled": False}, "adapter_name": None},
    {"reasoning": {}, "length_penalty": 1.0, "thinking": {"type": "auto"}, "think": "auto"},
    {"chat_template_kwargs": {}, "mm_processor_kwargs": None, "options": {}, "media_io_kwargs": {}},
    {"use_beam_search": False, "best_of": 1, "num_beams": 1, "prompt_logprobs": None},
    {"lora": [], "lora_path": None, "bad_words": [], "documents": [], "echo": False},
    {"mirostat": 0, "dry_multiplier": 0.0, "typical_p": 1.0, "tfs_z": 1, "xtc_probability": 0},
    {"reasoning": {"effort": "none"}, "think": False, "format": "", "top_n_sigma": -1},
    {"guided_json_object": False, "structured_outputs": {"json_object": False, "regex": None}},
    {"guidance_scale": 1.0, "min_length": 0, "smoothing_factor": 0, "negative_prompt": ""},
    {"return_token_ids": False, "return_logprob": None, "stop_regex": None},
]


@pytest.mark.parametrize("fields", NOTHING)
def test_values_that_ask_for_nothing(fields: dict[str, Any]) -> None:
    given, plain = parse(**fields), parse()
    assert (given.sampling, given.answer, given.ignored) == (plain.sampling, plain.answer, ())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"min_length": 5}, "min_length"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"adapter_id": "a"}, "adapter_id"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"lora": [{"id": 0, "scale": 1}]}, "lora"),
        ({"allowed_token_ids": [0]}, "allowed_token_ids"),
        ({"mm_processor_kwargs": {"use_thumbnail": False}}, "mm_processor_kwargs.use_thumbnail"),
        ({"mm_processor_kwargs": "http://x"}, "mm_processor_kwargs"),
        ({"media_io_kwargs": {"video": {"fps": 2}}}, "media_io_kwargs.video.fps"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"images": ["aGVsbG8="]}, "images"),
        ({"do_sample": 2}, "do_sample"),
        ({"do_sample": 0}, "do_sample"),
        ({"options": {"do_sample": "no"}}, "options.do_sample"),
        ({"system": "Be brief."}, "system"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"messages": with_image(min_dynamic_patch=2)},
         "messages[0].content[0].image_url.min_dynamic_patch"),
        ({"messages": [{"role": "user", "content": "a", "images": ["x"]}]}, "messages[0].images"),
        ({"messages": [{"role": "assistant", "content": "a", "prefix": True}]},
         "messages[0].prefix"),
        ({"messages": [{"role": "user", "content": "a",
                        "function_call": {"name": "f", "arguments": "{}"}}]},
         "messages[0].function_call"),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert f"'{param}'" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_new_tokens": 3, "min_tokens": 4}, "min_new_tokens"),
        ({"n_predict": 30, "max_tokens": 31}, "n_predict"),
        ({"n_predict": 30, "max_completion_tokens": 31}, "max_tokens"),
        ({"do_sample": False, "temperature": 0.5}, "do_sample"),
        ({"options": {"seed": 3}, "seed": 4}, "options.seed"),
        ({"logprobs": 5, "top_logprobs": 3}, "logprobs"),
        ({"guided_regex": "a", "structured_outputs": {"regex": "b"}}, "guided_regex"),
        ({"guided_regex": "a", "guided_json": {}}, "structured_outputs"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}},
         "structured_outputs.regex"),
        ({"messages": beside_image({"url": "data:,", "detail": "low"}, detail="high")},
         "messages[0].content[0].detail"),
        ({"messages": with_image(max_dynamic_patch=6, max_tiles=5)},
         "messages[0].content[0].image_url.max_dynamic_patch"),
    ],
)  # fmt: skip
def test_contradictions(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "path", "meant"),
    [
        ({"temprature": 0}, "temprature", "temperature"),
        ({"stream_otpions": {"include_usage": True}}, "stream_otpions", "stream_options"),
        ({"stream": True, "stream_options": {"include_usge": True}}, "stream_options.include_usge",
         "include_usage"),
        ({"messages": with_image(detial="low")}, "messages[0].content[0].image_url.detial", "detail"),
    ],
)  # fmt: skip
def test_misspelt_names_are_refused(fields: dict[str, Any], path: str, meant: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        parse(**fields)
    assert (caught.value.param, caught.value.code) == (path, "unknown_parameter")
    assert f"Unknown parameter: '{path}'. Did you mean '{meant}'?" in str(caught.value)


@pytest.mark.parametrize("value", [None, {}, [], ""])
def test_misspelt_names_without_a_value_are_ignored(value: Any) -> None:
    assert parse(temprature=value).ignored == ("temprature",)


def test_members_are_located_beside_other_names() -> None:
    part = beside_image({"url": "data:,", "nope": 1}, detail="low", mood=2)
    wanted = {"type": "json_schema", "schema": SCHEMA, "hue": 3}
    assert parse(messages=part, response_format=wanted).ignored == (
        "messages[0].content[0].mood", "messages[0].content[0].image_url.nope", "hue",
    )  # fmt: skip


def test_hints_are_ignored_and_named() -> None:
    fields = {"keep_alive": "5m", "options": {"num_ctx": 99}, "chat_template_kwargs": {"x": 1}}
    assert parse(**fields).ignored == ("keep_alive", "options.num_ctx", "chat_template_kwargs.x")
    assert parse(**{"options.seed": 3}).ignored == ("options.seed",)


def test_reasoning_in_the_text_is_not_what_happens_anyway() -> None:
    assert parse(reasoning_format="none").ignored == ("reasoning_format",)
    assert parse(reasoning_format="deepseek").ignored == ()


def test_nothing_of_other_servers_but_names_is_known_where_unknown_fields_are_refused() -> None:
    assert known_fields({"min_new_tokens": 3}, CHAT_FIELDS) == ({"min_tokens": 3}, ())
    for fields in ({"session_id": -1}, {"stream_reasoning": True}, {"options": {"num_ctx": 1}}):
        with pytest.raises(UnsupportedParameterError) as caught:
            known_fields(fields, CHAT_FIELDS)
        assert caught.value.code == "unknown_parameter"
