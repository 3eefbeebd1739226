import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.core import ToolCallDelta, ToolChoice
from internvl_server.output.tool_calls import ToolCallParser

NAMES = ("get_weather", "f", "tool_call")
AUTO = ToolChoice("auto")
Answer = tuple[str, list[tuple[str, str]]]

TEXT = st.text(max_size=8) | st.sampled_from(["<", "<tool", "</tool_call>", " \n", "<tool_cal l>"])
PLAIN = TEXT.filter(lambda text: "<tool_call>" not in text and "<" not in text[-10:])
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    LEAVES | st.text() | st.sampled_from(["</tool_call>", "<tool_call>", '"}', "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SPACE = st.text(alphabet=" \n\t\r", max_size=3)


def new_parser(choice: ToolChoice = AUTO, *, is_guided: bool = True) -> ToolCallParser:
    ids = itertools.count()
    return ToolCallParser(choice, NAMES, lambda: f"call_{next(ids)}", is_guided=is_guided)


def parsed(pieces: Iterable[str], parser: ToolCallParser | None = None) -> Answer:
    parser = parser or new_parser()
    outputs = [*map(parser.push, pieces), parser.flush()]
    deltas = [delta for output in outputs for delta in output.tool_calls]
    assert len({d.index for d in deltas}) == parser.num_calls
    return "".join(output.text for output in outputs), joined(deltas)


def joined(deltas: Sequence[ToolCallDelta]) -> list[tuple[str, str]]:
    """Name and arguments of each call, as a client of the stream puts them together."""
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        if delta.index == len(calls):
            assert delta.id == f"call_{delta.index}"
            assert delta.name is not None
            calls.append((delta.name, ""))
        else:
            assert delta.index == len(calls) - 1
            assert (delta.id, delta.name) == (None, None)
            assert delta.arguments
        name, arguments = calls[-1]
        calls[-1] = (name, arguments + delta.arguments)
    return calls


def block(name: str, arguments: Any) -> str:
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, tuple[str, Any]]:
    """A block in one of the ways models write them, and the call it is."""
    name = draw(st.sampled_from(NAMES))
    arguments = draw(st.dictionaries(st.text(), VALUES, max_size=3))
    is_ascii = draw(st.booleans())
    written = json.dumps(arguments, ensure_ascii=is_ascii, indent=draw(st.sampled_from([None, 1])))
    if draw(st.booleans()):
        written = json.dumps(written, ensure_ascii=is_ascii)
    space = [draw(SPACE) for _ in range(8)]
    members = [f'"name"{space[0]}:{space[1]}"{name}"', f'"arguments"{space[2]}:{space[3]}{written}']
    members += draw(st.sampled_from([[], ['"id": 7'], ['"type": {"name": [1e3]}']]))
    body = f"{space[4]},{space[5]}".join(draw(st.permutations(members)))
    text = f"<tool_call>{space[6]}{{{body}}}{space[7]}</tool_call>"
    return text, (name, arguments)


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, str, list[tuple[str, Any]]]:
    """An answer, its text without whitespace, and its calls."""
    text, plain, expected = "", "", []
    for part in draw(st.lists(PLAIN.map(lambda t: (t, None)) | calls(), max_size=5)):
        text += part[0]
        if part[1] is None:
            plain += part[0]
        else:
            expected.append(part[1])
    return text, "".join(plain.split()), expected


def cut(text: str, data: st.DataObject) -> list[str]:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]


@given(answer=answers(), data=st.data(), is_guided=st.booleans())
def test_calls_and_text_are_found_however_the_answer_comes(
    answer: tuple[str, str, list[tuple[str, Any]]], data: st.DataObject, is_guided: bool
) -> None:
    text, plain, expected = answer
    got_text, got_calls = parsed([text], new_parser(is_guided=is_guided))
    assert "".join(got_text.split()) == plain
    assert [(name, json.loads(arguments)) for name, arguments in got_calls] == expected
    if not expected:
        assert got_text == text
    assert parsed(cut(text, data), new_parser(is_guided=is_guided)) == (got_text, got_calls)
    assert parsed(text, new_parser(is_guided=is_guided)) == (got_text, got_calls)


BROKEN = st.text(alphabet='{}[]",: \n', max_size=20) | st.sampled_from(
    [
        '{"name": "g", "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "[1]"}',
        '{"name": "f", "arguments": "{} {}"}',
        '{"name": "f", "arguments": 3}',
        '{"name": "f", "name": "f", "arguments": {}}',
        '{"name": 3, "arguments": {}}',
        '{"arguments": {}}',
        "{}",
        '[{"name": "f", "arguments": {}}]',
        '{"name": "f", "arguments": {}} {}',
        '{"name": "f", "arguments": {"a": 1,}}',
        "{'name': 'f', 'arguments': {}}",
        '{"name": "f", "arguments": {"a": nul}}',
        "f(1)",
    ]
)


