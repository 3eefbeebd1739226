"""Compiling constraints: refused when too large or malformed, abandoned when slow, cached."""

import asyncio
import threading
from typing import Any

import pytest
from internvl_server.core import CallableTool, Grammar, JsonSchema, Regex, ToolCalls
from internvl_server.engine.guided.compiler import GrammarCompiler, UnsupportedConstraintError
from internvl_server.errors import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    InvalidRequestError,
    UnsupportedParameterError,
)


@pytest.fixture
def compiled():
    return []


@pytest.fixture
def compiler(compiled):
    def compile_constraint(constraint):
        if "bad" in str(constraint):
            raise ValueError("the reason\nand more")
        compiled.append(constraint)
        return object()

    compiler = GrammarCompiler(compile_constraint)
    yield compiler
    compiler.close()


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
        (JsonSchema(nested(33), "the.field"), "nested more than 32 levels"),
        (ToolCalls((CallableTool("f", nested(33)),), param="the.field"), "nested more than"),
        (ToolCalls((), answer=nested(33), param="the.field"), "nested more than"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_too_large_is_refused_uncompiled(compiler, compiled, constraint, reason):
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        await compiler.compile(constraint)
    assert caught.value.param == "the.field"
    assert "'the.field'" in caught.value.message
    assert not compiled


@pytest.mark.parametrize(
    "constraint",
    [
        JsonSchema(nested(30)),
        # Brackets inside strings are no nesting.
        JsonSchema({"description": ":(" * 40, "pattern": "[" * 40, "{" * 40: {}}),
        Regex(r"\(" * 40),
        Grammar('root ::= "' + "(" * 40 + '"'),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_not_too_large_is_compiled(compiler, compiled, constraint):
    assert await compiler.compile(constraint)
    assert compiled == [constraint]


async def test_what_was_compiled_is_kept(compiler, compiled):
    one = await compiler.compile(Regex("a"))
    assert await compiler.compile(Regex("a", "elsewhere")) is one
    assert await compiler.compile(Grammar("a")) is not one
    assert len(compiled) == 2


async def test_the_one_used_longest_ago_is_forgotten(compiler, compiled):
    first = await compiler.compile(Regex("0"))
    for number in range(1, 40):
        await compiler.compile(Regex(str(number)))
        assert await compiler.compile(Regex("0")) is first
    assert len(compiled) == 40
    await compiler.compile(Regex("1"))
    assert len(compiled) == 41


async def test_what_cannot_be_compiled_is_a_400_that_names_the_field(compiler):
    for _ in range(2):
        with pytest.raises(InvalidRequestError) as caught:
            await compiler.compile(Regex("bad", "structured_outputs.regex"))
        assert caught.value.param == "structured_outputs.regex"
        assert caught.value.message == "'structured_outputs.regex' cannot be used: the reason."


async def test_what_an_engine_would_not_enforce_is_unsupported():
    def refuse(constraint):
        raise UnsupportedConstraintError("the keyword 'not' is not supported")

    compiler = GrammarCompiler(refuse)
    with pytest.raises(UnsupportedParameterError, match="'not'") as caught:
        await compiler.compile(JsonSchema({}, "text.format"))
    assert caught.value.param == "text.format"
    compiler.close()


async def test_a_defect_of_the_compiler_is_logged_and_not_the_client_s_fault(caplog):
    def fail(constraint):
        raise KeyError("a defect")

    compiler = GrammarCompiler(fail)
    with pytest.raises(EngineError):
        await compiler.compile(Regex("a"))
    assert "KeyError: 'a defect'" in caplog.text
    assert "Traceback" in caplog.text
    compiler.close()


async def test_equal_constraints_are_compiled_once_at_the_same_time(compiler, compiled):
    grammars = await asyncio.gather(*(compiler.compile(Regex("a", str(n))) for n in range(9)))
    assert len(set(map(id, grammars))) == len(compiled) == 1


async def test_after_closing_only_what_has_begun_is_compiled():
    release = threading.Event()
    compiler = GrammarCompiler(lambda constraint: release.wait(20))
    tasks = [asyncio.ensure_future(compiler.compile(Regex(str(n)))) for n in range(3)]
    await asyncio.sleep(0)
    compiler.close()
    release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:2] == [True, True]
    assert isinstance(results[2], EngineUnavailableError)
    with pytest.raises(EngineUnavailableError):
        await compiler.compile(Regex("c"))


async def test_one_that_takes_too_long_is_given_up():
    release = threading.Event()
    compiler = GrammarCompiler(lambda constraint: release.wait(20), timeout_s=0.1)
    try:
        for pattern in ("a", "a", "b"):  # the second waits for the first
            with pytest.raises(InvalidRequestError, match="takes more than"):
                await compiler.compile(Regex(pattern))
        with pytest.raises(EngineOverloadedError):
            await compiler.compile(Regex("c"))
        release.set()
        await asyncio.sleep(0.1)
        assert await compiler.compile(Regex("c"))
    finally:
        release.set()
        compiler.close()
