"""Guided decoding: compiled before the request is accepted, or refused; never free text."""

import asyncio
import functools
import json
import multiprocessing
import resource
import signal

import pytest
import xgrammar
from internvl_server.core import Grammar, JsonSchema, Regex
from internvl_server.errors import InvalidRequestError
from lmdeploy.messages import GenerationConfig

from tests.lmdeploy.native import Plan
from tests.lmdeploy.requests import END, answer, make_request

SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}}
GOOD = [
    JsonSchema(SCHEMA),
    JsonSchema({}),
    Regex("[a-z]{3,5}"),
    Regex("((a{1,9}){1,9}){1,9}"),
    Grammar('root ::= "yes" | "no"'),
]
BAD = [
    JsonSchema({"type": "nonsense"}),
    JsonSchema({"$ref": "#/nowhere"}),
    JsonSchema({"type": "array", "maxItems": 99999999, "minItems": 99999999}),
    JsonSchema(functools.reduce(lambda inner, _: {"items": inner}, range(40), {})),
    JsonSchema({"const": "x" * 70_000}),
    Regex("((("),
    Regex("a{5,2}"),
    Grammar("root := yes"),
    Grammar('nobody ::= "a"'),
]


@pytest.mark.parametrize("constraint", GOOD, ids=str)
async def test_the_grammar_reaches_the_native_side(make_engine, loop, constraint):
    engine = await make_engine(max_num_seqs=1)
    await answer(engine, make_request(constraint=constraint))
    await answer(engine, make_request())
    guided, free = loop.calls
    assert guided.grammar is not None
    assert free.grammar is None, "the next request was held to the grammar of the one before"


@pytest.mark.parametrize("constraint", BAD, ids=lambda constraint: str(constraint)[:40])
async def test_a_constraint_that_cannot_be_compiled_is_a_400(make_engine, loop, constraint):
    engine = await make_engine()
    with pytest.raises(InvalidRequestError) as caught:
        await answer(engine, make_request(constraint=constraint))
    assert caught.value.param == "response_format"
    assert "/" not in caught.value.message.replace("#/", "")
    assert loop.calls == []


async def test_what_lmdeploy_does_with_one(make_engine, loop):
    """Its own door answers with free text; ours never gives it a `response_format`."""
    engine = await make_engine()
    instance = engine._runtime._turbomind.create_instance()
    config = GenerationConfig(stop_token_ids=[END], response_format={"type": "nonsense"})
    async for output in instance.async_stream_infer(
        1, input_ids=[1], gen_config=config, stream_output=True
    ):
        assert output.token_ids
    assert loop.calls[-1].grammar is None


async def test_the_event_loop_runs_on_while_one_is_compiled(make_engine, loop):
    engine = await make_engine()
    compile_grammar, is_native, num_rounds = engine._compiler._compile_grammar, False, 0

    def compile_watched(tag):
        nonlocal is_native
        is_native = True
        try:
            return compile_grammar(tag)
        finally:
            is_native = False

    engine._compiler._compile_grammar = compile_watched
    properties = {f"k{n}": {"enum": [f"v{n}-{i}" for i in range(20)]} for n in range(150)}
    constraint = JsonSchema({"type": "object", "properties": properties})
    task = asyncio.ensure_future(answer(engine, make_request(constraint=constraint)))
    while not task.done():
        num_rounds += is_native
        await asyncio.sleep(0.001)
    await task
    assert num_rounds > 3


def compile_counted_properties():
    """In a process with so little processor time that only what takes ever more of it uses it up."""
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    info = xgrammar.TokenizerInfo([bytes([byte]) for byte in range(256)], stop_token_ids=[0])
    compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
    properties = {f"p{number}": {"type": "integer"} for number in range(300)}
    schema = {"type": "object", "properties": properties, "minProperties": 140}
    compiler.compile_json_schema(json.dumps(schema))


def test_counting_many_properties_hangs_the_compiler():
    """Why `held_schema` drops it: no timeout ends the compiler's thread."""
    process = multiprocessing.get_context("fork").Process(target=compile_counted_properties)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


async def test_plan_of_a_guided_request_ends_as_any_other(make_engine, loop):
    engine = await make_engine()
    loop.plan = lambda call: Plan([65, END])
    assert await answer(engine, make_request(constraint=GOOD[0])) == ([65, END], "stop")


async def test_what_would_occupy_the_native_compiler_for_minutes_is_refused(make_engine, loop):
    engine = await make_engine()
    with pytest.raises(InvalidRequestError, match="too long"):
        await answer(engine, make_request(constraint=Regex("[a-z]" * 12_000)))
    assert loop.calls == []


async def test_constraints_are_judged_in_another_process(make_engine, loop, in_other_processes):
    engine = await make_engine()
    await answer(engine, make_request(constraint=JsonSchema({"type": "integer", "minimum": 3})))
    assert loop.calls[0].grammar is not None
    with pytest.raises(InvalidRequestError, match="nonsense"):
        await answer(engine, make_request(constraint=JsonSchema({"type": "nonsense"})))
    assert await engine.compile(JsonSchema({"not": {}})) == ("not",)
