"""What constraints allow, token by token, without a model."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.core import (
    CallableTool,
    Constraint,
    Grammar,
    JsonSchema,
    Regex,
    SamplingParams,
    ToolCalls,
)
from internvl_server.engine.cpu.sampling.sampler import Sampler
from internvl_server.engine.guided.judge import judge
from internvl_server.engine.guided.matcher import CompiledGrammar, GrammarVocabulary
from internvl_server.prompt.tokenizer import PromptTokenizer, load_tokenizer

from tests.everyday_schemas import EVERYDAY
from tests.unit.engine.guided.helpers import SCHEMAS, fits

DEMO = Path(__file__).parents[4] / "server" / "internvl_server" / "demo_model"
NUM_PADDING = 11  # logits of models have more rows than their tokenizers have tokens


class Words:
    """A tokenizer, and its vocabulary for constraints."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self.tokenizer = tokenizer
        self.end = tokenizer.control_id("<|im_end|>")
        self.size = tokenizer.vocab_size + NUM_PADDING
        self.vocabulary = GrammarVocabulary(tokenizer.vocabulary, self.size)

    def compile(self, constraint: Constraint) -> CompiledGrammar:
        return self.vocabulary.compile(judge(constraint).grammar)

    def bytes_of(self, token_ids) -> bytes:
        return b"".join(map(self.tokenizer.vocabulary.bytes_of, token_ids))

    def read(self, constraint: Constraint, text: str, stops=None):
        """Where a constraint is after a text; None when it does not allow it."""
        state = self.compile(constraint).start([self.end] if stops is None else stops)
        for token_id in self.tokenizer.encode_answer(text):
            if state.forbidden[token_id]:
                return None
            state.advance(token_id)
        return state

    def accepts(self, constraint: Constraint, text: str) -> bool:
        state = self.read(constraint, text)
        return state is not None and not state.forbidden[self.end]


@pytest.fixture(scope="module")
def demo() -> Words:
    """Words of several letters; `<tool_call>` is text."""
    return Words(load_tokenizer(DEMO))


@pytest.fixture(scope="module")
def tiny(tokenizer) -> Words:
    """A token a byte; `<tool_call>` is one token, not special."""
    words = Words(tokenizer)
    assert len(words.tokenizer.encode_answer("<tool_call>")) == 1
    return words


@pytest.fixture(params=["demo", "tiny"])
def words(request) -> Words:
    return request.getfixturevalue(request.param)


def json_schema(schema) -> JsonSchema:
    return JsonSchema(schema)


JSON_TEXTS = [
    ({"type": "object"}, ['{"a": 1, "b": [1, {"c": null}]}', "{}"], ["[]", "1", '{"a":1}', "{ }"]),
    ({}, ['{"a": []}', "3", '"x"'], ["x"]),
    ({"type": "string", "pattern": "ab"}, ['"xaby"'], ['"xy"']),
    ({"type": "string", "pattern": "^ab$"}, ['"ab"'], ['"xab"']),
    ({"maxLength": 2}, ['"ab"', "12345"], ['"abc"']),
    ({"enum": ["é", "\U0001f600", "e\u0301", "<|im_end|>"]},
     ['"é"', '"😀"', '"e\u0301"', '"<|im_end|>"'], ['"e"']),
    ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, ["4"], ["3"]),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "minItems": 2,
      "items": [{"type": "integer"}, {"type": "null"}], "additionalItems": False},
     ["[1, null]"], ["[1, 2]", "[1, null, 3]"]),
    ({"$defs": {"n": {"type": "object", "properties": {"c": {"$ref": "#/$defs/n"}},
                      "additionalProperties": False}}, "$ref": "#/$defs/n"},
     ['{"c": {"c": {}}}'], ['{"d": 1}']),
    ({"type": "string", "x-guidance": {"whitespace_flexible": True}}, ['"a"'], [' "a"', '"a" ']),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), JSON_TEXTS, ids=str)
def test_json(words, schema, good, bad):
    constraint = json_schema(schema)
    assert [text for text in good if not words.accepts(constraint, text)] == []
    assert [text for text in bad if words.accepts(constraint, text)] == []


