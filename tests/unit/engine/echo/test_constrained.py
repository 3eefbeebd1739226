"""The echo engine under a constraint: short answers that are allowed, the same each time, and their end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from internvl_server.core import (
    CallableTool,
    GenerateRequest,
    Grammar,
    JsonSchema,
    Regex,
    SamplingParams,
    ToolCalls,
)
from internvl_server.engine.base import Capability
from internvl_server.engine.echo import CAPABILITIES
from internvl_server.engine.echo.constrained import ConstrainedAnswers
from internvl_server.engine.echo.engine import EchoEngine
from internvl_server.errors import (
    EngineUnavailableError,
    InvalidRequestError,
    UnsupportedParameterError,
)
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.settings import EchoSettings

from tests.unit.engine.guided.helpers import SCHEMAS, fits

ROOT = Path(__file__).parents[4]
DEMO = load_tokenizer(ROOT / "server" / "internvl_server" / "demo_model")
END = DEMO.control_id("<|im_end|>")


def make_engine(tokenizer):
    tokens = tokenizer.vocabulary
    return EchoEngine(
        EchoSettings(), max_num_seqs=4, max_model_len=2000, constrained=ConstrainedAnswers(tokens)
    )


@pytest.fixture
async def engine():
    engine = make_engine(DEMO)
    await engine.start()
    yield engine
    await engine.close()


def make_request(constraint, *, max_tokens=1000, stop=(END,), **sampling):
    prompt = tuple(DEMO.encode_text("hello"))
    params = SamplingParams(constraint=constraint, **sampling)
    return GenerateRequest("r", prompt, max_tokens, params, frozenset(stop))


async def deltas_of(engine, request):
    async with engine.generate(request) as deltas:
        return [delta async for delta in deltas]


async def answer(engine, request):
    """Ids and reason; every delta but the last has one id and no reason."""
    *rest, last = await deltas_of(engine, request)
    assert all(len(delta.token_ids) == 1 and delta.finish_reason is None for delta in rest)
    return [i for delta in (*rest, last) for i in delta.token_ids], last.finish_reason


async def text(engine, constraint, **sampling):
    """Of an answer that ended by itself."""
    token_ids, reason = await answer(engine, make_request(constraint, **sampling))
    assert reason == "stop"
    return b"".join(DEMO.vocabulary.bytes_of(i) for i in token_ids if i != END).decode()


def json_schema(schema):
    return JsonSchema(schema)


def record(required=None, **properties):
    required = list(properties) if required is None else required
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


STRING, INTEGER = {"type": "string"}, {"type": "integer"}
LIST = {
    "$defs": {"n": record(v=INTEGER, next={"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]})},
    "$ref": "#/$defs/n",
}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "object"}, {}),
        ({}, ""),
        (record([], a=STRING), {}),
        (record(s=STRING, i=INTEGER, b={"type": "boolean"}, l={"type": "array", "items": STRING}),
         {"s": "", "i": 0, "b": False, "l": []}),
        (record(o=record(p=record(q={"type": "null"}))), {"o": {"p": {"q": None}}}),
        (record(c={"enum": ["red", "blue"]}, d={"enum": [30, 1]}, e={"const": "z"}),
         {"c": "blue", "d": 1, "e": "z"}),
        ({"type": "array", "items": STRING, "minItems": 3}, ["", "", ""]),
        ({"type": "array", "items": INTEGER, "minItems": 3}, [0, 1, 2]),
        ({"type": "string", "minLength": 1}, "A"),
        ({"type": "integer", "minimum": 17, "maximum": 19}, 17),
        ({"type": "integer", "maximum": -5, "minimum": -9}, -5),
        ({"type": "string", "pattern": r"^[A-Z]{2}-\d{2}$"}, "AB-01"),
        ({"anyOf": [record(k=STRING), {"type": "null"}]}, None),
        ({"oneOf": [record(k={"const": "b"}), record(k={"const": "a"}, n=INTEGER)]}, {"k": "a", "n": 0}),
        (LIST, {"v": 0, "next": None}),
    ],
    ids=str,
)  # fmt: skip
async def test_json(engine, schema, expected):
    first = await text(engine, json_schema(schema))
    assert json.loads(first) == expected
    assert await text(engine, json_schema(schema), seed=3, temperature=2.0) == first


FORMATS = {
    "date-time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
    "date": r"\d{4}-\d\d-\d\d",
    "email": r"[^@]+@[^@]+",
    "uuid": r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "ipv4": r"\d+(\.\d+){3}",
}


@pytest.mark.parametrize("name", FORMATS)
async def test_formats_of_strings(engine, name):
    value = json.loads(await text(engine, json_schema({"type": "string", "format": name})))
    assert re.fullmatch(FORMATS[name], value)


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (Regex("(red)|(blue)"), "blue"),
        (Regex(r"\d{3}-[A-Z]{2}"), "012-AB"),
        (Regex(r"\{[a-z]*\}"), "{}"),
        (Regex("[a-z]*"), ""),
        (Grammar('root ::= "yes" | "yes please"'), "yes"),
        (Grammar('root ::= item ("," item)*\nitem ::= "(" root ")" | [0-9]+'), "0"),
        (Grammar('root ::= "(" root ")" root | "[" root root "]" | "q"'), "q"),
    ],
)
async def test_patterns_and_rules(engine, constraint, expected):
    assert await text(engine, constraint) == expected


@pytest.mark.parametrize("pattern", ["[^~]*~", "[a-z]*X", r"(ab|cd)+\."])
async def test_repetitions_end(engine, pattern):
    assert re.fullmatch(pattern, await text(engine, Regex(pattern)))


@pytest.mark.parametrize("constraint", [Regex('"*y'), Grammar('root ::= "}" root | "x"')])
async def test_what_does_not_end_is_cut_off(engine, constraint):
    token_ids, reason = await answer(engine, make_request(constraint, max_tokens=200))
    assert (len(token_ids), reason) == (200, "length")


async def test_the_text_does_not_depend_on_the_vocabulary(engine, tokenizer):
    other = make_engine(tokenizer)
    await other.start()
    end = tokenizer.control_id("<|im_end|>")
    for schema in (record(u={"type": "string", "format": "uuid"}), LIST):
        token_ids, _ = await answer(other, make_request(json_schema(schema), stop=(end,)))
        assert tokenizer.text_of(token_ids) == await text(engine, json_schema(schema))
    await other.close()


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(schema=SCHEMAS)
async def test_answers_fit_their_schema(engine, schema):
    assert fits(json.loads(await text(engine, json_schema(schema))), schema)


WEATHER = CallableTool("weather", record(["city"], city=STRING, unit={"enum": ["C"]}))
CLOCK = CallableTool("clock", {"type": "object"})


def tool_calls(*tools, is_required=True):
    return ToolCalls(tools, is_required)


def call(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


async def test_a_required_call_is_one_of_the_first_tool(engine):
    assert await text(engine, tool_calls(CLOCK, WEATHER)) == call("clock", "{}")
    assert await text(engine, tool_calls(WEATHER, CLOCK)) == call("weather", '{"city": ""}')
    assert await text(engine, tool_calls(WEATHER)) == call("weather", '{"city": ""}')


async def test_tools_that_may_be_called_change_nothing(engine):
    assert await text(engine, tool_calls(CLOCK, is_required=False)) == "hello"
    assert Capability.GUIDED_TOOL_CALLS not in engine.info.capabilities


@pytest.mark.parametrize(
    "constraint",
    [
        JsonSchema({"type": "nonsense"}, "text.format"),
        Regex("(", "text.format"),
        Regex("(a?){1000}a{1000}", "text.format"),
        Grammar("root ::= x", "text.format"),
    ],
    ids=str,
)
async def test_a_bad_constraint_is_refused_before_the_request_is_accepted(engine, constraint):
    with pytest.raises(InvalidRequestError) as caught:
        async with engine.generate(make_request(constraint)):
            pytest.fail("accepted")
    assert caught.value.param == "text.format"
    assert engine.num_started == 0


# How an answer ends.


async def test_the_end_is_a_stop_token_only_where_text_could_follow(engine):
    more, nothing = Regex("ab?"), Regex("a")
    [a] = DEMO.encode_text("a")
    assert await answer(engine, make_request(more)) == ([a, END], "stop")
    assert await answer(engine, make_request(nothing)) == ([a], "stop")
    assert await answer(engine, make_request(more, stop=())) == ([a], "stop")
    assert await answer(engine, make_request(more, stop=(END, 10**6))) == ([a, END], "stop")
    other = DEMO.control_id("<|endoftext|>")
    both = make_request(more, stop=(END, other), logit_bias=((other, -100.0),))
    assert await answer(engine, both) == ([a, END], "stop")
    assert await answer(engine, make_request(Regex("b?"), stop=())) == ([], "stop")


async def test_max_tokens_and_the_context_cut(engine):
    whole, _ = await answer(engine, make_request(json_schema(record(name=STRING))))
    for most in (1, 4, len(whole) - 1):
        cut = await answer(engine, make_request(json_schema(record(name=STRING)), max_tokens=most))
        assert cut == (whole[:most], "length")
    exact = make_request(json_schema(record(name=STRING)), max_tokens=len(whole))
    assert await answer(engine, exact) == (whole, "stop")
    [a] = DEMO.encode_text("a")
    assert await answer(engine, make_request(Regex("ab?"), max_tokens=1)) == (
        [a],
        "length",
    )


async def test_a_stop_token_with_text_is_said_only_where_nothing_else_may_be(engine):
    a, b, x = (DEMO.encode_text(letter)[0] for letter in "abx")
    either, both = Regex("[ab]x"), Regex("abx")
    assert await answer(engine, make_request(either, stop=(END, a))) == ([b, x], "stop")
    assert await answer(engine, make_request(both, stop=(END, b))) == ([a, b], "stop")
    # A banned token is said where the constraint asks for it, and ends nothing.
    banned = make_request(both, logit_bias=((b, -100.0),))
    assert await answer(engine, banned) == ([a, b, x], "stop")
    banned = make_request(either, logit_bias=((a, -100.0),))
    assert await answer(engine, banned) == ([b, x], "stop")


async def test_min_tokens_gives_way_to_the_constraint(engine):
    token_ids, _ = await answer(engine, make_request(Regex("a{1,9}"), min_tokens=4))
    text = b"".join(DEMO.vocabulary.bytes_of(i) for i in token_ids if i != END)
    assert token_ids[-1] == END
    assert len(token_ids) == 5
    assert re.fullmatch(b"a{4,9}", text)
    assert (await answer(engine, make_request(Regex("a"), min_tokens=4)))[1] == "stop"


async def test_log_probabilities(engine):
    deltas = await deltas_of(engine, make_request(json_schema({"type": "null"}), num_logprobs=2))
    assert len(deltas) > 0
    for delta in deltas:
        [logprobs] = delta.logprobs
        assert logprobs.logprob == 0.0
        assert [token_id for token_id, _ in logprobs.top][:1] == list(delta.token_ids)


async def test_leaving_early_is_an_abort(engine):
    async with engine.generate(make_request(json_schema(LIST))) as deltas:
        await anext(deltas)
    assert (engine.num_running, engine.num_aborted, engine.num_finished) == (0, 1, 0)


async def test_nothing_is_taken_once_it_is_closed(engine):
    await engine.close()
    with pytest.raises(EngineUnavailableError):
        await answer(engine, make_request(Regex("a")))


# Where constraints cannot be followed.


async def test_without_llguidance_it_says_so():
    assert Capability.GUIDED_DECODING in CAPABILITIES
    engine = EchoEngine(EchoSettings(), max_num_seqs=1, max_model_len=64)
    await engine.start()
    assert engine.info.capabilities == CAPABILITIES - {Capability.GUIDED_DECODING}
    with pytest.raises(UnsupportedParameterError) as caught:
        await answer(engine, make_request(Regex("a", "structured_outputs.regex")))
    assert caught.value.param == "structured_outputs.regex"
    assert await answer(engine, make_request(tool_calls(CLOCK, is_required=False))) == (
        [*DEMO.encode_text("hello"), END], "stop"
    )  # fmt: skip


LOAD = """
import sys
{before}
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.engine.loader import load_engine
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.settings import EngineSettings, ModelSettings
checkpoint = load_checkpoint(ModelSettings(path={path!r}))
tokens = Vocabulary({token_bytes}, frozenset(), frozenset(), lambda text: [], lambda ids, **_: "", 0)
engine = load_engine(EngineSettings(kind="echo"), checkpoint, tokens)
print("response_format" in engine.info.capabilities, "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("before", "token_bytes", "expected"),
    [
        ("", "(b'a',)", "True False"),
        ("", "None", "False False"),
        ("sys.modules['llguidance'] = None", "(b'a',)", "False False"),
    ],
)
def test_it_is_loaded_with_constraints_only_where_they_work_and_without_torch(
    tiny_checkpoint, before, token_bytes, expected
):
    code = LOAD.format(before=before, path=str(tiny_checkpoint), token_bytes=token_bytes)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert done.stdout.strip() == expected
