"""JSON schemas on TurboMind: what is enforced, and what is loosened and named, tried on the compiler."""

import json
import random
import re

import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.core import CallableTool, JsonSchema, ToolCalls
from internvl_server.engine.turbomind.guided.judge import judge
from internvl_server.engine.turbomind.guided.patterns import json_pattern
from internvl_server.errors import InvalidRequestError, UnsupportedParameterError

from tests.everyday_schemas import EVERYDAY
from tests.lmdeploy.requests import answer, make_request
from tests.unit.engine.guided.helpers import SCHEMAS, fits

END = 256

A = {"a": {"type": "integer"}}
AB = A | {"b": {"type": "integer"}}
# schema, an answer it allows, one it does not
HELD_TO = [
    ({"type": "string", "minLength": 2}, '"ab"', '"a"'),
    ({"type": "string", "maxLength": 1}, '"a"', '"ab"'),
    ({"type": "string", "pattern": "^a+$"}, '"aa"', '"b"'),
    ({"type": "string", "format": "date"}, '"2020-01-01"', '"x"'),
    ({"type": "string", "format": "uuid"}, '"123e4567-e89b-12d3-a456-426614174000"', '"x"'),
    ({"type": "string", "format": "ipv4"}, '"1.2.3.4"', '"x"'),
    ({"type": "string", "format": "email"}, '"a@b.cd"', '"x"'),
    ({"type": "integer", "minimum": 0}, "0", "-1"),
    ({"type": "integer", "exclusiveMinimum": 0}, "1", "0"),
    ({"type": ["integer", "string"], "minimum": 0, "maxLength": 1}, '"a"', "-2"),
    ({"type": "integer", "minimum": -3.0, "exclusiveMinimum": 0}, "4", "0"),
    ({"type": ["string", "null"], "maxLength": 1}, "null", '"aa"'),
    ({"type": "boolean"}, "true", "1"),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, "[1, 2]", "[1]"),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, "[1]", "[1, 2]"),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "items": False}, "[1]", '["a"]'),
    ({"items": {"type": "integer"}}, "[1]", '["a"]'),
    ({"type": "object", "properties": AB, "required": ["a"]}, '{"a": 1}', '{"b": 1}'),
    ({"type": "object", "properties": A, "additionalProperties": False}, "{}", '{"b": 1}'),
    ({"type": "object", "properties": A, "minProperties": 1}, '{"a": 1}', "{}"),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, '{"b": 1}', '{"b": "x"}'),
    ({"type": "object", "patternProperties": {"^a+$": {"type": "null"}}}, '{"aa": null}', '{"aa": 1}'),
    ({"type": "object", "propertyNames": {"pattern": "^a+$", "type": "string"}}, '{"a": 1}', '{"b": 1}'),
    ({"properties": A}, '{"a": 1}', '{"a": "x"}'),
    ({"enum": ["a", 1]}, "1", "2"),
    ({"type": "string", "enum": ["a", "b"]}, '"b"', '"c"'),
    ({"type": "integer", "const": 3}, "3", "4"),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}], "title": "t"}, "null", '"x"'),
    ({"allOf": [{"type": "integer"}]}, "1", '"a"'),
    ({"$defs": {"x": {"type": "integer"}}, "$ref": "#/$defs/x"}, "3", '"a"'),
    # What the xgrammar in TurboMind would not enforce in a schema, but does in a grammar.
    ({"type": "integer", "multipleOf": 5}, "15", "12"),
    ({"type": "integer", "minimum": 3}, "3", "2"),
    ({"type": "integer", "exclusiveMaximum": 3}, "2", "3"),
    ({"type": "integer", "minimum": 0, "maximum": 1000}, "1000", "1001"),
    ({"type": "integer", "minimum": -5, "maximum": 10, "multipleOf": 5}, "-5", "4"),
    ({"type": "integer", "minimum": 0.5, "exclusiveMaximum": 2.5}, "2", "0"),
    ({"type": ["integer", "null"], "minimum": 1, "maximum": 5}, "null", "6"),
    ({"type": "number", "minimum": 0, "maximum": 1}, "0.25", "1.5"),
    ({"type": ["number", "null"], "exclusiveMinimum": 0}, "0.1", "0"),
    ({"type": "number", "minimum": 2, "exclusiveMinimum": True}, "2.5", "2"),
    ({"type": "string", "pattern": "^.+@.+$"}, '"a@b"', '"ab"'),
    ({"type": "string", "pattern": '^[^a]"$'}, '"b\\""', '"a\\""'),
    ({"type": "string", "pattern": "b"}, '"abc"', '"ac"'),
    ({"type": "string", "pattern": r"^a\\+$"}, r'"a\\\\"', r'"a\\\"'),
    ({"type": "string", "pattern": r"^a\\$"}, r'"a\\"', r'"a\\b"'),
    ({"type": "string", "pattern": '^a"?$'}, '"a"', r'"a\"'),
    ({"type": "string", "maxLength": 2}, '"é"', '"\t"'),
    ({"type": "object", "patternProperties": {"^.*$": {"type": "null"}}}, '{"a": null}', '{"a": 1}'),
    ({"type": "object", "properties": A, "additionalProperties": {"type": "string"}},
     '{"b": "x"}', '{"b": 1}'),
    ({"type": "object", "properties": A, "additionalProperties": True}, '{"a": 1, "b": {}}', '{"a": "x"}'),
    ({"type": "object", "properties": A, "required": ["b"]}, '{"a": 1, "b": {}}', '{"a": 1}'),
    ({"required": ["a"]}, '{"a": 1}', "{}"),
    ({"minimum": 3}, "3", "2"),
    ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, "null", '"a"'),
    ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, "4", "6"),
    ({"type": "object", "properties": AB, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
     '{"b": 1}', "{}"),
    ({"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 1}]}, "0", "3"),
    ({"type": "string", "enum": ["a", 1]}, '"a"', "1"),
    ({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "null"}},
     '{"b": null}', '{"b": 1}'),
    ({"type": "array", "items": [{"type": "integer"}], "minItems": 1, "additionalItems": False},
     "[1]", "[1, 2]"),
    ({"type": "string", "format": "nonsense"}, '"a"', "1"),
]  # fmt: skip

# schema, an answer that it does not allow but the grammar does, the keywords that are named
LOOSENED = [
    ({"not": {"type": "string"}}, '"a"', "not"),
    ({"type": "object", "properties": AB, "if": {"required": ["a"]}, "then": False}, '{"a": 1}', "if then"),
    ({"type": "number", "multipleOf": 5}, "11", "multipleOf"),
    ({"type": "integer", "multipleOf": 999983}, "11", "multipleOf"),
    ({"type": "integer", "minimum": 7, "multipleOf": 5}, "11", "multipleOf"),
    ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "[1, 1]", "uniqueItems"),
    ({"type": "object", "properties": AB, "dependentRequired": {"a": ["b"]}}, '{"a": 1}',
     "dependentRequired"),
    ({"type": "object", "properties": AB, "dependencies": {"a": ["b"]}}, '{"a": 1}',
     "dependentRequired"),
    ({"type": "string", "pattern": "^a+$", "maxLength": 2}, '"aaa"', "maxLength"),
    ({"type": "string", "pattern": "^(?!b)[a-z]$"}, '"b"', "pattern"),
    ({"type": "string", "pattern": r"^(a|b)\1$"}, '"ab"', "pattern"),
    ({"type": "string", "pattern": "(^$|^[0-9]{5}$)"}, '"a"', "pattern"),
    ({"type": "string", "pattern": "(^foo$)"}, '"a"', "pattern"),
    ({"type": "object", "required": ["ab"], "patternProperties": {"^a": {}}}, "{}", "required"),
    ({"type": "string", "format": "email", "maxLength": 3}, '"aaaa@bbbb.cc"', "maxLength"),
    ({"oneOf": [{"type": "integer"}, {"type": "integer", "minimum": 5}]}, "7", "oneOf"),
    ({"allOf": [{"type": "string", "pattern": "^a+$"}, {"pattern": "^a$"}]}, '"aa"', "allOf"),
    ({"$defs": {"x": {"type": "integer"}}, "$ref": "#/$defs/x", "maximum": 3}, "4", "maximum"),
    ({"$ref": "#/components/schemas/A", "components": {"schemas": {"A": {"not": {"type": "integer"}}}}},
     "1", "$ref"),
    ({"enum": ["a", "abc"], "minLength": 2}, '"a"', "minLength"),
    ({"type": "object", "properties": A, "patternProperties": {"^b$": {"type": "null"}},
      "additionalProperties": True}, '{"b": 1}', "patternProperties"),
    ({"type": "object", "properties": {f"p{n}": {} for n in range(70)}, "minProperties": 60}, "{}",
     "minProperties"),
]  # fmt: skip
MALFORMED = [
    {"type": "nonsense"}, {"$ref": "#/nowhere"}, {"$ref": "https://example.org/schema"}, {"enum": []},
    {"type": "string", "pattern": 3}, {"type": "integer", "minimum": "0"}, {"properties": {"a": 3}},
    {"type": "integer", "minimum": 5, "maximum": 3}, {"type": "string", "enum": [1]},
    {"type": "object", "required": ["a"], "additionalProperties": False},
    {"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 5},
]  # fmt: skip


def compiled(schema):
    judgement = judge(JsonSchema(schema), "check")
    vocabulary = [bytes([byte]) for byte in range(END)] + ["<end>"]
    info = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[END])
    compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
    return compiler.compile_structural_tag(judgement.grammar), judgement.loosened


