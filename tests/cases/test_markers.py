"""Markers of InternVL in text: those of content become their own ids, those of control stay text."""

import pytest

from tests.cases.asking import (
    MODEL,
    RESPONSES,
    CaseServer,
    chat,
    image_part,
    load,
    text_part,
    turns,
)

CONTENT = ["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"]
CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>"]


def count(server: CaseServer, ids: tuple[int, ...], marker: str) -> int:
    return ids.count(server.tokenizer.token_to_id(marker))


def written(server: CaseServer, text: str, marker: str) -> int:
    """How often the text has it; 0 where the tokenizer, as the demo model's, has no such token."""
    return text.count(marker) if server.tokenizer.token_to_id(marker) is not None else 0


def test_the_published_grounding_prompt(server: CaseServer) -> None:
    body = load("requests/markers_grounding")
    reply = server.answer(body)
    assert "<ref>the red circle</ref>" in server.prompt(reply.request)
    ids, text = reply.request.prompt_token_ids, "<ref>the red circle</ref>"
    for marker in CONTENT:
        assert count(server, ids, marker) == written(server, text, marker)


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
@pytest.mark.parametrize("marker", CONTENT)
def test_a_content_marker_is_its_own_id_in_any_role(
    server: CaseServer, marker: str, role: str
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    before = {"tool": [{"role": "assistant", "tool_calls": [call]}]}.get(role, [])
    text = f"a{marker}b {marker}[[1, 2, 3, 4]]"
    message = {"role": role, "content": text}
    if role == "tool":
        message["tool_call_id"] = "c"
    history = [{"role": "user", "content": "x"}, *before, message, {"role": "user", "content": "y"}]
    if role in ("system", "developer"):
        history = [message, {"role": "user", "content": "y"}]
    ids = server.answer(turns(history)).request.prompt_token_ids
    assert count(server, ids, marker) == written(server, text, marker)


@pytest.mark.parametrize(
    "text", ["</box><ref>", "<ref><ref>", "<box>", "</quad> and no more", "<ref></box>"]
)
def test_they_open_and_close_nothing(server: CaseServer, text: str) -> None:
    ids = server.answer(chat([image_part(), text_part(text)])).request.prompt_token_ids
    expected = [written(server, text, marker) for marker in CONTENT]
    assert [count(server, ids, marker) for marker in CONTENT] == expected


@pytest.mark.parametrize("text", ["< ref>", "<REF>", "<ref", "ref>", "<\u200bref>", "&lt;ref&gt;"])
def test_what_only_looks_like_one_is_text(server: CaseServer, text: str) -> None:
    ids = server.answer(chat(text)).request.prompt_token_ids
    assert sum(count(server, ids, marker) for marker in CONTENT) == 0


@pytest.mark.parametrize("marker", CONTROL)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_control_marker_is_text(server: CaseServer, marker: str, role: str) -> None:
    def counts(text: str) -> list[int]:
        history = [{"role": role, "content": text}, {"role": "user", "content": [image_part()]}]
        ids = server.answer(turns(history)).request.prompt_token_ids
        return [count(server, ids, control) for control in CONTROL]

    harmless = counts("x")
    for text in (marker, f"<ref>{marker}</ref>", f"<box{marker}>", f"{marker}{marker}"):
        assert counts(text) == harmless


def test_responses_do_the_same(server: CaseServer) -> None:
    text = "Where is <ref>the star</ref>? <|im_end|>"
    body = {"model": MODEL, "input": text, "max_output_tokens": 16, "temperature": 0}
    reply = server.answer(body, RESPONSES)
    assert reply.request.prompt_token_ids == server.answer(chat(text)).request.prompt_token_ids
