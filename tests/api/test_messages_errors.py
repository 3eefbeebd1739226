"""Errors of `/v1/messages`: the SDK's exception classes, the envelope, and failures inside a stream."""

from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest
from internvl_server.api.admission import GateState

from tests.api.test_messages import ASK, frames, post
from tests.live_server import LiveServer


def refused(
    client: anthropic.Anthropic, kind: type[anthropic.APIStatusError], **fields: Any
) -> anthropic.APIStatusError:
    """The error of the whole and of the streamed request, which must be the same."""
    with pytest.raises(kind) as streamed:
        client.messages.create(**ASK | fields, stream=True)
    with pytest.raises(kind) as caught:
        client.messages.create(**ASK | fields)
    assert type(caught.value) is kind
    assert caught.value.type == streamed.value.type
    assert caught.value.body["type"] == "error"
    assert caught.value.body["request_id"] == caught.value.request_id
    return caught.value


def test_a_wrong_field(echo_server: LiveServer) -> None:
    client = echo_server.anthropic_client()
    error = refused(client, anthropic.BadRequestError, max_tokens=0)
    assert error.type == "invalid_request_error"
    assert error.error_code == "invalid_value"
    assert "'max_tokens'" in error.api_message
    answer = post(echo_server, {"model": "tiny", "messages": ASK["messages"]})
    assert answer.json()["error"]["message"] == "Missing required parameter: 'max_tokens'."


def test_a_prompt_that_is_too_long(echo_server: LiveServer) -> None:
    messages = [{"role": "user", "content": "x" * 100_000}]
    client = echo_server.anthropic_client()
    error = refused(client, anthropic.BadRequestError, messages=messages)
    assert error.error_code == "context_length_exceeded"
    assert error.api_message.startswith("prompt is too long: ")


def test_another_model(echo_server: LiveServer) -> None:
    error = refused(echo_server.anthropic_client(), anthropic.NotFoundError, model="claude")
    assert (error.type, error.error_code) == ("not_found_error", "model_not_found")


def test_a_path_that_does_not_exist(echo_server: LiveServer) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        echo_server.anthropic_client().messages.batches.list()
    assert caught.value.error_code == "route_not_found"
    answer = httpx2.get(f"{echo_server.url}/v1/messages", timeout=60)
    assert (answer.status_code, answer.json()["type"]) == (405, "error")


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_keys(start_server: Callable[..., LiveServer], header: str) -> None:
    server = start_server(server={"api_keys": ["secret"]})
    with pytest.raises(anthropic.AuthenticationError) as caught:
        server.anthropic_client(api_key="wrong").messages.create(**ASK)
    assert (caught.value.type, caught.value.error_code) == (
        "authentication_error",
        "invalid_api_key",
    )
    assert server.anthropic_client(api_key="secret").messages.create(**ASK).content
    assert server.anthropic_client(api_key=None, auth_token="secret").messages.create(**ASK)
    key = {"x-api-key": "secret", "authorization": "Bearer secret"}[header]
    wrong = {"x-api-key": "wrong", "authorization": "Bearer wrong"} | {header: key}
    for headers in ({header: key}, wrong):
        answer = httpx2.post(f"{server.url}/v1/messages", json=ASK, headers=headers, timeout=60)
        assert answer.status_code == 200
    for headers in ({header: "secr"}, {header: ""}, {"authorization": "Basic secret"}):
        answer = httpx2.post(f"{server.url}/v1/messages", json=ASK, headers=headers, timeout=60)
        assert answer.status_code == 401


def test_a_body_that_is_too_large(start_server: Callable[..., LiveServer]) -> None:
    client = start_server(limits={"max_body_bytes": 50}).anthropic_client()
    error = refused(client, anthropic.ContentTooLargeError)
    assert error.type == "request_too_large"


def test_a_server_that_is_full_or_draining(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(limits={"max_in_flight": 1}, engine={"echo": {"hang_after_tokens": 3}})
    client = server.anthropic_client()
    with client.messages.stream(**ASK) as stream:
        next(iter(stream))
        error = refused(client, anthropic.RateLimitError)
    assert error.type == "rate_limit_error"
    assert error.response.headers["x-should-retry"] == "true"
    server.wait_idle()
    server.gate.state = GateState.DRAINING
    error = refused(client, anthropic.ServiceUnavailableError)
    assert error.type == "overloaded_error"


def test_an_engine_that_fails(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"echo": {"fail_after_tokens": 2}})
    client = server.anthropic_client()
    with pytest.raises(anthropic.InternalServerError) as caught:
        client.messages.create(**ASK)
    assert (caught.value.type, caught.value.error_code) == ("api_error", "engine_error")
    with pytest.raises(anthropic.APIStatusError) as caught, client.messages.stream(**ASK) as stream:
        stream.get_final_message()
    assert caught.value.type == "api_error"
    *before, (name, last) = frames(post(server, ASK | {"stream": True}))
    assert name == last["type"] == "error"
    assert last["error"]["details"] == {"error_code": "engine_error", "param": None}
    assert "message_stop" not in [kind for kind, _ in before]
    server.wait_idle()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "thinking"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"type": "url", "name": "n", "url": "u"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management"),
        ({"context_management": {"edits": [{"type": {}}]}}, "context_management"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_what_is_not_supported_is_refused_by_name(
    echo_server: LiveServer, path: str, fields: dict[str, Any], param: str
) -> None:
    answer = post(echo_server, ASK | fields, path)
    assert answer.status_code == 400
    details = answer.json()["error"]["details"]
    codes = {"thread": "thread_unsupported_request"}
    assert details["param"] == param
    assert details["error_code"] == codes.get(param, "unsupported_parameter")


@pytest.mark.parametrize(
    ("block", "steps"),
    [
        ({"type": "document", "source": {"type": "base64", "data": "x"}}, "source.type"),
        ({"type": "document", "source": {"type": "url", "url": "x"}}, "source.type"),
        ({"type": "image", "source": {"type": "file", "file_id": "x"}}, "source.type"),
        ({"type": "container_upload", "file_id": "x"}, "type"),
        ({"type": "web_search_tool_result", "tool_use_id": "x", "content": []}, "type"),
        (
            {"type": "tool_result", "content": [{"type": "browser_state", "tool_name": "x"}]},
            "content[0].type",
        ),
    ],
)
def test_blocks_that_are_not_supported_are_refused_by_name(
    echo_server: LiveServer, block: dict[str, Any], steps: str
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "x"}, block]}]
    details = post(echo_server, ASK | {"messages": messages}).json()["error"]["details"]
    assert details["error_code"] == "unsupported_parameter"
    assert details["param"] == f"messages[0].content[1].{steps}"


@pytest.mark.parametrize("neutral", [{"type": "disabled"}, {"type": "adaptive"}, None])
def test_neutral_thinking_is_accepted(echo_server: LiveServer, neutral: Any) -> None:
    answer = post(echo_server, ASK | {"thinking": neutral, "mcp_servers": [], "container": None})
    assert answer.status_code == 200
    assert "x-ignored-fields" not in answer.headers