# Each schema with the keywords that llguidance does not enforce.
LOOSENED = [
    ({"not": {}}, "not"), ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "contains": {}}, "contains"), ({"if": {}, "then": {}}, "if then"),
    ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
    ({"unevaluatedProperties": False}, "unevaluatedProperties"),
    ({"unevaluatedItems": False}, "unevaluatedItems"),
    ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ({"dependentSchemas": {}}, "dependentSchemas"),
    ({"dependencies": {"a": ["b"]}}, "dependentRequired"),
    ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
    ({"type": "string", "pattern": r"\bx\B"}, "pattern"),
    ({"oneOf": [{"type": "string"}, {"maxLength": 3}]}, "oneOf"),
    ({"type": "object", "properties": {"a": {}}, "minProperties": 1}, "maxProperties minProperties"),
    ({"type": "integer", "multipleOf": 999983}, "multipleOf"),
    ({"lenient": True, "x-guidance": {"lenient": True}, "not": {}}, "not"),
    ({"type": "object", "properties": {"a": {"not": {}}, "b": {"uniqueItems": True}}}, "not uniqueItems"),
    ({"type": "string", "format": "nonsense"}, ""), ({"propertyNames": {"type": "string"}}, ""),
    ({"properties": {"pattern": {"const": "(?=a)"}, "multipleOf": {"enum": [9999]}}}, ""),
]  # fmt: skip
REFUSED = [
    {"type": "nonsense"}, {"$ref": "#/nowhere"}, {"$ref": "https://example.org/schema"},
    {"properties": {"a": 3}}, {"enum": []}, {"minLength": 5, "maxLength": 2, "type": "string"},
    {"type": "string", "pattern": "("},
]  # fmt: skip


@pytest.mark.parametrize(("schema", "keywords"), LOOSENED, ids=str)
def test_keywords_that_are_not_enforced_are_named(demo, schema, keywords):
    assert judge(json_schema(schema)).loosened == tuple(keywords.split())
    assert demo.compile(json_schema(schema))
    tools = (CallableTool("other", {}), CallableTool("t", schema))
    if schema.get("type", "object") == "object" and "oneOf" not in schema:
        assert judge(ToolCalls(tools)).loosened == tuple(keywords.split())
    assert judge(ToolCalls(TOOLS, answer=schema)).loosened == tuple(keywords.split())


@pytest.mark.parametrize("schema", REFUSED, ids=str)
def test_a_schema_that_is_malformed_is_refused(schema):
    with pytest.raises(ValueError, match=r".") as caught:
        judge(json_schema(schema))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "schema", "good", "bad"), EVERYDAY, ids=lambda value: str(value)[:20]
)
def test_everyday_schemas(demo, name, schema, good, bad):
    assert demo.accepts(json_schema(schema), json.dumps(good))
    if not judge(json_schema(schema)).loosened:
        assert not demo.accepts(json_schema(schema), json.dumps(bad))


@pytest.mark.parametrize(
    "constraint",
    [Regex("[^\\s\\S]"), Grammar("root ::= root"), json_schema({"$ref": "#"})],
    ids=str,
)
def test_a_constraint_that_allows_nothing_is_refused(demo, constraint):
    with pytest.raises(ValueError, match="allows no text"):
        demo.compile(constraint)


MANY = {
    "type": "object",
    "properties": {f"p{number}": {"type": "integer"} for number in range(1500)},
}


@pytest.mark.parametrize("constraint", [Regex("(a?){1000}a{1000}"), json_schema(MANY)])
def test_a_constraint_that_is_too_large_for_its_first_token_is_refused(demo, constraint):
    with pytest.raises(ValueError, match=r"expressions|items"):
        demo.compile(constraint)


def test_what_is_malformed_is_named():
    with pytest.raises(ValueError, match="look-around"):
        judge(Regex("(?=a)b"))


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("ab+", ["ab", "abbb"], ["a", "abc", "xab"]),
        ("^ab|cd$", ["ab", "cd"], ["abcd"]),
        (r"a\$", ["a$"], ["a"]),
        (r"\d{3}", ["123"], ["12", "1234"]),
        ("[^a]é?", ["xé", "中"], ["a", "\n\n"]),
        ("(" + re.escape("a b\n{c}-<d>&#~/") + ")|(no)", ["a b\n{c}-<d>&#~/", "no"], ["a"]),
        ("a.c", ["abc"], ["a\nc"]),
    ],
)
def test_regex(words, pattern, good, bad):
    constraint = Regex(pattern)
    assert [text for text in good if not words.accepts(constraint, text)] == []
    assert [text for text in bad if words.accepts(constraint, text)] == []


LIST = 'root ::= item ("," item)*  # a comment\nitem ::= "(" root ")" | [0-9]+'


