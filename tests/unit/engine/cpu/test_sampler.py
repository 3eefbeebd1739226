"""Sampling equals transformers' processors, and draws follow the filtered distribution."""

import warnings
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.core import SamplingParams
from internvl_server.engine.cpu.sampling.logprobs import token_logprobs
from internvl_server.engine.cpu.sampling.penalties import Penalties
from internvl_server.engine.cpu.sampling.sampler import Sampler, filter_logits

LOGITS = st.lists(st.integers(-400, 400), min_size=2, max_size=40, unique=True).map(
    lambda values: torch.tensor(values, dtype=torch.float32) / 32
)


def reference_probabilities(logits, params, seen=()):
    """transformers' processors, in the order `generate` applies them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.generation import logits_process as hf
    scores, ids = logits[None].double(), torch.tensor([list(seen)], dtype=torch.int64)
    processors = []
    if params.repetition_penalty != 1.0:
        processors.append(hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    processors.append(hf.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        processors.append(hf.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(hf.TopPLogitsWarper(params.top_p))
    if params.min_p:
        processors.append(hf.MinPLogitsWarper(params.min_p))
    for processor in processors:
        scores = processor(ids, scores)
    return scores[0].softmax(0)


def probabilities(logits, params):
    weights, token_ids = filter_logits(logits, params)
    if token_ids is None:
        token_ids = torch.arange(len(logits))
    result = torch.zeros(len(logits), dtype=torch.float64)
    result[token_ids] = weights / weights.sum()
    return result


@settings(deadline=None)
@given(
    logits=LOGITS,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.integers(0, 50),
    # Not round: a sum of probabilities would hit the bound exactly, where rounding decides.
    top_p=st.sampled_from([0.0123, 0.3217, 0.7531, 0.9413, 1.0]),
    min_p=st.sampled_from([0.0, 0.01234, 0.2345, 0.9876]),
)
def test_filters_equal_transformers(logits, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    expected = reference_probabilities(logits, params)
    torch.testing.assert_close(probabilities(logits, params), expected)


@pytest.mark.parametrize("spread", [0.1, 3.0, 8.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (0, 0.999), (700, 0.9), (5, 1.0)])
def test_a_large_vocabulary_is_filtered_exactly(spread, top_k, top_p):
    """Flat distributions need the whole sort, peaked ones are decided among the likeliest."""
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * spread
    params = SamplingParams(top_k=top_k, top_p=top_p)
    expected = reference_probabilities(logits, params)
    torch.testing.assert_close(probabilities(logits, params), expected)


@settings(deadline=None)
@given(logits=LOGITS, penalty=st.sampled_from([0.5, 1.1, 2.0]), data=st.data())
def test_repetition_penalty_equals_transformers(logits, penalty, data):
    seen = data.draw(st.lists(st.integers(0, len(logits) - 1), min_size=1))
    params = SamplingParams(temperature=0.0, repetition_penalty=penalty)
    drawn = SamplingParams(temperature=1.0, repetition_penalty=penalty)
    expected = reference_probabilities(logits, drawn, seen)
    chosen = Sampler(params, seen).choose(logits.clone())
    assert expected[chosen] == expected.max()


def test_repetition_penalty_covers_what_was_generated():
    sampler = Sampler(SamplingParams(temperature=0.0, repetition_penalty=2.0), [0])
    logits = torch.tensor([4.0, 3.0, 2.5])
    assert [sampler.choose(logits.clone()) for _ in range(2)] == [1, 2]


PENALTY = st.floats(-2, 2).map(lambda value: round(value, 2))


@settings(deadline=None)
@given(
    logits=LOGITS,
    presence=PENALTY,
    frequency=PENALTY,
    repetition=st.sampled_from([1.0, 1.0, 1.3]),
    data=st.data(),
)
def test_what_comes_before_the_temperature(logits, presence, frequency, repetition, data):
    """Repetition as transformers has it, then OpenAI's penalties over the answer alone, then the bias."""
    ids = st.integers(0, len(logits) - 1)
    prompt, answered = data.draw(st.lists(ids, min_size=1)), data.draw(st.lists(ids, min_size=1))
    bias = data.draw(st.dictionaries(ids, st.floats(-100, 100, width=32)))
    params = SamplingParams(
        temperature=0.0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=tuple(bias.items()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.generation import RepetitionPenaltyLogitsProcessor
    seen = torch.tensor([prompt + answered])
    expected = RepetitionPenaltyLogitsProcessor(repetition)(seen, logits[None].clone())[0].numpy()
    for token_id, count in Counter(answered).items():
        expected[token_id] -= np.float32(presence + frequency * count)
    for token_id, value in bias.items():
        expected[token_id] += np.float32(value)

    actual = logits.clone()
    penalties = Penalties.of(params, prompt)
    if penalties is not None:
        for token_id in answered:
            penalties.observe(token_id)
        penalties.apply(actual)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_frequency_penalty_counts_the_answer_and_not_the_prompt():
    params = SamplingParams(temperature=0.0, frequency_penalty=1.0)
    sampler = Sampler(params, [0, 0, 0, 0])
    logits = torch.tensor([4.0, 2.5, 0.0])
    assert [sampler.choose(logits.clone()) for _ in range(6)] == [0, 0, 1, 0, 1, 0]


def test_a_presence_penalty_is_taken_once():
    sampler = Sampler(SamplingParams(temperature=0.0, presence_penalty=2.0), [])
    logits = torch.tensor([4.0, 2.5, 0.1])
    assert [sampler.choose(logits.clone()) for _ in range(5)] == [0, 1, 0, 0, 0]


def test_a_bias_bans_or_forces():
    logits = torch.tensor([1.0, 5.0, 3.0])
    params = [
        SamplingParams(temperature=t, logit_bias=bias, seed=0)
        for t in (0.0, 1.0)
        for bias in (((1, -100.0),), ((0, 100.0),))
    ]
    chosen = [{Sampler(p).choose(logits.clone()) for _ in range(20)} for p in params]
    assert 1 not in chosen[0] | chosen[2]
    assert chosen[1] == chosen[3] == {0}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_min_tokens_equals_transformers(temperature):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.generation import MinNewTokensLengthLogitsProcessor
    logits = torch.tensor([9.0, 1.0, 8.0, 2.0])
    stops, num = [0, 2], 3
    sampler = Sampler(SamplingParams(temperature=temperature, min_tokens=num, seed=3), [], stops)
    reference = MinNewTokensLengthLogitsProcessor(5, num, stops, device="cpu")
    assert not sampler.is_plain_greedy
    for length in range(num + 1):
        ids = torch.zeros(1, 5 + length, dtype=torch.int64)
        possible = (reference(ids, logits[None].clone())[0] > -torch.inf).nonzero().flatten()
        token_id = sampler.choose(logits.clone())
        assert token_id in possible.tolist()
    assert token_id in stops


def test_min_tokens_gives_way_where_nothing_else_is_left():
    sampler = Sampler(SamplingParams(temperature=0.0, min_tokens=5), [], [0, 1])
    assert sampler.choose(torch.tensor([1.0, 2.0])) == 1


@settings(deadline=None)
@given(logits=LOGITS, num_top=st.integers(0, 20), data=st.data())
def test_log_probabilities(logits, num_top, data):
    token_id = data.draw(st.integers(0, len(logits) - 1))
    result = token_logprobs(logits.log_softmax(-1), token_id, num_top)
    exact = logits.double().numpy()
    exact = exact - np.log(np.exp(exact - exact.max()).sum()) - exact.max()
    assert result.logprob == pytest.approx(exact[token_id], abs=1e-4)
    likeliest = np.argsort(-exact)[:num_top]
    assert [i for i, _ in result.top] == likeliest.tolist()
    values = [value for _, value in result.top]
    assert values == pytest.approx(exact[likeliest].tolist(), abs=1e-4)


def test_greedy_takes_the_likeliest():
    sampler = Sampler(SamplingParams(temperature=0.0, top_k=2, seed=1), [])
    assert sampler.is_plain_greedy
    assert sampler.choose(torch.tensor([0.0, 2.0, 1.0])) == 1


@pytest.mark.parametrize("params", [SamplingParams(seed=5), SamplingParams(seed=5, top_p=0.95)])
def test_draws_follow_the_distribution(params):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(1)) * 1.5
    sampler = Sampler(params, [])
    num_draws = 20_000
    counts = torch.zeros(12, dtype=torch.float64)
    for _ in range(num_draws):
        counts[sampler.choose(logits)] += 1
    expected = reference_probabilities(logits, params)
    assert (counts[expected == 0] == 0).all()
    assert (counts / num_draws - expected).abs().max() < 0.015


@settings(deadline=None)
@given(seed=st.one_of(st.integers(-(2**80), 2**80)))
def test_a_seed_repeats_its_draws(seed):
    logits = torch.linspace(0, 1, 50)
    draws = [
        [sampler.choose(logits) for _ in range(8)]
        for sampler in (Sampler(SamplingParams(seed=seed), []) for _ in range(2))
    ]
    assert draws[0] == draws[1]


def test_a_weight_of_zero_is_never_drawn():
    logits = torch.full((10,), -torch.inf)
    logits[7] = 0.0
    sampler = Sampler(SamplingParams(seed=0), [])
    assert {sampler.choose(logits) for _ in range(50)} == {7}


# A value of each parameter that the sampler implements, and the parameters that are implemented elsewhere.
VALUES = {
    "temperature": 0.2, "top_p": 0.5, "top_k": 2, "min_p": 0.5, "repetition_penalty": 2.0, "seed": 2,
    "presence_penalty": 1.5, "frequency_penalty": 1.5, "logit_bias": ((3, 5.0),), "min_tokens": 100,
}  # fmt: skip
ELSEWHERE = {"max_tokens", "default_max_tokens", "stop", "num_logprobs", "constraint"}


def chosen(**params):
    sampler = Sampler(SamplingParams(**{"seed": 1, **params}), (0, 1), stop_token_ids=(7,))
    row = torch.linspace(-1, 1, 8)
    return [sampler.choose(row.clone()) for _ in range(100)]


def test_no_parameter_is_forgotten():
    assert {field.name for field in fields(SamplingParams)} == VALUES.keys() | ELSEWHERE


@pytest.mark.parametrize("name", VALUES)
def test_each_parameter_changes_what_is_chosen(name):
    assert chosen() == chosen()
    assert chosen(**{name: VALUES[name]}) != chosen()
