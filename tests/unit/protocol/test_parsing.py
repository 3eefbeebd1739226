"""What is refused before a body is parsed, and numbers that JSON cannot hold."""

import base64
import json
import os
from typing import Any

import pytest
from internvl_server.errors import InvalidRequestError, RequestTooLargeError
from internvl_server.protocol.chat.request import ChatCompletionRequest
from internvl_server.protocol.limits import check_lists, check_structure
from internvl_server.protocol.messages.request import MessagesRequest
from internvl_server.protocol.parsing import read_object, validate
from internvl_server.protocol.responses.request import ResponsesRequest
from internvl_server.protocol.tools import to_arguments
from internvl_server.protocol.wire import Wire
from internvl_server.settings import LimitSettings

BOMBS = {
    "lists": b"[" + b"[]," * 100_000 + b"[]]",
    "nested lists": b"[" + (b"[" * 50 + b"]" * 50 + b",") * 4000 + b"1]",
    "objects": b"[" + b"{}," * 100_000 + b"{}]",
    "members": b"{" + b",".join(b'"%d":1' % i for i in range(120_000)) + b"}",
    "numbers": b"[" + b"1," * 250_000 + b"1]",
    "empty texts": b"[" + b'"",' * 250_000 + b'""]',
    "long numbers": b"[" + (b"1" * 4000 + b",") * 4000 + b"1]",
    "escapes": b'"' + b"\\n" * 3_000_000 + b'"',
    "spread escapes": b'"' + b"\\u00e9aaaaaaaaaa" * 1_500_000 + b'"',
    "other alphabets": b'"' + "漢".encode() * 5_000_000 + b'"',
}


@pytest.mark.parametrize("name", BOMBS)
def test_bodies_of_too_many_values_are_not_parsed(name: str) -> None:
    with pytest.raises(RequestTooLargeError, match="max_json_values"):
        check_structure(BOMBS[name], 200_000)


def served_bodies() -> dict[str, bytes]:
    picture = base64.b64encode(os.urandom(24 << 20)).decode()
    return {
        "picture": json.dumps({"url": f"data:image/png;base64,{picture}"}).encode(),
        "picture with escaped slashes": json.dumps(picture).replace("/", "\\/").encode(),
        "enumeration": json.dumps(", ".join(["one"] * 150_000)).encode(),
        "code": json.dumps("f(x[0], {a: b}), " * 20_000).encode(),
        "digits": json.dumps("1234567890" * 100_000).encode(),
        "escaped Chinese": json.dumps("图" * 100_000).encode(),
        "Chinese": json.dumps("图" * 1_000_000, ensure_ascii=False).encode(),
        "token ids": json.dumps(list(range(100_000, 260_000))).encode(),
    }


def test_texts_and_pictures_that_may_fit_are_parsed() -> None:
    for body in served_bodies().values():
        check_structure(body, 200_000)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, {"b": "1e400"}]}, "a[1].b"),
        ({"a": "-1e400"}, "a"),
        ({"a": {"b": {}}, "c": ["x", ["1" + "0" * 400 + ".5"]]}, "c[1][0]"),
    ],
)
def test_numbers_that_are_too_large_for_a_float_are_refused_by_path(
    value: dict[str, Any], path: str
) -> None:
    body = json.dumps(value)
    for number in ('"1e400"', '"-1e400"', '"1' + "0" * 400 + '.5"'):
        body = body.replace(number, number.strip('"'))
    with pytest.raises(InvalidRequestError) as refusal:
        read_object(body)
    assert refusal.value.param == path


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        (ResponsesRequest, {"metadata": {"a" * 99: "x"}}, f"metadata.{'a' * 64}…"),
        (MessagesRequest, {"tool_choice": {"type": "x"}}, "tool_choice.type"),
        (MessagesRequest, {"tool_choice": {"name": "f"}}, "tool_choice.type"),
    ],
)
def test_a_member_is_named_as_in_the_body(
    model: type[Wire], fields: dict[str, Any], param: str
) -> None:
    messages = [{"role": "user", "content": "x"}]
    prompt = (
        {"input": "x"} if model is ResponsesRequest else {"messages": messages, "max_tokens": 1}
    )
    with pytest.raises(InvalidRequestError) as refusal:
        validate(model, {"model": "m"} | prompt | fields)
    assert refusal.value.param == param


def test_large_numbers_are_read() -> None:
    assert read_object('{"a": 1e308, "b": 1' + "0" * 400 + "}") == {"a": 1e308, "b": 10**400}


def test_names_that_are_texts_are_refused() -> None:
    assert read_object(json.dumps({"a": {"b" * 8192: 1}}))
    with pytest.raises(InvalidRequestError, match="a name has more than 8192"):
        read_object(json.dumps({"a": {"b" * 8193: 1}}))


def test_large_tools_and_arguments_are_refused_before_they_are_written() -> None:
    tools = [{"function": {"name": "f", "description": "x" * 500_000}}] * 3
    with pytest.raises(InvalidRequestError, match="'tools' have 15000"):
        check_lists({"tools": tools}, LimitSettings())
    check_lists({"tools": tools[:2]}, LimitSettings())
    with pytest.raises(InvalidRequestError, match="arguments of a call"):
        to_arguments({"text": "x" * 1_100_000})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "EOF while parsing a value at line 1 column 0."),
        ('{"a": 1,\n b: 2}', "key must be a string at line 2 column 2."),
        ('{"a": [1,]}', "trailing comma at line 1 column 10."),
    ],
)
def test_the_place_is_named_where_a_body_is_not_json(body: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        read_object(body)
    assert refusal.value.message.endswith(reason)


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"messages": "x"}, "messages", "must be a list"),
        ({"messages": []}, "messages", "must have at least 1 item, not 0"),
        ({"messages": ["x"]}, "messages[0]", "must be an object"),
        (
            {"messages": [{"role": "user", "content": 3}]},
            "messages[0].content",
            "a string or a list",
        ),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "an object"),
        ({"stop": 3}, "stop", "must be a string or a list"),
        ({"stop": ["a", 3]}, "stop[1]", "must be a string"),
        ({"n": 0}, "n", "must be greater than or equal to 1"),
        ({"n": 1.5}, "n", "must be an integer"),
        ({"stream": "true"}, "stream", "must be true or false"),
        ({"tool_choice": "any"}, "tool_choice", "must be 'none', 'auto' or 'required'"),
    ],
)
def test_a_violation_names_its_place_and_what_must_be_there(
    fields: dict[str, Any], param: str, reason: str
) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        validate(
            ChatCompletionRequest,
            {"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields,
        )
    assert refusal.value.param == param
    assert f"'{param}': it " in refusal.value.message
    assert reason in refusal.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"response_format": {}}, "response_format.type"),
    ],
)
def test_a_tag_is_missing_like_any_other_member(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        validate(
            ChatCompletionRequest,
            {"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields,
        )
    assert (refusal.value.param, refusal.value.code) == (param, "missing_required_parameter")