@pytest.mark.parametrize(
    ("rules", "good", "bad"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["y", "yesno"]),
        ('root ::= [a-z]+ "b" tail\ntail ::= "\\u0041\\n" | "z"', ["aabbz", "abA\n"], ["bz", "ab"]),
        ('root ::= "a" start? "b"\nstart ::= root', ["ab", "aabb"], ["aab", "abb"]),
        ('root ::= "[" [\\u00e9\\x2d\\x41-\\x5a]* "\\x22\\u4e2d"', ['[éAZ-"中'], ["[a"]),
        ('root ::= "<" . [&&~~] ">"', ["<\n&>", "<é~>"], ["<>", "<ab>"]),
        ('root ::= ("a"?){2} ("b"* "c")* (("d"))+', ["d", "aabbcccd", "acd"], ["aaad", "abd", "b"]),
        (LIST, ["1,2,(3,(44))"], ["(1", "1,"]),
        ('root ::= a-b aB\na-b ::= "x"\naB ::= "y"\na_b ::= "z"', ["xy"], ["xz"]),
        ('root ::= [^"\\\\/] "/" [\\]a]{2,3}', ["x/]a", "é/aaa"], ["//aa", "x/a"]),
        ('root ::= start+ # (\nstart ::= "a#\\"" | "[" .* "]"', ['a#"', "[\n]"], ["a"]),
    ],
)
def test_gbnf(words, rules, good, bad):
    constraint = Grammar(rules)
    assert [text for text in good if not words.accepts(constraint, text)] == []
    assert [text for text in bad if words.accepts(constraint, text)] == []


@pytest.mark.parametrize(
    "constraint",
    [
        Grammar('root ::= "a"\nroot ::= "b"'), Grammar('root := "a"'), Grammar('x ::= "a"'),
        Grammar("root ::= [+--]"), Grammar("root ::= x"), Grammar('root ::= ""'), Grammar('root ::= "a'),
        Grammar('root ::= "\\'), Grammar('start: "a"'), Grammar(""),
        Grammar("root ::= root"), Grammar("root ::= " + "a" * 2000),
        Grammar("".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(30)) + 'r30 ::= "a"\nroot ::= r0'),
        Grammar("root ::= r1\n" + "".join(f'r{i} ::= "a"\n' for i in range(600))),
        Regex("("), Regex("a^b"), Regex(r"\bfoo"), Regex("a{5,2}"), Regex(r"(a)\1"),
        Regex("^$"), Regex("[]"),
    ],
)  # fmt: skip
def test_a_malformed_constraint_is_refused(demo, constraint):
    with pytest.raises(ValueError, match=r"."):
        demo.compile(constraint)


