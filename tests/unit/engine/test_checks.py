"""Requests that no engine computes, and when an engine counts as hanging."""

import time
from dataclasses import replace

import numpy as np
import pytest
from internvl_server.core import GenerateRequest, ImageSpan, SamplingParams
from internvl_server.engine.checks import RequestLimits, check_request
from internvl_server.engine.health import health_of
from internvl_server.errors import ContextLengthExceededError, InvalidRequestError

LIMITS = RequestLimits(max_model_len=16, vocab_size=100, tile_px=4, num_tokens_per_tile=2)
SPANS = (ImageSpan(1, 1, 2), ImageSpan(4, 2, 4))
REQUEST = GenerateRequest(
    "r", tuple(range(9)), 4, SamplingParams(), frozenset({7}), SPANS,
    (np.zeros((1, 3, 4, 4), np.float32), np.zeros((2, 3, 4, 4), np.float32)),
)  # fmt: skip


def test_a_good_request_passes():
    check_request(REQUEST, LIMITS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_token_ids": ()}, "needs a prompt"),
        ({"max_tokens": 0}, "at least 1"),
        ({"prompt_token_ids": (1, 100)}, "does not know"),
        ({"prompt_token_ids": (-1, 1)}, "does not know"),
        ({"sampling": SamplingParams(logit_bias=((100, 1.0),))}, "names token 100"),
        (
            {"pixel_values": ()},
            r"Images of \[1, 2\] tiles do not match pixel values of the shapes \[\]",
        ),
        ({"images": ()}, r"Images of \[\] tiles do not match"),
        ({"pixel_values": REQUEST.pixel_values[::-1]}, "do not match"),
        ({"pixel_values": (np.zeros((1, 3, 8, 8)), np.zeros((2, 3, 8, 8)))}, "do not match"),
        ({"images": (ImageSpan(1, 1, 2), ImageSpan(4, 2, 5))}, "needs 2 for each tile"),
        ({"images": (ImageSpan(4, 1, 2), ImageSpan(1, 2, 4))}, "overlap"),
        ({"images": (ImageSpan(1, 1, 2), ImageSpan(2, 2, 4))}, "overlap"),
        ({"images": (ImageSpan(1, 1, 2), ImageSpan(6, 2, 4))}, "beyond the end"),
    ],
)
def test_a_bad_request_is_refused(change, message):
    with pytest.raises(InvalidRequestError, match=message):
        check_request(replace(REQUEST, **change), LIMITS)


def test_the_prompt_leaves_room_for_one_token():
    check_request(GenerateRequest("r", (1,) * 15, 4, SamplingParams(), frozenset()), LIMITS)
    with pytest.raises(ContextLengthExceededError, match="16"):
        check_request(GenerateRequest("r", (1,) * 16, 4, SamplingParams(), frozenset()), LIMITS)


def test_the_prompt_leaves_room_for_the_least_tokens():
    def request(min_tokens: int) -> GenerateRequest:
        sampling = SamplingParams(min_tokens=min_tokens)
        return GenerateRequest("r", (1,) * 10, 6, sampling, frozenset())

    check_request(request(6), LIMITS)
    with pytest.raises(InvalidRequestError, match="leaves 6 tokens") as caught:
        check_request(request(7), LIMITS)
    assert caught.value.param == "min_tokens"


def test_an_engine_without_pixels_checks_none():
    check_request(replace(REQUEST, pixel_values=()), RequestLimits(max_model_len=16))


def test_health():
    long_ago = time.monotonic() - 100
    lately = time.monotonic() - 40
    assert health_of("running", num_running=1, last_progress=time.monotonic()).is_ready
    assert health_of("running", last_progress=long_ago).is_ready, "it has nothing to do"
    for work in ({"num_running": 1}, {"num_waiting": 1}):
        health = health_of("running", last_progress=long_ago, **work)
        assert (health.is_ready, health.is_alive) == (False, False)
        assert "no progress for 100 s" in health.reason
        assert round(health.silence_s) == 100
        health = health_of("running", last_progress=lately, **work)
        assert (health.is_ready, health.is_alive) == (False, True), "it may recover"
    loading = health_of("loading")
    assert (loading.reason, loading.is_alive) == ("The engine is loading.", True)
