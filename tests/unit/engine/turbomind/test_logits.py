"""When log probabilities must be computed from logits."""

from dataclasses import fields, replace

import pytest
from internvl_server.core import GenerateRequest, Regex, SamplingParams
from internvl_server.engine.turbomind.logits import logits_bytes, needs_logits

# A value of each parameter, and whether it changes TurboMind's own log probabilities.
CASES = {
    "max_tokens": (5, False), "temperature": (0.5, True), "top_p": (0.5, True), "top_k": (7, True),
    "min_p": (0.25, True), "repetition_penalty": (1.5, True), "seed": (5, False), "stop": (("x",), False),
    "constraint": (Regex("[a-z]+"), True), "presence_penalty": (0.5, True),
    "frequency_penalty": (0.5, True), "default_max_tokens": (5, False),
    "logit_bias": (((65, 1.0),), True), "min_tokens": (3, True),
}  # fmt: skip


def test_no_parameter_is_forgotten():
    assert {field.name for field in fields(SamplingParams)} == CASES.keys() | {"num_logprobs"}


@pytest.mark.parametrize("name", CASES)
def test_parameters_that_change_the_distribution_need_logits(name):
    value, changes = CASES[name]
    assert needs_logits(SamplingParams(num_logprobs=2, **{name: value})) is changes
    assert not needs_logits(SamplingParams(**{name: value}))


def test_memory_is_a_row_for_each_token():
    sampling = SamplingParams(num_logprobs=0, temperature=0.5)
    request = GenerateRequest("r", (1,), 9, sampling, frozenset())
    assert logits_bytes(request, 1000) == 10 * 1000 * 2
    plain = GenerateRequest("r", (1,), 9, SamplingParams(num_logprobs=0), frozenset())
    assert logits_bytes(plain, 1000) == 10 * 8192
    long = replace(plain, max_tokens=1000)
    rows = [logits_bytes(long, 1000, n) // 8192 for n in (0, 255, 256, 900, 1000)]
    assert rows == [256, 256, 512, 1001, 1001], "it grows with the answer, up to the longest"
    assert logits_bytes(replace(plain, sampling=SamplingParams()), 1000) == 0