@given(body=BROKEN, before=PLAIN, after=calls(), data=st.data())
def test_a_block_that_is_no_call_is_text_as_it_was_written(
    body: str, before: str, after: tuple[str, tuple[str, Any]], data: st.DataObject
) -> None:
    text = f"{before}<tool_call>{body}</tool_call>"
    got_text, got_calls = parsed(cut(text + after[0], data), new_parser(is_guided=False))
    assert got_text == text
    assert [(name, json.loads(arguments)) for name, arguments in got_calls] == [after[1]]


@given(
    text=st.text(alphabet='<tool_call>/{}":,name rgumnsf01\\ ', max_size=80),
    data=st.data(),
    is_guided=st.booleans(),
)
def test_any_text_gives_the_same_however_it_comes(
    text: str, data: st.DataObject, is_guided: bool
) -> None:
    text = data.draw(st.sampled_from(["", '<tool_call>{"name": "f", "arguments": {'])) + text
    parser = new_parser(is_guided=is_guided)
    answer = parsed(cut(text, data), parser)
    assert answer == parsed([text], new_parser(is_guided=is_guided))
    if not is_guided:
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in answer[1])
        assert not parser.has_cut_call
        if not answer[1]:
            assert answer[0] == text


@given(
    arguments=st.dictionaries(st.text(), VALUES, max_size=3),
    is_ascii=st.booleans(),
    data=st.data(),
)
def test_what_has_come_of_guided_arguments_is_passed_on(
    arguments: dict[str, Any], is_ascii: bool, data: st.DataObject
) -> None:
    written = json.dumps(arguments, ensure_ascii=is_ascii)
    end = data.draw(st.integers(1, len(written)))
    parser = new_parser()
    head = '<tool_call>\n{"name": "f", "arguments": '
    passed = "".join(d.arguments for d in parser.push(head + written[:end]).tool_calls)
    assert written.startswith(passed)
    assert 0 <= end - len(passed) < len(r"\ud83d\ude00")
    more = parser.push(written[end:] + "}\n</tool_call>").tool_calls
    assert passed + "".join(d.arguments for d in more) == written


@pytest.mark.parametrize("is_guided", [True, False])
@pytest.mark.parametrize(
    ("written", "passed"),
    [
        (r"\ud83d\ude00", r"\ud83d\ude00"),
        (r"\ud83d", r"\ufffd"),
        (r"\ude00x", r"\ufffdx"),
        (r"\ud83d\ud83d\ude00", r"\ufffd\ud83d\ude00"),
        (r"\ud83d\n", r"\ufffd\n"),
        (r"\ud83d\u00e9", r"\ufffd\u00e9"),
        (r"\ud83d\\ude00", r"\ufffd\\ude00"),
        (r"\\ud83d", r"\\ud83d"),
        (r"\ud83dé", r"\ufffdé"),
    ],
)
def test_half_a_surrogate_pair_becomes_a_replacement_character(
    written: str, passed: str, is_guided: bool
) -> None:
    text = f'<tool_call>{{"name": "f", "arguments": {{"a": "{written}"}}}}</tool_call>'
    expected = ("", [("f", f'{{"a": "{passed}"}}')])
    for end in range(len(text)):
        pieces = [text[:end], text[end:]]
        assert parsed(pieces, new_parser(is_guided=is_guided)) == expected
    assert parsed(text, new_parser(is_guided=is_guided)) == expected


def test_half_a_surrogate_pair_in_arguments_that_are_a_string_is_replaced_too() -> None:
    for written in (r'"{\"a\": \"\ud83d\"}"', r'"{\"a\": \"\\ud83d\"}"'):
        text = f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>'
        [(_, arguments)] = parsed([text], new_parser(is_guided=False))[1]
        assert json.loads(arguments) == {"a": "\ufffd"}


def test_numbers_are_passed_on_as_they_were_written() -> None:
    arguments = '{"a": [1.10, 1e400, -0.0, ' + "9" * 5000 + "]}"
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    for is_guided in (True, False):
        assert parsed([text], new_parser(is_guided=is_guided)) == ("", [("f", arguments)])


@pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 100_000])
def test_deep_nesting_is_text_where_the_engine_is_not_guided(body: str) -> None:
    text = f'<tool_call>{{"name": "f", "arguments": {{"a": {body}}}}}</tool_call>'
    assert parsed([text], new_parser(is_guided=False)) == (text, [])


