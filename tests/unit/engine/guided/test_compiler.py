"""Compiling guides: refused when too large or malformed, given up when slow, kept when used again."""

import asyncio
import threading

import pytest
from internvl_server.core import Grammar, JsonSchema, Regex
from internvl_server.engine.guided.compiler import GrammarCompiler, check_guide
from internvl_server.errors import (
    EngineOverloadedError,
    EngineUnavailableError,
    InvalidRequestError,
)


@pytest.fixture
def compiled():
    return []


@pytest.fixture
def compiler(compiled):
    def compile_guide(guide):
        if "bad" in str(guide):
            raise ValueError("the reason\nand more")
        compiled.append(guide)
        return object()

    compiler = GrammarCompiler(compile_guide)
    yield compiler
    compiler.close()


@pytest.mark.parametrize(
    "guide",
    [
        Regex("(" * 40 + ")" * 40, "the.field"),
        Regex("x" * 65_537, "the.field"),
        Regex("((a{1,99}){99}){99}", "the.field"),
        Regex("((a{99}){99}){99}[b", "the.field"),
        Regex("[b((a{99}){99}){99}", "the.field"),
        JsonSchema({"type": "string", "pattern": "(a{999}){999}"}, "the.field"),
        JsonSchema(
            {"items": {"items": {"type": "string"}, "maxItems": 999}, "maxItems": 999}, "the.field"
        ),
    ],
    ids=lambda guide: str(guide)[:40],
)
def test_guides_that_are_refused_uncompiled(guide):
    with pytest.raises(InvalidRequestError) as caught:
        check_guide(guide)
    assert caught.value.param == "the.field"
    assert "the.field" in caught.value.message


@pytest.mark.parametrize(
    "guide",
    [
        Regex(r"\{\d{3}\}[{}()]+(ab|c){2,5}"),
        JsonSchema({"properties": {"a": {}, "b": {"type": "string", "maxLength": 4000}}}),
        Grammar('root ::= "{" [0-9]{1,9} "}"'),
        # Each of these classes is open to the end: looking for it anew would take minutes.
        Regex("[)" * 20_000),
        Regex("[)" * 20_000 + "\\"),
    ],
)
def test_guides_that_pass(guide):
    check_guide(guide)


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
        assert caught.value.message == "The structured_outputs.regex cannot be used: the reason"


async def test_after_closing_only_what_has_begun_is_compiled():
    release = threading.Event()
    compiler = GrammarCompiler(lambda guide: release.wait(20))
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
    compiler = GrammarCompiler(lambda guide: release.wait(20), timeout_s=0.1)
    try:
        for _ in range(2):
            with pytest.raises(InvalidRequestError, match="takes more than"):
                await compiler.compile(Regex("a"))
        with pytest.raises(EngineOverloadedError):
            await compiler.compile(Regex("a"))
        release.set()
        await asyncio.sleep(0.1)
        assert await compiler.compile(Regex("a"))
    finally:
        release.set()
        compiler.close()
