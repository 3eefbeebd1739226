"""Tool calls: the native compiler takes every shape, and the shapes allow what they should and no more."""

import pytest
import xgrammar
from internvl_server.core import CallableTool, ToolCalls
from internvl_server.engine.turbomind.guided.judge import judge
from internvl_server.errors import InvalidRequestError

from tests.lmdeploy.native import Plan
from tests.lmdeploy.requests import END, answer, make_request

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS = (CallableTool("weather", WEATHER), CallableTool("an\u00fcthing", {"type": "object"}))


def constraint(*, is_required, is_parallel, tools=TOOLS):
    return ToolCalls(tools, is_required, is_parallel)


def call(arguments, name="weather"):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def accepts(constraint, text):
    """Whether an answer may be this text and end there."""
    vocabulary = [bytes([byte]) for byte in range(256)] + ["<end>"]
    info = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[256])
    tag = judge(constraint, "check").grammar
    compiled = xgrammar.GrammarCompiler(info, cache_enabled=False).compile_structural_tag(tag)
    matcher = xgrammar.GrammarMatcher(compiled)
    return matcher.accept_string(text) and matcher.accept_token(256)


PARIS = call('{"city": "Paris"}')
ROME = call('{"city": "Rome", "days": 3}')
ANY = call('{"a": [1, {"b": null}]}', "an\u00fcthing")
SHAPES = {
    "auto, several": constraint(is_required=False, is_parallel=True),
    "auto, one": constraint(is_required=False, is_parallel=False),
    "required, several": constraint(is_required=True, is_parallel=True),
    "required, one": constraint(is_required=True, is_parallel=False),
}
# text → the shapes that allow it
TEXTS = {
    "": ["auto, several", "auto, one"],
    "No tool is <needed> for it.": ["auto, several", "auto, one"],
    PARIS: list(SHAPES),
    ROME: list(SHAPES),
    ANY: list(SHAPES),
    call("{}", "an\u00fcthing"): list(SHAPES),
    f"{PARIS}\n{ANY}": ["auto, several", "auto, one", "required, several"],
    f"{PARIS}{ANY}": ["auto, several", "auto, one"],  # free text, empty, stands between them
    f"Let me see.\n{PARIS}": ["auto, several", "auto, one"],
    f"<think>{PARIS}</think>{PARIS}": ["auto, several", "auto, one"],
    f"{PARIS}\nDone.": ["auto, several", "auto, one"],
    f"{PARIS}\n": ["auto, several", "auto, one"],
    "<tool_call>": [],
    "<tool_call>\nPlease.": [],
    PARIS.removesuffix("\n</tool_call>"): [],
    call("{}"): [],
    call('{"city": 1}'): [],
    call('{"city": "Paris", "country": "F"}'): [],
    call("[1]", "an\u00fcthing"): [],
    call("{}", "nobody"): [],
    f"Well: {call('{}', 'nobody')}": [],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("text", TEXTS)
def test_texts(shape, text):
    assert accepts(SHAPES[shape], text) == (shape in TEXTS[text])


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_native_compiler_takes_it(make_engine, loop, shape):
    engine = await make_engine()
    loop.plan = lambda call: Plan([65, END])
    assert await answer(engine, make_request(constraint=SHAPES[shape])) == ([65, END], "stop")
    assert loop.calls[0].grammar is not None


async def test_a_schema_of_another_type_than_an_object_is_refused(make_engine, loop):
    engine = await make_engine()
    tools = (CallableTool("f", {"type": "array"}),)
    request = make_request(constraint=constraint(is_required=False, is_parallel=True, tools=tools))
    with pytest.raises(InvalidRequestError, match="must be an object") as caught:
        await answer(engine, request)
    assert caught.value.param == "tools"
    assert loop.calls == []


def test_what_the_schema_of_a_tool_does_not_enforce_is_named():
    schema = {"properties": {"a": {"type": "array", "uniqueItems": True}}}
    tools = (*TOOLS, CallableTool("f", schema))
    shape = constraint(is_required=True, is_parallel=True, tools=tools)
    assert judge(shape, "check").loosened == ("uniqueItems",)


FORMAT = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}


@pytest.mark.parametrize("is_parallel", [True, False])
async def test_calls_or_an_answer_in_a_format(make_engine, loop, is_parallel):
    either = ToolCalls(TOOLS, is_parallel=is_parallel, answer=FORMAT)
    for text in (PARIS, '{"a": 1}'):
        assert accepts(either, text), text
    assert accepts(either, f"{PARIS}\n{ANY}") == is_parallel
    for text in (
        "",
        "x",
        '{"a": 2}',
        PARIS + '{"a": 1}',
        f'{{"a": 1}}\n{PARIS}',
        call("{}", "nobody"),
    ):
        assert not accepts(either, text), text
    engine = await make_engine()
    await answer(engine, make_request(constraint=either))
    assert loop.calls[0].grammar is not None
