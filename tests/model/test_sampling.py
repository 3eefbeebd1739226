"""Sampling, log probabilities and constraints on the CPU engine, with models of random weights."""

import asyncio
import dataclasses
import json
import threading
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from internvl_server.core import CallableTool, JsonSchema, Regex, ToolCalls
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.engine.base import Capability
from internvl_server.engine.guided import matcher
from internvl_server.errors import EngineError, EngineUnavailableError, InvalidRequestError
from internvl_server.prompt.tokenizer import load_tokenizer

from tests.model.cpu_requests import answer, make_request, read_checkpoint, running_engine
from tests.unit.engine.guided.helpers import SCHEMAS, fits

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return read_checkpoint(tiny_checkpoint)


@pytest.fixture
async def engine(checkpoint):
    async with running_engine(checkpoint, prefill_chunk_tokens=16) as engine:
        yield engine


@pytest.fixture(scope="module")
def ask(checkpoint):
    """Answers one request; for tests that are no coroutines."""
    with asyncio.Runner() as runner:
        running = running_engine(checkpoint)
        engine = runner.run(running.__aenter__())
        yield lambda request: runner.run(answer(engine, request))
        runner.run(running.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def reference(tiny_checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import InternVLForConditionalGeneration

        model = InternVLForConditionalGeneration.from_pretrained(
            tiny_checkpoint, dtype=torch.float32
        )
    return model.eval()


@pytest.fixture(scope="module")
def text_of(tiny_checkpoint):
    tokenizer = load_tokenizer(tiny_checkpoint)
    return lambda ids: b"".join(map(tokenizer.vocabulary.bytes_of, ids)).decode()


async def deltas_of(engine, request, pause_s=0.0):
    async with engine.generate(request) as deltas:
        await asyncio.sleep(pause_s)
        return [delta async for delta in deltas]


EVERYTHING = {
    "temperature": 1.3,
    "top_k": 60,
    "top_p": 0.97,
    "min_p": 0.001,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.4,
    "frequency_penalty": -0.2,
    "logit_bias": ((5, 3.0), (6, -100.0)),
    "min_tokens": 6,
    "num_logprobs": 3,
}


def everything(checkpoint, number):
    """A request that asks for all there is; every third is guided as well."""
    request = make_request(
        checkpoint,
        (1,) if number % 2 else (),
        seed=number,
        max_tokens=20 + number,
        stop_token_ids=checkpoint.stop_token_ids,
        **EVERYTHING,
    )
    constraint = Regex("[a-z ]{3,40}") if number % 3 == 0 else None
    sampling = dataclasses.replace(request.sampling, seed=100 + number, constraint=constraint)
    return dataclasses.replace(request, sampling=sampling)


async def test_all_features_together_answer_as_alone(engine, checkpoint):
    requests = [everything(checkpoint, number) for number in range(9)]
    plain = [make_request(checkpoint, seed=50 + n, max_tokens=25) for n in range(3)]
    together = await asyncio.gather(*(answer(engine, r) for r in requests + plain))
    alone = [await answer(engine, request) for request in requests + plain]
    assert together == alone
    assert len({tuple(ids) for ids, _ in alone}) == len(alone)
    assert all(6 not in ids for ids, _ in alone[: len(requests)])


def check_logprobs(reference, request, deltas, num_top):
    token_ids = [i for delta in deltas for i in delta.token_ids]
    found = [entry for delta in deltas for entry in delta.logprobs]
    assert len(found) == len(token_ids) == request.max_tokens
    assert all(len(delta.logprobs) == len(delta.token_ids) for delta in deltas)
    whole = torch.tensor([[*request.prompt_token_ids, *token_ids]])
    with torch.inference_mode():
        logits = reference(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[0]
    start = len(request.prompt_token_ids) - 1
    expected = logits[start:-1].double().log_softmax(-1)
    for entry, token_id, row in zip(found, token_ids, expected, strict=True):
        assert entry.logprob == pytest.approx(float(row[token_id]), abs=1e-3)
        assert len(entry.top) == num_top
        values = [value for _, value in entry.top]
        assert values == pytest.approx(row.topk(num_top).values.tolist(), abs=1e-3)
        assert [float(row[i]) for i, _ in entry.top] == pytest.approx(values, abs=1e-3)
        assert len({i for i, _ in entry.top}) == num_top
    return token_ids, found


@pytest.mark.parametrize("num_top", [0, 1, 20])
async def test_log_probabilities_equal_transformers(engine, checkpoint, reference, num_top):
    request = make_request(checkpoint, max_tokens=20, num_logprobs=num_top)
    deltas = await deltas_of(engine, request)
    token_ids, found = check_logprobs(reference, request, deltas, num_top)
    if num_top:
        assert [entry.top[0][0] for entry in found] == token_ids
    bare = dataclasses.replace(request.sampling, num_logprobs=None)
    without = await deltas_of(engine, dataclasses.replace(request, sampling=bare))
    assert {delta.logprobs for delta in without} == {None}
    assert [i for delta in without for i in delta.token_ids] == token_ids


async def test_log_probabilities_are_the_model_s_own(engine, checkpoint, reference):
    """Not those after penalties, temperature, filters and constraints; a chosen token may be unlikely."""
    constraint = Regex("[a-z]{60}")
    request = make_request(checkpoint, max_tokens=20, constraint=constraint, **EVERYTHING)
    _, found = check_logprobs(reference, request, await deltas_of(engine, request), 3)
    assert any(entry.logprob < entry.top[-1][1] for entry in found)


async def test_several_tokens_of_one_delta_have_each_their_own(engine, checkpoint, reference):
    request = make_request(checkpoint, max_tokens=30, num_logprobs=2)
    deltas = await deltas_of(engine, request, pause_s=0.5)
    assert len(deltas) < 30
    check_logprobs(reference, request, deltas, 2)


async def test_no_stop_token_before_min_tokens(engine, checkpoint):
    free, _ = await answer(engine, make_request(checkpoint, max_tokens=12))
    stops = free[:2]
    request = make_request(checkpoint, max_tokens=12, stop_token_ids=stops)
    assert await answer(engine, request) == (free[:1], "stop")
    request = make_request(checkpoint, max_tokens=12, stop_token_ids=stops, min_tokens=5)
    ids, _ = await answer(engine, request)
    assert not set(ids[:5]) & set(stops)
    request = make_request(checkpoint, max_tokens=12, stop_token_ids=[], min_tokens=5)
    assert await answer(engine, request) == (free, "length")
    request = make_request(checkpoint, max_tokens=12, stop_token_ids=[10**9, -1], min_tokens=5)
    assert await answer(engine, request) == (free, "length")


@pytest.mark.parametrize("token_id", [-1, 351, 10**12])
async def test_a_bias_on_an_unknown_token_is_refused(engine, checkpoint, token_id):
    with pytest.raises(InvalidRequestError) as caught:
        await answer(engine, make_request(checkpoint, logit_bias=((token_id, 1.0),)))
    assert caught.value.param == "logit_bias"


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, seed=st.integers(0, 1000))
def test_guided_answers_fit_schemas(ask, checkpoint, text_of, schema, seed):
    """Every answer parses and fits, at a temperature at which this model only babbles."""
    request = make_request(
        checkpoint,
        seed=seed,
        max_tokens=800,
        stop_token_ids=checkpoint.stop_token_ids,
        temperature=1.0,
        constraint=JsonSchema(schema),
    )
    ids, reason = ask(request)
    assert reason == "stop"
    text = text_of([i for i in ids if i not in checkpoint.stop_token_ids])
    assert fits(json.loads(text), schema), text


async def test_a_fulfilled_constraint_ends_the_answer(engine, checkpoint, text_of):
    """Without any stop token, and on the last token that was allowed."""
    constraint = Regex("[ab]{7}")
    for max_tokens in (7, 50):
        request = make_request(checkpoint, max_tokens=max_tokens, constraint=constraint)
        ids, reason = await answer(engine, request)
        assert (len(ids), reason) == (7, "stop")
        assert set(text_of(ids)) <= {"a", "b"}
    request = make_request(checkpoint, max_tokens=6, constraint=constraint)
    assert (await answer(engine, request))[1] == "length"
    endless = make_request(checkpoint, max_tokens=30, constraint=Regex("[ab]+"))
    assert (await answer(engine, endless))[1] == "length"


async def test_required_calls(engine, checkpoint, text_of, tiny_checkpoint):
    parameters = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    tool = CallableTool("f", parameters | {"additionalProperties": False})
    constraint = ToolCalls((tool,), is_required=True, is_parallel=False)
    ids, reason = await answer(
        engine, make_request(checkpoint, max_tokens=80, constraint=constraint)
    )
    text = text_of(ids).removeprefix("\n")
    assert reason == "stop"
    head, tail = "<tool_call>\n", "\n</tool_call>"
    assert (text[: len(head)], text[-len(tail) :]) == (head, tail)
    called = json.loads(text[len(head) : -len(tail)])
    assert called["name"] == "f"
    assert called["arguments"]["n"] in (1, 2)


async def test_a_bad_constraint_is_refused_and_nothing_else(engine, checkpoint):
    bad = make_request(checkpoint, constraint=JsonSchema({"type": "nonsense"}))
    beside = asyncio.ensure_future(answer(engine, make_request(checkpoint, max_tokens=40)))
    with pytest.raises(InvalidRequestError, match="nonsense") as caught:
        async with engine.generate(bad):
            pytest.fail("was entered")
    assert caught.value.param == "response_format"
    assert len((await beside)[0]) == 40
    assert engine._worker._runner.num_sequences == 0


async def test_a_constraint_that_fails_under_way_fails_its_request_alone(
    engine, checkpoint, monkeypatch
):
    limits = matcher.GrammarMatcher.advance
    count = 0

    def fail(state, token_id):
        nonlocal count
        count += 1
        if count > 3:
            raise EngineError("too large")
        limits(state, token_id)

    monkeypatch.setattr(matcher.GrammarMatcher, "advance", fail)
    guided = make_request(checkpoint, max_tokens=40, constraint=Regex("[ab]{30}"))
    plain = make_request(checkpoint, max_tokens=40)
    results = await asyncio.gather(
        answer(engine, guided), answer(engine, plain), return_exceptions=True
    )
    assert isinstance(results[0], EngineError)
    assert len(results[1][0]) == 40
    assert engine._worker._runner.num_sequences == 0


async def test_what_it_says_it_can_do(engine, checkpoint):
    assert engine.info.capabilities == frozenset(Capability)
    bare = Vocabulary(None, frozenset(), frozenset(), lambda text: [], lambda ids, **_: "", 0)
    async with running_engine(checkpoint, tokens=bare) as without:
        lacking = frozenset(Capability) - without.info.capabilities
        assert lacking == {Capability.GUIDED_DECODING, Capability.GUIDED_TOOL_CALLS}
        with pytest.raises(InvalidRequestError):
            await answer(without, make_request(checkpoint, constraint=Regex("a", "g")))
        assert (await answer(without, make_request(checkpoint)))[1] == "length"


async def test_leaving_or_closing_while_a_constraint_is_compiled(checkpoint, monkeypatch):
    begun, release = threading.Event(), threading.Event()
    compile_constraint = matcher.GrammarVocabulary.compile

    def slowly(vocabulary, constraint):
        begun.set()
        release.wait(20)
        return compile_constraint(vocabulary, constraint)

    monkeypatch.setattr(matcher.GrammarVocabulary, "compile", slowly)
    try:
        async with running_engine(checkpoint) as engine:
            left, waiting = (
                asyncio.ensure_future(
                    answer(engine, make_request(checkpoint, constraint=Regex(pattern)))
                )
                for pattern in ("[ab]{9}", "[cd]{9}")
            )
            await asyncio.to_thread(begun.wait, 20)
            assert len((await answer(engine, make_request(checkpoint)))[0]) == 16
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            assert not engine._streams
        release.set()
        with pytest.raises(EngineUnavailableError):
            await waiting
        assert not engine._streams
    finally:
        release.set()