def accepts(schema, text):
    matcher = xgrammar.GrammarMatcher(compiled(schema)[0])
    return matcher.accept_string(text) and matcher.accept_token(END)


@pytest.mark.parametrize(("schema", "good", "bad"), HELD_TO, ids=str)
def test_what_answers_are_held_to(schema, good, bad):
    assert compiled(schema)[1] == ()
    assert accepts(schema, good)
    assert not accepts(schema, bad)


@pytest.mark.parametrize(("schema", "bad", "keywords"), LOOSENED, ids=lambda value: str(value)[:60])
def test_what_is_loosened_is_named(schema, bad, keywords):
    deep = {"type": "object", "properties": {"deep": {"anyOf": [schema]}}, "required": ["deep"]}
    assert compiled(schema)[1] == tuple(keywords.split())
    assert accepts(schema, bad), "the compiler has learned it: do not loosen it"
    if "$ref" not in schema:
        assert compiled(deep)[1] == tuple(keywords.split())
        assert accepts(deep, f'{{"deep": {bad}}}')


@pytest.mark.parametrize("schema", MALFORMED, ids=str)
def test_what_is_malformed_is_refused(schema):
    with pytest.raises(ValueError, match=r"."):
        judge(JsonSchema(schema), "check")


@pytest.mark.parametrize(
    ("name", "schema", "good", "bad"), EVERYDAY, ids=lambda value: str(value)[:20]
)
def test_everyday_schemas(name, schema, good, bad):
    assert accepts(schema, json.dumps(good))
    if not compiled(schema)[1]:
        assert not accepts(schema, json.dumps(bad))


