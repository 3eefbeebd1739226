"""Compiling constraints: refused when too large or malformed, abandoned when slow, cached."""

import asyncio
from threading import Event
from traceback import walk_tb
from typing import Any

import pytest
from internvl_server.concurrency.jobs import JobLimitError
from internvl_server.core import CallableTool, Constraint, Grammar, JsonSchema, Regex, ToolCalls
from internvl_server.engine.guided.compiler import (
    GrammarCompiler,
    Judgement,
    ProcessJudge,
    UnsupportedConstraintError,
)
from internvl_server.errors import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    InvalidRequestError,
    UnsupportedParameterError,
)


class FakeJudge:
    """Notes the constraints that it judges, each with its repr as the grammar."""

    def __init__(self) -> None:
        self.judged: list[Constraint] = []
        self.release = asyncio.Event()
        self.release.set()
        self.error: Exception | None = None
        self.is_closed = False

    async def judge(self, constraint: Constraint) -> Judgement:
        self.judged.append(constraint)
        await self.release.wait()
        if self.error is not None:
            raise self.error
        return Judgement(repr(constraint), ("uniqueItems",))

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def judge():
    return FakeJudge()


@pytest.fixture
async def compiler(judge):
    compiler = GrammarCompiler(judge, lambda grammar: [grammar])
    yield compiler
    await compiler.close()
    assert judge.is_closed