def test_arguments_are_passed_on_as_they_come() -> None:
    parser = new_parser()
    assert parser.push('Let me look.\n<tool_call>\n{"name": "f"').text == "Let me look."
    assert parser.num_calls == 0
    assert parser.push(', "arguments": {"city": "Par').tool_calls == (
        ToolCallDelta(0, "call_0", "f", '{"city": "Par'),
    )
    assert parser.num_calls == 1
    assert parser.push("is\\").tool_calls == (ToolCallDelta(0, arguments="is"),)
    assert parser.push('"').tool_calls == (ToolCallDelta(0, arguments='\\"'),)
    assert parser.push('"}').tool_calls == (ToolCallDelta(0, arguments='"}'),)
    assert parser.push("}\n</tool_call>").tool_calls == ()


def test_an_unguided_call_is_passed_on_when_it_has_ended() -> None:
    parser = new_parser(is_guided=False)
    text = block("f", {"a": 1})
    assert parser.push(text[:-1]).tool_calls == ()
    assert parser.push(text[-1]).tool_calls == (ToolCallDelta(0, "call_0", "f", '{"a": 1}'),)


def test_text_is_held_back_only_while_it_may_become_a_tag() -> None:
    parser = new_parser()
    assert parser.push("1 <tool").text == "1"
    assert parser.push("s> 2 ").text == " <tools> 2"
    assert parser.flush().text == " "


@pytest.mark.parametrize("arguments", ['"arguments": null', '"arguments": ""', '"id": 1'])
def test_missing_arguments_are_an_empty_object(arguments: str) -> None:
    text = f'<tool_call>{{"name": "f", {arguments}}}</tool_call>'
    assert parsed([text]) == ("", [("f", "{}")])


def test_whitespace_around_calls_is_dropped_and_between_texts_kept() -> None:
    call = block("f", {})
    assert parsed([f"\n {call}\n{call}\n"])[0] == ""
    assert parsed([f"a\n{call}\n"])[0] == "a"
    assert parsed([f"\n{call}\nb\n"])[0] == "b"
    assert parsed([f"a\n{call}\nb"])[0] == "a\nb"


def test_a_choice_that_is_not_parallel_is_complete_after_one_call() -> None:
    parser = new_parser(ToolChoice("auto", is_parallel=False))
    text = block("f", {"a": 1})
    parser.push(text[:-1])
    assert not parser.is_complete
    parser.push(text[-1] + "\nmore" + block("f", {}))
    assert parser.is_complete
    assert parser.push(block("f", {})).tool_calls == ()
    assert parser.flush().text == ""
    assert parser.num_calls == 1


def test_a_parallel_choice_is_never_complete() -> None:
    parser = new_parser()
    parser.push(block("f", {}) * 2)
    assert (parser.num_calls, parser.is_complete) == (2, False)


def test_only_the_allowed_tools_are_called() -> None:
    parser = new_parser(ToolChoice("auto", ("f",)), is_guided=False)
    refused = block("get_weather", {})
    assert parsed([block("f", {}), refused], parser) == (refused, [("f", "{}")])


def test_a_guided_call_cut_after_its_beginning_is_marked() -> None:
    parser = new_parser()
    text = '<tool_call>\n{"name": "f", "arguments": {"a": [1, '
    assert parsed([text], parser) == ("", [("f", '{"a": [1, ')])
    assert parser.has_cut_call


@pytest.mark.parametrize("end", ["}", "}\n</tool", "}\n"])
def test_a_call_with_whole_arguments_is_not_cut(end: str) -> None:
    parser = new_parser()
    assert parsed(['<tool_call>{"name": "f", "arguments": {}' + end], parser) == ("", [("f", "{}")])
    assert not parser.has_cut_call


@pytest.mark.parametrize(("is_guided", "text"), [(True, ""), (False, '<tool_call>{"name": "f"')])
def test_a_call_cut_before_its_beginning_is_text_unless_guided(is_guided: bool, text: str) -> None:
    parser = new_parser(is_guided=is_guided)
    assert parsed(['<tool_call>{"name": "f"'], parser) == (text, [])
    assert not parser.has_cut_call


def test_a_block_with_an_open_string_is_text_and_hides_no_call() -> None:
    text = '<tool_call>{"name: 1}</tool_call> '
    assert parsed([text + block("f", {})], new_parser(is_guided=False)) == (
        text.rstrip(),
        [("f", "{}")],
    )


def test_a_tag_in_a_guided_answer_that_is_no_call_is_text() -> None:
    text = '{"answer": "write <tool_call> {and a name"}'
    assert parsed([text]) == (text, [])


def test_a_tag_right_after_an_unclosed_block_is_seen() -> None:
    call = block("f", {})
    unclosed = call.removesuffix("</tool_call>")
    parser = new_parser(is_guided=False)
    assert parsed([unclosed + call], parser) == (unclosed.rstrip(), [("f", "{}")])
