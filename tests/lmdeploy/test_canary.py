"""Before the engine is ready it answers a text, an image of one tile and one of thirteen."""

import pytest
import torch
from internvl_server.errors import StartupError

from tests.lmdeploy import native
from tests.lmdeploy.native import Plan
from tests.lmdeploy.requests import IMAGE, TOKENS_PER_TILE


async def test_text_one_tile_and_thirteen_are_answered_before_it_is_ready(make_engine, loop):
    seen = []

    def plan(call):
        seen.append(call)
        return Plan([65])

    loop.plan = plan
    await make_engine()
    calls = seen
    assert [sum(item.pixels.shape[0] for item in call.items) for call in calls] == [0, 1, 13]
    assert [call.input_ids.count(IMAGE) for call in calls] == [
        0,
        TOKENS_PER_TILE,
        13 * TOKENS_PER_TILE,
    ]
    assert all(call.config["output_logits"] for call in calls)
    assert len({call.items[0].fingerprint for call in calls[1:]}) == 2


async def test_an_engine_that_fails_a_trial_is_never_ready(make_engine, loop):
    loop.plan = lambda call: Plan([65], 5 if len(call.items) else native.FINISH)
    with pytest.raises(StartupError, match=r"fails to answer an image of 1 tile\(s\): The engine"):
        await make_engine()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_logits_that_are_no_numbers_are_refused(make_engine, loop, monkeypatch, value):
    monkeypatch.setattr(native, "logits_at", lambda place: torch.full((351,), value).bfloat16())
    with pytest.raises(StartupError, match="no finite logits for a text"):
        await make_engine()


async def test_a_trial_without_an_end_is_refused(make_engine, loop, monkeypatch):
    monkeypatch.setattr("internvl_server.engine.turbomind.canary._LIMIT_S", 0.2)
    loop.plan = lambda call: Plan([65], None)
    with pytest.raises(StartupError, match=r"no answer in 0\.2 s"):
        await make_engine()
