"""Reasoning before the answer on TurboMind, whose native loop the stand-in plays."""

from contextlib import ExitStack
from unittest import mock

import pytest
from internvl_server.engine.turbomind import machine
from internvl_server.settings import Settings

from scripts.make_random_checkpoint import SHAPES
from tests.cases.asking import MODEL, CaseServer, chat
from tests.live_server import LiveServer
from tests.lmdeploy.checkpoints import make_checkpoint
from tests.lmdeploy.native import Loop, stand_ins

SAID = "<think>\nOne, two.\n</think>\n\nTwo."


@pytest.fixture
def server(tmp_path):
    folder = make_checkpoint(tmp_path / "m", "hf", shape=SHAPES["tiny-qwen3"])
    model = {"path": str(folder), "served_name": MODEL}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(machine, "check_machine", return_value=()))
        loop = Loop()
        stack.enter_context(stand_ins(loop))
        live = stack.enter_context(
            LiveServer(
                Settings(engine={"kind": "turbomind"}, media={"num_workers": 1}, model=model)
            )
        )
        yield stack.enter_context(CaseServer(live, loop))


@pytest.mark.parametrize("stream", [False, True])
def test_it_is_divided(server, stream):
    server.will_answer(SAID)
    body = chat(max_tokens=200, enable_thinking=True, stream=stream, stop=["Two"])
    reply = server.answer(body)
    messages = [event["choices"][0]["delta"] for event in reply.events]
    messages = messages or [reply.whole["choices"][0]["message"]]
    assert "".join(m.get("reasoning_content", "") for m in messages) == "One, two."
    assert (reply.text, reply.finish_reason) == ("", "stop")
    assert "rigorously" in server.prompt(reply.request)


def test_one_that_is_cut_has_no_text(server):
    server.will_answer(SAID)
    reply = server.answer(chat(max_tokens=5))
    assert (reply.text, reply.finish_reason) == ("", "length")
    assert SAID.startswith("<think>\n" + reply.whole["choices"][0]["message"]["reasoning_content"])
    assert reply.whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5


def test_a_format_is_enforced_without_it(server):
    server.will_answer('{"a": 1}')
    reply = server.answer(
        chat(max_tokens=200, enable_thinking=True, response_format={"type": "json_object"})
    )
    assert reply.text == '{"a": 1}'
    assert "has no reasoning" in reply.warnings
