"""What a request asks for beyond the engine's capabilities: refused, or left out with a warning."""

import pytest
from internvl_server.core import AnswerParams, SamplingParams
from internvl_server.engine.base import Capability, EngineInfo
from internvl_server.errors import UnsupportedParameterError
from internvl_server.pipeline.checks import resolve_sampling

PENALTIES = frozenset({Capability.PRESENCE_PENALTY, Capability.FREQUENCY_PENALTY})
ASKED = SamplingParams(presence_penalty=0.5, frequency_penalty=-0.5, top_p=0.5)


def resolve(sampling, ignored=frozenset()):
    info = EngineInfo("some", 100, 1, frozenset(Capability) - PENALTIES, ignored)
    return resolve_sampling(info, 100, sampling, AnswerParams(), None)


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_a_penalty_that_the_engine_lacks_is_refused(name):
    with pytest.raises(UnsupportedParameterError) as caught:
        resolve(SamplingParams(**{name: 0.5}))
    assert caught.value.param == name


def test_a_penalty_that_is_ignored_is_left_out_and_named():
    sampling, warnings = resolve(ASKED, ignored=PENALTIES)
    assert sampling == SamplingParams(top_p=0.5)
    assert [sentence.split("'")[1] for sentence in warnings] == [
        "presence_penalty",
        "frequency_penalty",
    ]


def test_a_penalty_of_zero_needs_no_warning():
    sampling = SamplingParams(presence_penalty=0.0)
    assert resolve(sampling) == resolve(sampling, ignored=PENALTIES) == (sampling, ())
