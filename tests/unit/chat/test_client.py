"""The events of an answer, of any server."""

import json

import pytest
from internvl_server.chat.client import Answer, AnswerError, Delta


def test_what_servers_leave_out() -> None:
    answer = Answer()
    for event in (
        {"choices": None, "usage": None, "error": None},
        {"choices": [{"delta": None, "finish_reason": None}]},
        {"choices": [{"delta": {"role": "assistant", "content": None}}], "usage": {}},
    ):
        assert answer.take(json.dumps(event)) == Delta()
    assert answer.take('{"choices": [{"delta": {"reasoning": "so", "content": "A"}}]}') == Delta(
        "A", "so"
    )
    answer.take('{"choices": [{"delta": {}, "finish_reason": "stop"}]}')
    answer.take('{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}')
    answer.take("[DONE]")
    assert (answer.text, answer.ended_by, answer.num_input, answer.num_output) == (
        "A",
        "stop",
        3,
        2,
    )


@pytest.mark.parametrize(
    "data",
    [
        "<html>", "1", "[]",
        '{"choices": {"a": 1}}', '{"choices": ["x"]}', '{"choices": [{"delta": "x"}]}',
        '{"choices": [{"delta": {"content": [{"type": "text"}]}}]}', '{"usage": "none"}',
    ],
)  # fmt: skip
def test_what_is_no_event_ends_an_answer(data: str) -> None:
    with pytest.raises(AnswerError, match="Not an event of chat completions"):
        Answer().take(data)


@pytest.mark.parametrize("error", [{"message": "full"}, {"error": "full"}, "full"])
def test_errors_end_an_answer(error: object) -> None:
    with pytest.raises(AnswerError, match="full"):
        Answer().take(json.dumps({"error": error}))
