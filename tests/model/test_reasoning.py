"""Reasoning before the answer on the CPU engine, with a random model that can only write `<think>`."""

from pathlib import Path

import pytest
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.settings import Settings

from tests.live_server import LiveServer

pytestmark = pytest.mark.model


def test_reasoning_that_never_ends(thinking_checkpoint: Path) -> None:
    think_ids = load_tokenizer(thinking_checkpoint).think_ids
    assert think_ids is not None
    model = {"path": str(thinking_checkpoint), "served_name": "m", "max_model_len": 1024}
    with LiveServer(Settings(engine={"kind": "cpu"}, model=model)) as server:
        made = server.client().chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=4,
            logit_bias={str(think_ids[0]): 100},
            extra_body={"enable_thinking": True},
        )
    message, usage = made.choices[0].message, made.usage
    assert (message.content, made.choices[0].finish_reason) == ("", "length")
    assert message.reasoning_content == "<think>" * 3
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 4
