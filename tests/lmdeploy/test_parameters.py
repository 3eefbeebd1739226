"""Every parameter core can express: native, or refused. How answers end, and what their tokens carry."""

import contextlib
import dataclasses
import math
from unittest import mock

import pytest
import torch
from internvl_server.core import AnswerParams, Regex, SamplingParams
from internvl_server.engine.base import Capability
from internvl_server.engine.turbomind.sampling import generation_config
from internvl_server.errors import EngineError, EngineOverloadedError, UnsupportedParameterError
from internvl_server.pipeline.checks import resolve_sampling

from tests.lmdeploy.native import HELD_BACK, Plan, logits_at
from tests.lmdeploy.requests import END, answer, make_request, until

VOCAB_SIZE = 1000

# What each field becomes: the native fields it may change, or "refused", or "text": matched on text.
FIELDS = {
    "max_tokens": "text",  # the pipeline makes `GenerateRequest.max_tokens` of it
    "default_max_tokens": "text",
    "temperature": {"temperature", "top_k", "top_p", "min_p"},
    "top_p": {"top_p", "top_k"},
    "top_k": {"top_k"},
    "min_p": {"min_p"},
    "repetition_penalty": {"repetition_penalty"},
    "seed": {"random_seed"},
    "stop": "text",
    "num_logprobs": {"output_logprobs", "output_logits"},
    "constraint": "grammar",
    "presence_penalty": "refused",
    "frequency_penalty": "refused",
    "logit_bias": "refused",
    "min_tokens": {"min_new_tokens"},
}
VALUES = {
    "max_tokens": 5, "temperature": 0.5, "top_p": 0.5, "top_k": 7, "min_p": 0.25,
    "repetition_penalty": 1.5, "seed": 5, "stop": ("x",), "num_logprobs": 2,
    "constraint": Regex("[a-z]+"), "presence_penalty": 0.5, "frequency_penalty": 0.5,
    "logit_bias": ((65, 1.0),), "min_tokens": 3, "default_max_tokens": 5,
}  # fmt: skip


def test_no_field_is_forgotten():
    assert {field.name for field in dataclasses.fields(SamplingParams)} == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
async def test_a_field_is_native_or_refused(make_engine, loop, name):
    engine = await make_engine()
    sampling = SamplingParams(**{name: VALUES[name]})
    if FIELDS[name] == "refused":
        with pytest.raises(UnsupportedParameterError) as caught:
            resolve_sampling(engine.info, VOCAB_SIZE, sampling, AnswerParams(), None)
        assert caught.value.param == name
        return
    resolve_sampling(engine.info, VOCAB_SIZE, sampling, AnswerParams(), None)
    for asked in ({"seed": 0}, {"seed": 0, name: VALUES[name]}):
        request = dataclasses.replace(make_request(), sampling=SamplingParams(**asked))
        await answer(engine, request)
    plain, call = loop.calls
    changed = {key for key in call.config if call.config[key] != plain.config[key]}
    if FIELDS[name] == "text":
        assert not changed
    elif FIELDS[name] == "grammar":
        assert call.grammar is not None
    else:
        assert changed
        assert changed <= FIELDS[name]


async def test_capabilities_are_what_is_native(make_engine):
    engine = await make_engine()
    lacking = set(Capability) - engine.info.capabilities
    assert lacking == {
        Capability.LOGIT_BIAS, Capability.PRESENCE_PENALTY, Capability.FREQUENCY_PENALTY,
    }  # fmt: skip


# How an answer ends.


async def test_more_stop_tokens_end_an_answer(make_engine, loop):
    engine = await make_engine()
    loop.plan = lambda call: Plan([65, 66, 67, END])
    got = await answer(engine, make_request(stop=frozenset({END, 66})))
    assert got == ([65, 66], "stop")
    assert loop.calls[0].config["stop_ids"] == [[66, END], [1, 2]]
    assert loop.calls[0].config["eos_ids"] == [66, END]


async def test_without_stop_tokens_only_the_length_ends_it(make_engine, loop):
    engine = await make_engine()
    loop.plan = lambda call: Plan([65, END, 320, 66, 67])
    got = await answer(engine, make_request(max_tokens=4, stop=frozenset()))
    assert got == ([65, END, 320, 66], "length")
    config = loop.calls[0].config
    assert config["stop_ids"] == [[], []]
    # An empty list would shift the lists of the requests beside it; -1 is no token.
    assert config["eos_ids"] == [-1]


