from internvl_server.api.errors import dialect_of, envelope
from internvl_server.errors import Field, InvalidRequestError
from internvl_server.protocol.dialects import CHAT, COMPLETIONS, MESSAGES, RESPONSES


def test_each_dialect_names_fields_its_own_way() -> None:
    error = InvalidRequestError("Lower ", Field.MAX_TOKENS, ".", param=Field.PROMPT)
    shown = [envelope(error, dialect)["error"] for dialect in (CHAT, COMPLETIONS, RESPONSES)]
    assert [body["param"] for body in shown] == ["messages", "prompt", "input"]
    assert [body["message"] for body in shown] == [
        "Lower 'max_tokens'.",
        "Lower 'max_tokens'.",
        "Lower 'max_output_tokens'.",
    ]


def test_a_step_below_a_field_keeps_the_dialects_name() -> None:
    error = InvalidRequestError("Empty.", param=(Field.PROMPT, "[3]"))
    assert envelope(error, COMPLETIONS)["error"]["param"] == "prompt[3]"


def test_a_clients_words_in_quotes_are_not_renamed() -> None:
    words = "'messages' and `max_tokens` and prompt"
    error = InvalidRequestError(f"The tool {words} does not exist.", param=words)
    assert envelope(error, RESPONSES)["error"] == {
        "message": f"The tool {words} does not exist.",
        "type": "invalid_request_error",
        "param": words,
        "code": "invalid_request",
    }


def test_every_route_of_a_dialect_is_known() -> None:
    known = {
        "/v1/responses": RESPONSES,
        "/v1/responses/input_tokens": RESPONSES,
        "/v1/completions": COMPLETIONS,
        "/v1/chat/completions": CHAT,
        "/v1/messages": MESSAGES,
        "/v1/messages/count_tokens": MESSAGES,
        "/v1/messages/batches": MESSAGES,
        "/nope": CHAT,
    }
    assert {path: dialect_of({"path": path, "headers": []}) for path in known} == known


def test_anthropics_clients_are_answered_in_their_dialect_on_shared_paths() -> None:
    headers = [(b"anthropic-version", b"2023-06-01")]
    known = {"/v1/models": MESSAGES, "/nope": MESSAGES, "/v1/chat/completions": CHAT}
    assert {path: dialect_of({"path": path, "headers": headers}) for path in known} == known


def test_a_route_may_choose_the_dialect() -> None:
    assert (
        dialect_of({"path": "/tokenize", "state": {"dialect": COMPLETIONS}, "headers": []})
        is COMPLETIONS
    )
