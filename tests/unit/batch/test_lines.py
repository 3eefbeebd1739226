import io
import json

import pytest
from internvl_server.batch.lines import BatchError, BatchLine, read_lines
from internvl_server.errors import InvalidRequestError

BODY = {"model": "m", "messages": []}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}


def read(text: str | bytes, max_line_bytes: int = 1000) -> list[BatchLine]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_lines(io.BytesIO(data), max_line_bytes))


def test_lines() -> None:
    text = json.dumps(LINE) + "\n\n  \r\n" + json.dumps(LINE | {"custom_id": "b"})
    first, second = read(text)
    assert (first.number, first.custom_id) == (1, "a")
    assert (second.number, second.custom_id) == (4, "b")
    assert json.loads(second.body()) == BODY


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
def test_a_bad_line_is_named(bad: str, message: str) -> None:
    with pytest.raises(BatchError, match=message):
        read(f"{json.dumps(LINE)}\n{bad}\n")


def test_a_line_may_be_as_long_as_the_limit() -> None:
    text = json.dumps(LINE)
    assert read(text, len(text))[0].custom_id == "a"
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
    ],
)
def test_an_unsupported_line_is_refused_by_name(change: dict[str, object], param: str) -> None:
    [line] = read(json.dumps(LINE | change))
    with pytest.raises(InvalidRequestError) as caught:
        line.body()
    assert caught.value.param == param


def test_a_body_is_sent_as_it_is() -> None:
    body = BODY | {"stream": False, "temperature": 0.1, "user": "世界", "seed": 2**63}
    [line] = read(json.dumps(LINE | {"body": body}))
    assert json.loads(line.body()) == body