async def test_a_stop_token_as_the_last_allowed_one_is_stop(make_engine, loop):
    engine = await make_engine()
    loop.plan = lambda call: Plan([65, END])
    assert await answer(engine, make_request(max_tokens=2)) == ([65, END], "stop")


@pytest.mark.parametrize("least", [1, 2, 5])
async def test_no_stop_token_before_min_tokens(make_engine, loop, least):
    engine = await make_engine()
    loop.plan = lambda call: Plan([END] * 9)
    got = await answer(engine, make_request(min_tokens=least))
    assert got == ([HELD_BACK] * least + [END], "stop")


async def test_min_tokens_up_to_the_limit(make_engine, loop):
    engine = await make_engine()
    loop.plan = lambda call: Plan([END] * 9)
    got = await answer(engine, make_request(min_tokens=4, max_tokens=4))
    assert got == ([HELD_BACK] * 4, "length")


async def test_min_tokens_without_stop_tokens_holds_nothing_back(make_engine, loop):
    """Natively it would read a list that is not there."""
    engine = await make_engine()
    loop.plan = lambda call: Plan([END] * 9)
    request = make_request(min_tokens=4, max_tokens=3, stop=frozenset())
    assert await answer(engine, request) == ([END] * 3, "length")
    assert loop.calls[0].config["min_new_tokens"] == 0


# What the tokens carry.


async def deltas_of(engine, request):
    async with engine.generate(request) as deltas:
        return [delta async for delta in deltas]


@pytest.mark.parametrize("num_cached", [0, 2])
async def test_cached_tokens(make_engine, loop, num_cached):
    engine = await make_engine()
    loop.plan = lambda call: Plan([65, 66, END], wait_steps=2, num_cached=num_cached)
    deltas = await deltas_of(engine, make_request())
    assert deltas[-1].num_cached_tokens == num_cached


@pytest.mark.parametrize(("num", "top"), [(0, ()), (2, ((66, -0.5), (65, -1.5)))])
async def test_logprobs_of_plain_sampling_are_turbominds_own(make_engine, loop, num, top):
    engine = await make_engine()
    loop.plan = lambda call: Plan([65, END], tokens_per_step=2)
    (delta,) = await deltas_of(engine, make_request(num_logprobs=num))
    assert [entry.logprob for entry in delta.logprobs] == [-1.5, -1.5]
    assert delta.logprobs[0].top == top
    config = loop.calls[0].config
    assert (config["output_logprobs"], config["output_logits"]) == (max(num, 1), 0)


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.0}, {"temperature": 0.5}, {"top_p": 0.5}, {"top_p": 0.0}, {"top_k": 3},
        {"min_p": 0.25}, {"repetition_penalty": 1.5}, {"min_tokens": 2},
        {"constraint": Regex("[a-z]+")},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("num", [0, 1, 20])
async def test_all_other_logprobs_are_the_models_own_too(make_engine, loop, sampling, num):
    engine = await make_engine(max_num_seqs=1)
    (native,) = engine._jobs._handles
    loop.plan = lambda call: Plan([65, 66, 67, END], tokens_per_step=2, wait_steps=1)
    deltas = await deltas_of(engine, make_request(num_logprobs=num, **sampling))
    ids = [token_id for delta in deltas for token_id in delta.token_ids]
    found = [entry for delta in deltas for entry in delta.logprobs]
    assert ids == [65, 66, 67, END]
    assert len(found) == len(ids)
    for place, (token_id, entry) in enumerate(zip(ids, found, strict=True)):
        expected = logits_at(place).double().log_softmax(0)
        assert math.isclose(entry.logprob, expected[token_id], abs_tol=1e-5)
        values, best = expected.topk(num)
        assert [i for i, _ in entry.top] == best.tolist()
        assert torch.allclose(torch.tensor([v for _, v in entry.top]).double(), values, atol=1e-5)
    config = loop.calls[0].config
    assert (config["output_logprobs"], config["output_logits"]) == (0, 2)
    assert native not in engine._jobs._handles, "the rows stay as long as the native object"