def nested(depth):
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (Regex("x" * 65_537, "the.field"), "longer than 65,536 characters"),
        (Grammar("x" * 65_537, "the.field"), "longer than"),
        (JsonSchema({"enum": ["x" * 40_000, "y" * 40_000]}, "the.field"), "longer than"),
        (JsonSchema({"x" * 40_000: {}, "y" * 40_000: {}}, "the.field"), "longer than"),
        (JsonSchema({"enum": list(range(70_000))}, "the.field"), "longer than"),
        (JsonSchema({"enum": [10**4000] * 20}, "the.field"), "longer than"),
        (JsonSchema(nested(33), "the.field"), "nested more than 32 levels"),
        (ToolCalls((CallableTool("f", nested(33)),), param="the.field"), "nested more than"),
        (Regex("(" * 33 + "a" + ")" * 33, "the.field"), "nested more than 32 levels"),
        (Regex("(?:" * 20_000, "the.field"), "nested more than 32 levels"),
        (Grammar("root ::= " + "(" * 33 + '"a"' + ")" * 33, "the.field"), "nested more than"),
        (JsonSchema({"pattern": "(" * 33 + ")" * 33}, "the.field"), "nested more than"),
        (Regex("a{1,50001}", "the.field"), "repeats something more than 50,000 times"),
        (Regex("(.{1,1000}){1,1000}", "the.field"), "repeats"),
        (Regex("((a{2}b{40}|c){40}d){40}", "the.field"), "repeats"),
        (Regex("a{99999999999999999999}", "the.field"), "repeats"),
        (Grammar('root ::= "a"{50001,}', "the.field"), "repeats"),
        (JsonSchema({"items": {"pattern": "a{100000}"}}, "the.field"), "repeats"),
        (JsonSchema({"patternProperties": {"a{100000}": {}}}, "the.field"), "repeats"),
        (ToolCalls((), answer=nested(33), param="the.field"), "nested more than"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_too_large_is_refused_unjudged(compiler, judge, constraint, reason):
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        await compiler.compile(constraint)
    assert caught.value.param == "the.field"
    assert "'the.field'" in caught.value.message
    assert not judge.judged


@pytest.mark.parametrize(
    "constraint",
    [
        JsonSchema(nested(30)),
        # Brackets inside strings are no nesting.
        JsonSchema({"description": ":(" * 40, "pattern": "[" * 40, "{" * 40: {}}),
        Regex(r"\(" * 40),
        Regex(r"(a{200}){250}(b{200}c){250}\{99999}[{99999}]{,5}{2"),
        Grammar('root ::= "' + "(" * 40 + '"'),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_not_too_large_is_compiled(compiler, judge, constraint):
    compiled = await compiler.compile(constraint)
    assert compiled.grammar == [repr(constraint)]
    assert compiled.loosened == ("uniqueItems",)
    assert judge.judged == [constraint]


async def test_what_was_compiled_is_kept(compiler, judge):
    one = await compiler.compile(Regex("a"))
    assert await compiler.compile(Regex("a", "elsewhere")) is one
    assert await compiler.compile(Grammar("a")) is not one
    assert len(judge.judged) == 2


async def test_the_one_used_longest_ago_is_forgotten(compiler, judge):
    first = await compiler.compile(Regex("0"))
    for number in range(1, 40):
        await compiler.compile(Regex(str(number)))
        assert await compiler.compile(Regex("0")) is first
    assert len(judge.judged) == 40
    await compiler.compile(Regex("1"))
    assert len(judge.judged) == 41


async def test_what_cannot_be_compiled_is_a_400_that_names_the_field_and_is_not_tried_again(
    compiler, judge
):
    judge.error = ValueError("the reason\nand more")
    for param in ("structured_outputs.regex", "response_format"):
        with pytest.raises(InvalidRequestError) as caught:
            await compiler.compile(Regex("bad", param))
        assert caught.value.param == param
        assert caught.value.message == f"'{param}' cannot be used: the reason."
    assert len(judge.judged) == 1


async def test_a_refusal_does_not_keep_the_requests_it_refuses(compiler, judge):
    judge.error = ValueError("no")
    for _ in range(5):
        with pytest.raises(InvalidRequestError):
            await compiler.compile(Regex("("))
    [(refusal, _)] = compiler._refused.values()
    assert len(list(walk_tb(refusal.__traceback__))) <= 2


async def test_what_took_too_long_is_tried_again_after_a_while(compiler, judge, monkeypatch):
    judge.error = JobLimitError("it takes too much time or memory")
    for _ in range(2):
        with pytest.raises(InvalidRequestError):
            await compiler.compile(Regex("a"))
    judge.error = None
    monkeypatch.setattr("internvl_server.engine.guided.compiler._SLOW_REFUSED_S", 0.0)
    judge.error = JobLimitError("again")
    with pytest.raises(InvalidRequestError):
        await compiler.compile(Regex("b"))
    judge.error = None
    assert await compiler.compile(Regex("b"))
    assert len(judge.judged) == 3


async def test_what_the_engine_s_own_compiler_refuses_is_a_400(judge):
    def refuse(grammar):
        raise ValueError("no")

    compiler = GrammarCompiler(judge, refuse)
    with pytest.raises(InvalidRequestError, match="cannot be used: no"):
        await compiler.compile(Regex("a"))
    await compiler.close()


async def test_what_an_engine_would_not_enforce_is_unsupported(compiler, judge):
    judge.error = UnsupportedConstraintError("the keyword 'not' is not supported")
    with pytest.raises(UnsupportedParameterError, match="'not'") as caught:
        await compiler.compile(JsonSchema({}, "text.format"))
    assert caught.value.param == "text.format"


async def test_a_defect_is_logged_tried_again_and_not_the_client_s_fault(compiler, judge, caplog):
    judge.error = KeyError("a defect")
    for _ in range(2):
        with pytest.raises(EngineError):
            await compiler.compile(Regex("a"))
    assert "KeyError: 'a defect'" in caplog.text
    assert "Traceback" in caplog.text
    assert len(judge.judged) == 2


async def test_a_busy_judge_is_tried_again(compiler, judge):
    judge.error = EngineOverloadedError("busy")
    with pytest.raises(EngineOverloadedError):
        await compiler.compile(Regex("a"))
    judge.error = None
    assert await compiler.compile(Regex("a"))


async def test_equal_constraints_are_compiled_once_at_the_same_time(compiler, judge):
    grammars = await asyncio.gather(*(compiler.compile(Regex("a", str(n))) for n in range(9)))
    assert len(set(map(id, grammars))) == len(judge.judged) == 1


async def test_a_client_that_leaves_does_not_stop_what_others_wait_for(compiler, judge):
    judge.release.clear()
    leaving = asyncio.ensure_future(compiler.compile(Regex("a")))
    while not judge.judged:
        await asyncio.sleep(0)
    staying = asyncio.ensure_future(compiler.compile(Regex("a")))
    leaving.cancel()
    judge.release.set()
    assert (await staying).loosened
    assert len(judge.judged) == 1


async def test_a_grammar_does_not_wait_for_others_forever(judge, monkeypatch):
    monkeypatch.setattr("internvl_server.engine.guided.compiler._WAIT_S", 0.01)
    begun, release = [], Event()

    def compile_slowly(grammar):
        begun.append(grammar)
        release.wait()
        return grammar

    compiler = GrammarCompiler(judge, compile_slowly)
    slow = [asyncio.ensure_future(compiler.compile(Regex(name))) for name in "ab"]
    while len(begun) < 2:
        await asyncio.sleep(0.001)
    with pytest.raises(EngineOverloadedError):
        await compiler.compile(Regex("c"))
    release.set()
    await asyncio.gather(*slow)
    assert await compiler.compile(Regex("c"))
    await compiler.close()


async def test_what_is_judged_while_the_engine_closes_is_not_a_defect(judge, caplog):
    compiler = GrammarCompiler(judge, list)
    judge.release.clear()
    late = asyncio.ensure_future(compiler.compile(Regex("a")))
    while not judge.judged:
        await asyncio.sleep(0)
    await compiler.close()
    judge.release.set()
    with pytest.raises(EngineUnavailableError):
        await late
    assert not caplog.records


async def test_after_closing_nothing_is_compiled(compiler):
    await compiler.close()
    with pytest.raises(EngineUnavailableError):
        await compiler.compile(Regex("c"))


async def test_a_judge_in_processes():
    judge = ProcessJudge("internvl_server.engine.guided.judge")
    try:
        judgement = await judge.judge(JsonSchema({"type": "array", "uniqueItems": True}))
        assert judgement.loosened == ("uniqueItems",)
        assert "array" in judgement.grammar
        with pytest.raises(ValueError, match="nonsense"):
            await judge.judge(JsonSchema({"type": "nonsense"}))
    finally:
        await judge.close()


async def test_hostile_constraints_do_not_keep_others_waiting(monkeypatch):
    monkeypatch.setattr("internvl_server.engine.guided.compiler._LIMIT_S", 1.0)
    monkeypatch.setattr("internvl_server.concurrency.jobs._WALL_FACTOR", 100)
    hostile = [
        JsonSchema(
            {"allOf": [{"type": "integer", "multipleOf": p} for p in (7, 11, 13, 17, 19, n)]}
        )
        for n in (23, 29, 31, 37)
    ]
    compiler = GrammarCompiler(ProcessJudge("internvl_server.engine.guided.judge"), str)
    try:
        tasks = [asyncio.ensure_future(compiler.compile(constraint)) for constraint in hostile]
        await asyncio.sleep(0.1)
        assert await compiler.compile(JsonSchema({"type": "integer"}))
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, InvalidRequestError | EngineOverloadedError)
        with pytest.raises(InvalidRequestError, match="too much time or memory"):
            await compiler.compile(hostile[0])
        assert await compiler.compile(JsonSchema({"type": "string"}))
    finally:
        await compiler.close()
