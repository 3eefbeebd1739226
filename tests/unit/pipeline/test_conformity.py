"""Checked answers, delta by delta."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.core import (
    CallableTool,
    JsonSchema,
    LogprobToken,
    TextDelta,
    TextLogprobs,
    ToolCallDelta,
    ToolCalls,
)
from internvl_server.engine.guided.checker import violation_of
from internvl_server.pipeline.conformity import CheckedAnswer, SchemaChecker

UNIQUE = {"uniqueItems": True}
TOOLS = (CallableTool("f", UNIQUE, is_strict=True), CallableTool("g", UNIQUE))


class Checker(SchemaChecker):
    """Checks in this process."""

    async def violation(self, text: str, schema: Any) -> str:
        return violation_of(text, schema) or ""


async def shown(constraint: Any, deltas: list[TextDelta]) -> list[TextDelta]:
    answer = CheckedAnswer(constraint, Checker())
    result = []
    for delta in deltas:
        result.append(await answer.push(delta))
        if result[-1].finish_reason is not None:
            break
    return result


def pieces(text: str, cuts: list[int]) -> list[TextDelta]:
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    starts = [0, *ends[:-1]]
    deltas = [TextDelta(text[a:b]) for a, b in zip(starts, ends, strict=True)]
    return [*deltas, TextDelta("", "stop")]


TEXTS = ["[1, 2]", "[[1], [1]]", '"ab" ', " {}\n ", "17", "null", "", '{"a": "]"}', "[1, 1"]


@given(text=st.sampled_from(TEXTS), cuts=st.lists(st.integers(0, 12)))
async def test_what_fits_is_passed_on_whole(text: str, cuts: list[int]) -> None:
    items = {"items": UNIQUE} if text.startswith("[[") else UNIQUE
    deltas = await shown(JsonSchema(items, is_strict=True), pieces(text, cuts))
    assert "".join(delta.text for delta in deltas) == text
    assert deltas[-1] == TextDelta(deltas[-1].text, "stop")


@given(
    text=st.sampled_from(["[1, 1]", "[2, 2]\n ", " [ [], []]"]), cuts=st.lists(st.integers(0, 12))
)
async def test_what_does_not_is_never_complete(text: str, cuts: list[int]) -> None:
    deltas = await shown(JsonSchema(UNIQUE, is_strict=True), pieces(text, cuts))
    sent = "".join(delta.text for delta in deltas)
    assert text.startswith(sent)
    with pytest.raises(json.JSONDecodeError):
        json.loads(sent)
    assert "uniqueItems" in deltas[-1].refusal
    assert not deltas[-1].violation


async def test_a_number_is_held_back_until_it_is_checked() -> None:
    fits, violates = JsonSchema({"not": {"const": 12}}, is_strict=True), pieces("12", [1])
    assert "".join(delta.text for delta in await shown(fits, violates)) == ""
    [*_, last] = await shown(fits, pieces("13", [1]))
    assert last.text == "13"


async def test_log_probabilities_of_held_back_text_are_not_lost() -> None:
    strict = JsonSchema(UNIQUE, is_strict=True)
    entries = [TextLogprobs(LogprobToken(text, text.encode(), -0.5)) for text in "[1]"]
    deltas = [TextDelta(e.token.text, logprobs=(e,)) for e in entries]
    answer = await shown(strict, [*deltas, TextDelta("", "stop")])
    assert [entry for delta in answer for entry in delta.logprobs] == entries
    assert all(delta.text or not delta.logprobs for delta in answer), (
        "none would be dropped as empty"
    )


async def test_without_strictness_everything_is_passed_on_at_once() -> None:
    deltas = await shown(JsonSchema(UNIQUE), pieces("[1, 1]", [2, 5]))
    assert [delta.text for delta in deltas] == ["[1", ", 1", "]", ""]
    assert "uniqueItems" in deltas[-1].violation
    assert not deltas[-1].refusal


async def test_an_answer_that_is_cut_is_passed_on() -> None:
    strict = JsonSchema(UNIQUE, is_strict=True)
    deltas = await shown(strict, [TextDelta("[1, 1"), TextDelta(",", "length")])
    assert "".join(delta.text for delta in deltas) == "[1, 1,"
    assert not deltas[-1].refusal


def call(index: int, name: str, arguments: str) -> TextDelta:
    first = ToolCallDelta(index, f"id{index}", name)
    return TextDelta("", tool_calls=(first, ToolCallDelta(index, arguments=arguments)))


def arguments(deltas: list[TextDelta], index: int) -> str:
    calls = [call for delta in deltas for call in delta.tool_calls]
    return "".join(call.arguments for call in calls if call.index == index)


END = TextDelta("", "tool_calls")


async def test_calls_are_checked_one_after_another() -> None:
    wrong, right = '{"a": [1, 1]}', '{"a": [1, 2]}'
    schema = {"properties": {"a": UNIQUE}}
    calls = ToolCalls((CallableTool("f", schema, is_strict=True), CallableTool("g", schema)))
    deltas = await shown(
        calls, [call(0, "f", right), call(1, "g", wrong), call(2, "f", right), END]
    )
    assert [arguments(deltas, index) for index in range(3)] == [right, wrong, right]
    assert "uniqueItems" in deltas[-1].violation
    assert deltas[-1].finish_reason == "tool_calls"
    deltas = await shown(
        calls, [call(0, "g", right), call(1, "f", wrong), call(2, "f", right), END]
    )
    assert [arguments(deltas, index) for index in range(3)] == [right, wrong[:-1], ""]
    assert deltas[-1].finish_reason == "stop", "the answer ends with the refusal"
    assert "uniqueItems" in deltas[-1].refusal


async def test_text_beside_calls_is_not_checked() -> None:
    deltas = await shown(ToolCalls(TOOLS), [TextDelta("[1, 1]"), call(0, "g", "{}"), END])
    assert deltas[0].text == "[1, 1]"
    assert not deltas[-1].refusal


async def test_an_answer_in_place_of_calls_is_checked() -> None:
    either = ToolCalls(TOOLS, answer=UNIQUE, is_strict=True)
    assert (await shown(either, pieces("[1, 1]", [])))[-1].refusal
    assert not (await shown(either, [call(0, "f", "{}"), END]))[-1].refusal


async def test_what_takes_too_long_to_check_is_not_presented() -> None:
    checker = SchemaChecker()
    try:
        schema = {"items": {"pattern": "^(a+)+$"}}
        assert "could not be compared" in await checker.violation(f'["{"a" * 60}b"]', schema)
        assert "could not be compared" in await checker.violation(
            "1", {"$dynamicRef": "https://a.b/c"}
        )
        assert await checker.violation('["aa"]', schema) == ""
    finally:
        await checker.close()


async def test_numbers_of_any_length_are_checked() -> None:
    checker = SchemaChecker()
    try:
        assert "maximum" in await checker.violation("9" * 5000, {"maximum": 3})
    finally:
        await checker.close()