async def test_without_logprobs_no_logits_are_asked_for(make_engine, loop):
    engine = await make_engine()
    deltas = await deltas_of(engine, make_request(temperature=0.0))
    assert all(delta.logprobs is None for delta in deltas)
    assert loop.calls[0].config["output_logits"] == 0


async def test_logits_of_all_requests_fit_their_memory(make_engine, loop, monkeypatch):
    monkeypatch.setattr("internvl_server.engine.turbomind.engine.MAX_LOGITS_BYTES", 40 * 351 * 2)
    engine = await make_engine(max_num_seqs=1)
    request = make_request(temperature=0.0, num_logprobs=1)  # 17 rows
    loop.plan = lambda call: Plan([65], None)
    async with engine.generate(request), engine.generate(request):
        with pytest.raises(EngineOverloadedError):
            async with engine.generate(request):
                pass
        async with engine.generate(make_request()):
            pass
    loop.plan = lambda call: Plan([65, END])
    await until(lambda: not engine._logits_budget.in_use)
    assert await answer(engine, request) == ([65, END], "stop")


async def test_a_failed_request_gives_its_memory_back(make_engine, loop):
    engine = await make_engine()
    loop.plan = lambda call: Plan([65], 5)
    with contextlib.suppress(Exception):
        await answer(engine, make_request(temperature=0.0, num_logprobs=1))
    await until(lambda: not engine._logits_budget.in_use)


def test_choices_have_seeds_of_their_own():
    """`n` makes requests with seed, seed + 1, …; signed numbers become unsigned ones that differ."""
    seeds = (2**63 - 2, 2**63 - 1, -(2**63), -(2**63) + 1, -1, 0, 1)
    native = [generation_config(make_request(seed=seed)).random_seed for seed in seeds]
    assert native == [2**63 - 2, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 0, 1]


async def test_penalties_that_are_ignored_change_nothing(make_engine, loop):
    engine = await make_engine(ignore_penalties=True)
    asked = SamplingParams(seed=0, presence_penalty=0.5, frequency_penalty=0.5)
    sampling, warnings = resolve_sampling(engine.info, VOCAB_SIZE, asked, AnswerParams(), None)
    assert len(warnings) == 2
    for params in (SamplingParams(seed=0), sampling):
        await answer(engine, dataclasses.replace(make_request(), sampling=params))
    plain, call = loop.calls
    assert call.config == plain.config


async def test_memory_of_log_probabilities_is_given_back(make_engine, loop):
    """An idle request object would keep 8 KiB a token of its last answer."""
    engine = await make_engine(max_num_seqs=1)
    with mock.patch.object(loop, "create_request", side_effect=loop.create_request) as create:
        await answer(engine, make_request())
        assert create.call_count == 0
        await answer(engine, make_request(num_logprobs=1))
        await answer(engine, make_request())
    assert create.call_count == 1


async def test_memory_of_log_probabilities_grows_with_the_answer(make_engine, loop, monkeypatch):
    """Most answers are much shorter than the context, so that several requests without a limit fit."""
    limit = 3 * 256 * 351 * 2
    monkeypatch.setattr("internvl_server.engine.turbomind.engine.MAX_LOGITS_BYTES", limit)
    monkeypatch.setattr("internvl_server.engine.turbomind.limits.MAX_LOGITS_BYTES", limit)
    engine = await make_engine(max_num_seqs=2)
    request = make_request(temperature=0.0, num_logprobs=0, max_tokens=1900)
    loop.plan = lambda call: Plan([65] * 10, None)
    async with engine.generate(request) as short, engine.generate(request):
        await anext(short)
        assert engine._logits_budget.in_use == 2 * 256 * 351 * 2
    await until(lambda: not engine._logits_budget.in_use)
    ids: list[int] = []
    loop.plan = lambda call: Plan([65] * 1000, tokens_per_step=100, may_have=lambda: len(ids) + 100)
    with pytest.raises(EngineError, match="no memory for more log probabilities"):
        await answer(engine, request, ids)
    assert len(ids) == 800
    await until(lambda: not engine._logits_budget.in_use)