WEATHER = CallableTool(
    "get_weather",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
TOOLS = (WEATHER, CallableTool("now", {}), CallableTool("stop", {}))


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def tool_calls(is_required: bool, is_parallel: bool, tools=TOOLS) -> ToolCalls:
    return ToolCalls(tools, is_required, is_parallel)


ONE = call("get_weather", '{"city": "Paris <tool_call>"}')
TWO = ONE + "\n" + call("now", '{"x": [1, {}]}')


def test_free_text_with_calls(words):
    several, single = tool_calls(False, True), tool_calls(False, False)
    for text in (
        "",
        "hello",
        ONE,
        "x " + ONE + " y",
        call("stop", "{}"),
        "<tool_cal",
        "</tool_call>",
    ):
        assert words.accepts(several, text), text
        assert words.accepts(single, text), text
    for constraint in (several, single):  # the first call may be part of the reasoning
        assert words.accepts(constraint, TWO)
        assert words.accepts(constraint, ONE + ONE)
        assert words.accepts(constraint, f"<think>{ONE}</think>\n{ONE}")
    for text in ("<tool_call>", ONE + "<tool_call>", call("now", "{")[:-14]):
        state = words.read(several, text)
        assert state.forbidden[words.end], text
    for text in (
        "<tool_call>x", "<tool_call> ", '<tool_call>{"name"', "<tool_call><tool_call>",
        call("other", "{}"), call("get_weather", "{}"), call("now", "[]"), call("now", "{ }"),
    ):  # fmt: skip
        assert words.read(several, text) is None, text


def test_calls_or_an_answer_in_a_format(words):
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": False}
    for is_parallel in (True, False):
        constraint = ToolCalls(TOOLS, is_parallel=is_parallel, answer=schema)
        for text in (ONE, "{}", '{"a": 1}'):
            assert words.accepts(constraint, text), text
        assert words.accepts(constraint, TWO) == is_parallel
        for text in ("x", '{"a": 2}', ONE + "{}", '{"a": 1}\n<', call("other", "{}")):
            assert words.read(constraint, text) is None, text
        assert not words.accepts(constraint, "")


def test_nothing_but_calls(words):
    several, single = tool_calls(True, True), tool_calls(True, False)
    for text in (ONE, "\n" + ONE, call("now", "{}")):
        assert words.accepts(several, text), text
        assert words.accepts(single, text), text
        assert words.read(single, text).is_complete
        assert not words.read(several, text).is_complete
    assert words.accepts(several, TWO)
    for constraint, text in (
        (single, TWO), (several, "x"), (several, ONE + "\nx"), (several, ONE + ONE), (several, ONE + " "),
        (several, "\n\n"), (several, call("other", "{}")),
    ):  # fmt: skip
        assert words.read(constraint, text) is None, text
    assert not words.accepts(several, "")
    assert not words.accepts(several, ONE + "\n")


def test_tools_with_references_and_without_a_type(words):
    parameters = {
        "$defs": {"n": {"type": "integer"}},
        "properties": {"a": {"$ref": "#/$defs/n"}},
        "required": ["a"],
    }
    constraint = tool_calls(True, False, (CallableTool("t", parameters),))
    assert words.accepts(constraint, call("t", '{"a": 1}'))
    assert not words.accepts(constraint, call("t", "1"))
    assert not words.accepts(constraint, call("t", '{"a": "x"}'))


@pytest.mark.parametrize("parameters", [{"type": "string"}, {"properties": 3}])
def test_tools_that_cannot_be_kept_are_refused(demo, parameters):
    with pytest.raises(ValueError, match=r"object|properties"):
        demo.compile(tool_calls(True, True, (CallableTool("t", parameters),)))


def test_the_token_the_model_was_trained_on_is_offered(tiny):
    state = tiny.read(tool_calls(True, True), "")
    assert not state.forbidden[tiny.tokenizer.control_id("<tool_call>")]


def test_only_the_request_says_what_ends_it(words):
    other = words.tokenizer.control_id("<|endoftext|>")
    constraint = Regex("ab*")
    state = words.read(constraint, "ab", stops=[other])
    assert not state.forbidden[other]
    assert state.forbidden[words.end]
    [letter] = words.tokenizer.encode_text("b")
    state = words.read(constraint, "a", stops=[letter])
    assert state.forbidden[[words.end, other]].all()
    assert not state.forbidden[letter]
    assert words.read(Regex("xb"), "", stops=[letter]).forbidden[letter]


def test_special_and_unknown_tokens_are_never_allowed(words):
    state = words.read(tool_calls(False, True), "hello")
    special = sorted(words.tokenizer.special_ids - {words.end})
    assert state.forbidden[special].all()
    assert state.forbidden[words.tokenizer.vocab_size :].all()
    assert state.forbidden.shape == (words.size,)


def test_content_markers_are_text_of_a_guide(tiny):
    pattern = Regex(r"<ref>\w+</ref><box>\[\[\d+(, \d+){3}\]\]</box>")
    assert len(tiny.tokenizer.encode_answer("<box></box>")) == 2
    assert tiny.accepts(pattern, "<ref>cat</ref><box>[[1, 20, 300, 1000]]</box>")
    assert not tiny.accepts(pattern, "<ref>cat</ref>[[1, 20, 300, 1000]]")
    assert tiny.accepts(json_schema({"type": "string"}), '"<box>"')


def test_min_tokens_gives_way_to_the_constraint(tiny):
    import torch

    constraint = tiny.compile(Regex("a|ab"))
    params = SamplingParams(temperature=0.0, min_tokens=10)
    sampler = Sampler(params, [], [tiny.end], constraint.start([tiny.end]))
    logits = torch.zeros(tiny.size)
    logits[tiny.end] = 5.0
    first = [sampler.choose(logits.clone()) for _ in range(2)]
    assert tiny.bytes_of(first) == b"ab"
    assert sampler.is_complete


def walk(words: Words, constraint: Constraint, rng: random.Random, most: int):
    """Draws among the allowed tokens until the end, as a model that knows nothing does."""
    state = words.compile(constraint).start([words.end])
    token_ids: list[int] = []
    while not state.is_complete and len(token_ids) < most:
        if not state.forbidden[words.end] and rng.random() < 0.5:
            return token_ids, True
        state.forbidden[words.end] = True
        token_id = rng.choice(np.flatnonzero(~state.forbidden).tolist())
        token_ids.append(token_id)
        state.advance(token_id)
    return token_ids, state.is_complete


@settings(deadline=None, max_examples=60)
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
def test_random_answers_fit_their_schema(demo, schema, seed):
    token_ids, has_ended = walk(demo, json_schema(schema), random.Random(seed), 500)
    assert has_ended
    value = json.loads(demo.bytes_of(token_ids).decode())
    assert fits(value, schema), value


@settings(deadline=None, max_examples=40)
@given(
    pattern=st.sampled_from(
        [
            r"[a-f]{2,6}(-[0-9]+)?",
            "(yes|no), (é|中){1,9}!",
            r"[a-zé]{1,5}@.{2}\.(com|org)",
            "[^x]{1,4}x",
        ]
    ),
    seed=st.integers(0, 2**32),
)
def test_random_answers_match_their_pattern(demo, pattern, seed):
    token_ids, has_ended = walk(demo, Regex(pattern), random.Random(seed), 60)
    assert has_ended
    assert re.fullmatch(pattern, demo.bytes_of(token_ids).decode())
