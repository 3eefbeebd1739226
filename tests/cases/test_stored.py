"""Every stored body: whole requests of named clients, and requests from public reports."""

import pytest

from tests.cases.asking import CaseServer, load, stored

REFUSED = {
    "requests/fields_fraction_refused": "max_tokens",
    "requests/fields_typo_refused": "stream_otpions",
    # Its `data:video/mp4` has three bytes that are no video.
    "clients/dify_video_as_image_url": "messages[0].content[1].image_url",
}


# The deprecated `functions`: test_fields.py has it.
ANSWERED = [x for x in stored("*/") if x not in REFUSED and x != "clients/dify_function_call"]


@pytest.mark.parametrize("name", ANSWERED)
def test_it_is_answered(server: CaseServer, name: str) -> None:
    body = load(name)
    reply = server.answer(body)
    assert reply.finish_reason in ("stop", "length", "tool_calls")
    if body.get("stream"):
        assert reply.events
    else:
        assert reply.whole["usage"]["prompt_tokens"] == len(reply.request.prompt_token_ids)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(server: CaseServer, name: str) -> None:
    error = server.refuse(load(name))
    assert error["param"].startswith(REFUSED[name])
    assert error["message"]
