"""Fields that no table has: accepted and named by default, refused where the setting says so."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.live_server import LiveServer

HELLO = [{"role": "user", "content": "hi"}]
# Path → a body that is answered.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "tiny", "messages": HELLO},
    "/v1/chat/completions/input_tokens": {"model": "tiny", "messages": HELLO},
    "/v1/completions": {"model": "tiny", "prompt": "hi"},
    "/v1/messages": {"model": "tiny", "messages": HELLO, "max_tokens": 300},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": HELLO},
    "/v1/responses": {"model": "tiny", "input": "hi"},
    "/v1/responses/input_tokens": {"model": "tiny", "input": "hi"},
    "/tokenize": {"messages": HELLO},
    "/detokenize": {"tokens": [1]},
}


def send(server: LiveServer, path: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(server.url + path, json=body, timeout=60)


@pytest.mark.parametrize("path", sorted(BODIES))
def test_unknown_fields_are_named_in_a_header(echo_server: LiveServer, path: str) -> None:
    answer = send(echo_server, path, BODIES[path] | {"nope": 1, "häßlich": {}})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"] == "nope, h%C3%A4%C3%9Flich"
    assert "x-ignored-fields" not in send(echo_server, path, BODIES[path]).headers


def test_unknown_fields_are_refused_where_that_is_set(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(server={"unknown_fields": "refuse"})
    for path, body in BODIES.items():
        refused = send(server, path, body | {"nope": 1})
        assert refused.status_code == 400
        error = refused.json()["error"]
        details = error.get("details", error)
        code = details.get("error_code") or details["code"]
        assert (code, details["param"]) == ("unknown_parameter", "nope")


def test_fields_of_other_servers_do_what_their_own_names_do(echo_server: LiveServer) -> None:
    with echo_server.client() as client:

        def answer(**fields: Any) -> Any:
            raw = client.chat.completions.with_raw_response.create(
                model="tiny", messages=HELLO, extra_body=fields
            )
            assert "x-ignored-fields" not in raw.headers
            return raw.parse()

        assert answer(guided_choice=["yes", "no"]).choices[0].message.content in ("yes", "no")
        for name in ("max_new_tokens", "n_predict", "num_predict"):
            cut = answer(**{name: 2})
            assert (cut.usage.completion_tokens, cut.choices[0].finish_reason) == (2, "length")
        logprobs = answer(logprobs=3).choices[0].logprobs
        assert {len(entry.top_logprobs) for entry in logprobs.content} == {3}

        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        wanted = {"type": "json_object", "schema": schema}
        completed = client.completions.create(
            model="tiny", prompt="hi", max_tokens=40, extra_body={"response_format": wanted}
        )
        assert json.loads(completed.choices[0].text).keys() == {"a"}


def test_misspelt_fields_are_refused(echo_server: LiveServer) -> None:
    body = BODIES["/v1/chat/completions"] | {"stream": True}
    refused = echo_server.post(body | {"stream_otpions": {"include_usage": True}})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", "stream_otpions")
    assert "Did you mean 'stream_options'?" in error["message"]


def test_counting_names_the_ignored_fields(echo_server: LiveServer) -> None:
    path = "/v1/chat/completions/input_tokens"
    messages = [HELLO[0] | {"cache_control": {"type": "ephemeral"}}]
    counted = send(echo_server, path, BODIES[path] | {"messages": messages, "keep_alive": "5m"})
    assert counted.json()["ignored_fields"] == ["keep_alive", "messages[0].cache_control"]
    assert send(echo_server, path, BODIES[path]).json()["ignored_fields"] == []


def test_each_ignored_field_is_logged_once(
    echo_server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    body = BODIES["/v1/chat/completions"]
    with caplog.at_level("INFO", logger="internvl_server.api.body"):
        for _ in range(3):
            echo_server.post(body | {"logged_once": 1, "messages": [HELLO[0] | {"mood": 1}] * 2})
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "logged_once" in line or "mood" in line] == [
        "the request field 'logged_once' is not known here and is ignored",
        "the request field 'messages[].mood' is not known here and is ignored",
    ]


def test_the_header_is_bounded(echo_server: LiveServer) -> None:
    many = {f"{number}{'x' * 100}": 1 for number in range(10_000)}
    cut = echo_server.post(BODIES["/v1/chat/completions"] | many).headers["x-ignored-fields"]
    assert cut.startswith("0xxx")
    assert cut.endswith(", ...")
    assert len(cut) < 5000


@pytest.mark.parametrize("empty", ["", [], {}])
@pytest.mark.parametrize("name", ["tool_choice", "response_format", "logit_bias", "stop"])
def test_an_empty_value_of_an_optional_field_is_neutral(
    echo_server: LiveServer, name: str, empty: object
) -> None:
    body = {"model": "tiny", "messages": HELLO, name: empty}
    assert send(echo_server, "/v1/chat/completions", body).status_code == 200


@pytest.mark.parametrize("name", ["max_tokens", "seed", "temperature", "stream"])
def test_an_empty_text_in_the_place_of_a_number_or_a_name_is_neutral(
    echo_server: LiveServer, name: str
) -> None:
    body = {"model": "tiny", "messages": HELLO, name: ""}
    assert send(echo_server, "/v1/chat/completions", body).status_code == 200


@pytest.mark.parametrize("empty", [[], {}])
@pytest.mark.parametrize("name", ["max_tokens", "seed", "temperature", "stream"])
def test_an_empty_list_or_object_in_their_place_is_refused(
    echo_server: LiveServer, name: str, empty: object
) -> None:
    answer = send(
        echo_server, "/v1/chat/completions", {"model": "tiny", "messages": HELLO, name: empty}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name
    assert answer.json()["error"]["code"] == "invalid_value"


@pytest.mark.parametrize("empty", ["", []])
def test_an_empty_refused_field_is_neutral(echo_server: LiveServer, empty: object) -> None:
    body = {"model": "tiny", "messages": HELLO, "functions": empty}
    assert send(echo_server, "/v1/chat/completions", body).status_code == 200


def test_an_empty_detail_is_neutral(echo_server: LiveServer) -> None:
    url = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    image = {"type": "image_url", "image_url": {"url": url, "detail": ""}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": [image]}]}
    assert send(echo_server, "/v1/chat/completions", body).status_code == 200
