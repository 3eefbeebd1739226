import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from internvl_server.batch.files import BatchError, parse_request, read_lines
from internvl_server.errors import InvalidRequestError

BODY = {"model": "m", "messages": []}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}


Read = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(text: str, max_line_bytes: int = 1000, max_values: int = 50) -> list[dict[str, Any]]:
        path = tmp_path / "in"
        path.write_text(text, newline="")
        return list(read_lines(path, max_line_bytes, max_values))

    return read


def test_lines(read: Read) -> None:
    other = LINE | {"custom_id": "b"}
    assert read(json.dumps(LINE) + "\n\n  \r\n" + json.dumps(other)) == [LINE, other]


def test_empty_lines_are_counted(read: Read) -> None:
    text = json.dumps(LINE) + "\n\n  \r\n"
    with pytest.raises(BatchError, match="line 4 has the custom_id of an earlier one: 'a'"):
        read(text + text)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[]", "line 2 is not a JSON object"),
        ("{}", "line 2 has no custom_id"),
        ('{"custom_id": ""}', "line 2 has no custom_id"),
        ('{"custom_id": 5}', "line 2 has no custom_id"),
        ('{"custom_id": "\\ud800"}', "line 2 is not valid JSON"),
        ('{"custom_id": "' + "x" * 1000 + '"}', "line 2 is longer than 1000 bytes"),
    ],
)
def test_a_bad_line_is_named(read: Read, bad: str, message: str) -> None:
    with pytest.raises(BatchError, match=message):
        read(f"{json.dumps(LINE)}\n{bad}\n")


def test_a_line_has_no_more_values_than_a_body(read: Read) -> None:
    many = json.dumps(LINE | {"body": {"messages": [[]] * 20}})
    assert len(read(many, max_values=150)) == 1
    with pytest.raises(BatchError, match=r"line 1 has more than 50 JSON .*limits.max_json_values"):
        read(many)


def test_a_line_may_be_as_long_as_the_limit(read: Read) -> None:
    text = json.dumps(LINE)
    assert read(text, len(text)) == [LINE]
    with pytest.raises(BatchError):
        read(text, len(text) - 1)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"method": "GET"}, "method"),
        ({"url": "/v1/embeddings"}, "url"),
        ({"url": ["/v1/chat/completions"]}, "url"),
        ({"body": None}, "body"),
        ({"body": BODY | {"stream": True}}, "stream"),
        ({"nope": 1}, "nope"),
        ({"nope" * 99: 1}, "nope" * 16 + "…"),
    ],
)
def test_an_unsupported_line_is_refused_by_name(change: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(LINE | change)
    assert caught.value.param == param


def test_a_body_is_sent_as_it_is() -> None:
    body = BODY | {"stream": False, "temperature": 0.1, "user": "世界", "seed": 2**63}
    url, sent = parse_request(LINE | {"body": body})
    assert url == "/v1/chat/completions"
    assert json.loads(sent) == body


def test_a_number_that_is_too_large_is_not_sent_as_null() -> None:
    _, sent = parse_request(LINE | {"body": {"temperature": float("inf")}})
    assert sent == b'{"temperature":Infinity}'