@pytest.mark.parametrize(
    "schema", [row[0] for row in HELD_TO] + [row[1] for row in EVERYDAY], ids=str
)
async def test_the_native_compiler_takes_it(make_engine, loop, schema):
    engine = await make_engine()
    await answer(engine, make_request(constraint=JsonSchema(schema)))
    assert loop.calls[0].grammar is not None


def random_text(schema, rng):
    """A random text that the grammar allows; None if it does not end."""
    matcher = xgrammar.GrammarMatcher(compiled(schema)[0])
    mask = xgrammar.allocate_token_bitmask(1, END + 1)
    text = b""
    for _ in range(400):
        matcher.fill_next_token_bitmask(mask)
        words = mask[0].tolist()
        allowed = [i for i in range(END + 1) if words[i // 32] >> (i % 32) & 1]
        if END in allowed and (len(allowed) == 1 or rng.random() < 0.3):
            return text
        printable = [i for i in allowed if 32 <= i < 127]
        closing = [i for i in printable if i in b"}]"] if rng.random() < 0.5 else []
        token = rng.choice(closing or printable or allowed)
        assert token >= 32, "a control character"
        assert matcher.accept_token(token)
        text += bytes([token])
    return None


@given(schema=SCHEMAS, rng=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_random_answers_fit(schema: dict, rng: random.Random):
    text = random_text(schema, rng)
    if text is not None:
        value = json.loads(text)
        assert not compiled(schema)[1]
        assert fits(value, schema)


@given(st.integers(-50, 50), st.integers(0, 60), st.integers(-120, 120))
@settings(deadline=None, max_examples=80)
def test_bounds_of_integers(low, size, number):
    schema = {"type": "integer", "minimum": low, "maximum": low + size}
    assert accepts(schema, str(number)) == (low <= number <= low + size)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^[a-zA-Z0-9_-]+$", "aZ_-", "a b"),
        (r"^\d{3}-\d{4}$", "123-4567", "123-456"),
        ("a|b", "b", "ab"),
        ("^.$", "é", '"'),
        ("^[^a]$", "b", "\\"),
        (r"^\S\s\W$", "a -", "\n\n\n"),
        (r"^[\]\-a]$", "]", "b"),
        ("^[ -~]$", "~", '"'),
        ("^[!-a]$", "A", "\\"),
        (r"^[^\s@]+$", "ab", "a b"),
        ('^"$', '\\"', '"'),
        (r"^\\$", "\\\\", "\\"),
        ("x$", "abx", "xa"),
    ],
)
def test_patterns_match_what_stands_between_quotes(pattern, good, bad):
    written = json_pattern(pattern)
    assert re.fullmatch(written.removeprefix("^").removesuffix("$"), good)
    assert not re.fullmatch(written.removeprefix("^").removesuffix("$"), bad)
    assert json.loads(f'"{good}"') is not None


@pytest.mark.parametrize("pattern", [r"\p{L}", r"\x22", r"[\x00-z]", '["]', r"(a)\1"])
def test_patterns_that_are_not_known(pattern):
    with pytest.raises(ValueError, match="pattern"):
        json_pattern(pattern)


async def test_a_policy_of_refusal_names_the_keyword(make_engine, loop):
    engine = await make_engine(schema_policy="refuse")
    constraint = JsonSchema({"not": {"type": "string"}}, param="guided_json")
    with pytest.raises(UnsupportedParameterError, match=r"'guided_json' .* 'not'") as caught:
        await answer(engine, make_request(constraint=constraint))
    assert caught.value.param == "guided_json"
    assert loop.calls == []


def test_a_tool_s_parameters_may_be_a_reference():
    node = A | {"next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}}
    parameters = {"$ref": "#/$defs/N", "$defs": {"N": {"type": "object", "properties": node}}}
    tools = (CallableTool("f", parameters, is_strict=True),)
    assert judge(ToolCalls(tools, is_required=True), "refuse").loosened == ()


async def test_the_engine_names_what_it_does_not_enforce(make_engine):
    engine = await make_engine()
    assert await engine.compile(JsonSchema({"not": {"type": "string"}})) == ("not",)
    assert await engine.compile(JsonSchema({"type": "string"})) == ()
    with pytest.raises(InvalidRequestError):
        await engine.compile(JsonSchema({"type": "nonsense"}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "enum", "const", "properties", "required", "items", "anyOf", "allOf", "oneOf", "$ref",
             "pattern", "format", "not", "minimum", "multipleOf", "additionalProperties", "x"]
        ),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["type", "anyOf", "allOf", "enum", "items", "x"]), JSON))
@settings(deadline=None, max_examples=300)
def test_any_json_is_judged_without_failing(schema):
    try:
        judge(JsonSchema(schema), "check")
    except ValueError as err:
        assert str(err)  # noqa: PT017  (either outcome is right)
