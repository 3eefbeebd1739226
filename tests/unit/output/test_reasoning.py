"""The reasoning at the beginning of an answer: what belongs to it, however the tokens come."""

import itertools
from collections.abc import Set

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.core import (
    AnswerParams,
    AnswerStart,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TextDelta,
    TokenDelta,
    TokenLogprobs,
    ToolChoice,
)
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.output.text import AnswerText

# Whole characters, halves of one, whitespace, pieces of calls and of stop strings, the tags, and the end.
TABLE = (
    b"a", b"b", b" ", b"\n", b"\n\n", b"\xc3", b"\xa9", b"STOP", b"ST", b"OP",
    b"<tool_call>", b'{"name": "f"}', b"</tool_call>", b"<think>", b"</think>", b"<end>",
)  # fmt: skip
BEGIN, CLOSE, END = (TABLE.index(name) for name in (b"<think>", b"</think>", b"<end>"))
VOCABULARY = Vocabulary(
    TABLE, frozenset({END}), frozenset(), lambda _: [], lambda *_, **__: "", len(TABLE), (BEGIN, CLOSE)
)  # fmt: skip
IDS = st.lists(
    st.integers(0, END - 1) | st.sampled_from((2, 3, BEGIN, CLOSE)), min_size=1, max_size=14
)


def ids_of(*names: str) -> list[int]:
    return [TABLE.index(name.encode()) for name in names]


def answered(
    ids: list[int],
    cuts: Set[int] = frozenset(),
    *,
    reason: FinishReason = "stop",
    start: AnswerStart = "anything",
    stop: tuple[str, ...] = ("STOP",),
    **options: bool,
) -> tuple[TextDelta, AnswerText]:
    """The whole answer; with the reason "stop" the end token follows the ids."""
    ids = [*ids, END] if reason == "stop" else ids
    has_logprobs = options.pop("logprobs", False)
    num_logprobs = 0 if has_logprobs else None
    sampling = SamplingParams(stop=stop, num_logprobs=num_logprobs)
    request = GenerateRequest("r", (0,), len(ids), sampling, frozenset({END}))
    params = AnswerParams(
        tool_choice=ToolChoice("auto") if options.pop("tools", False) else ToolChoice("none"),
        tool_names=("f",),
        **options,
    )
    text = AnswerText.of(request, params, VOCABULARY, start)
    made: list[TextDelta] = []
    ends = sorted({cut for cut in cuts if 0 < cut < len(ids)} | {0, len(ids)})
    for begin, end in itertools.pairwise(ends):
        logprobs = tuple(TokenLogprobs(-float(i)) for i in range(begin, end))
        piece = tuple(ids[begin:end])
        made += text.push(TokenDelta(piece, reason if end == len(ids) else None, logprobs))
        if made[-1].finish_reason is not None:
            break
    calls = [c for d in made for c in d.tool_calls]
    joined = TextDelta(
        "".join(d.text for d in made),
        made[-1].finish_reason,
        logprobs=tuple(entry for d in made for entry in d.logprobs),
        tool_calls=tuple(TextDelta("", tool_calls=(c,)).tool_calls[0] for c in calls),
        stop_string=made[-1].stop_string,
        reasoning="".join(d.reasoning for d in made),
    )
    return joined, text


def both(ids: list[int], **options: object) -> tuple[str, str]:
    made, _ = answered(ids, **options)
    return made.reasoning, made.text


@pytest.mark.parametrize(
    ("names", "reasoning", "text"),
    [
        (["<think>", "\n", "a", "\n", "b", "\n", "</think>", "\n\n", "b"], "a\nb", "b"),
        (["\n", " ", "<think>", "a", "</think>", "b"], "a", "b"),
        (["<think>", "</think>", "\n\n", " ", "b"], "", " b"),
        (["<think>", "\n\n", "</think>"], "", ""),
        (["<think>", "a", "\n"], "a", ""),
        (["a", "<think>", "b", "</think>"], "", "a<think>b</think>"),
        (["\n", "a", "</think>"], "", "\na</think>"),
        (["\n", " "], "", "\n "),
        (["<think>", "a", "<think>", "</think>", "b", "<think>"], "a<think>", "b<think>"),
        (["<think>", "STOP", "ST", "OP", "</think>", "a", "ST", "OP", "b"], "STOPSTOP", "a"),
    ],
)
def test_what_belongs_to_reasoning(names: list[str], reasoning: str, text: str) -> None:
    assert both(ids_of(*names)) == (reasoning, text)


def test_a_prompt_may_have_begun_it() -> None:
    ids = ids_of("\n", "a", "\n", "</think>", "\n", "b", "</think>")
    assert both(ids, start="reasoning") == ("a", "b</think>")
    assert both(ids, start="text") == ("", "\na\n</think>\nb</think>")
    assert both(ids_of("<think>", "a"), start="text") == ("", "<think>a")


def test_unfinished_reasoning_has_no_text() -> None:
    made, text = answered(ids_of("<think>", "\n", "a", "b"), reason="length")
    assert (made.reasoning, made.text, made.finish_reason) == ("ab", "", "length")
    assert (text.num_tokens, text.num_reasoning_tokens) == (4, 4)


def test_tokens_are_counted_with_the_tags() -> None:
    _, text = answered(ids_of("\n", "<think>", "a", "</think>", "\n", "b"))
    assert (text.num_tokens, text.num_reasoning_tokens) == (7, 4)


def test_half_a_character_ends_with_the_reasoning() -> None:
    half, other = TABLE.index(b"\xc3"), TABLE.index(b"\xa9")
    assert both([BEGIN, half, CLOSE, other]) == ("\ufffd", "\ufffd")
    assert both([BEGIN, half, other, CLOSE, half, other]) == ("é", "é")


def test_calls_are_found_after_reasoning_only() -> None:
    call = ["<tool_call>", '{"name": "f"}', "</tool_call>"]
    made, _ = answered(ids_of("<think>", *call, "</think>", "\n", *call), tools=True)
    assert [c.name for c in made.tool_calls] == ["f"]
    assert made.reasoning == "".join(call)
    assert (made.text, made.finish_reason) == ("", "tool_calls")


def test_it_may_stay_in_the_text_or_be_left_out() -> None:
    ids = ids_of("<think>", "a", "</think>", "\n", "b")
    assert both(ids, splits_reasoning=False) == ("", "<think>a</think>\nb")
    hidden, text = answered(ids, shows_reasoning=False, logprobs=True)
    assert (hidden.reasoning, hidden.text, text.num_reasoning_tokens) == ("", "b", 3)
    assert [entry.token.text for entry in hidden.logprobs] == ["\n", "b"]


def test_where_it_stays_in_the_text_it_is_still_no_call_and_no_stop_string() -> None:
    call = ["<tool_call>", '{"name": "f"}', "</tool_call>"]
    thought = ["\n", "<think>", "STOP", *call, "\n", "</think>"]
    ids = ids_of(*thought, "\n", *call)
    options = {"tools": True, "logprobs": True, "splits_reasoning": False}
    for cuts in (frozenset(), frozenset(range(1, len(ids)))):
        made, counts = answered(ids, cuts, **options)
        assert (made.text, made.reasoning) == ("".join(thought), "")
        assert ([c.name for c in made.tool_calls], made.finish_reason) == (["f"], "tool_calls")
        assert counts.num_reasoning_tokens == len(thought)
        assert [entry.token.logprob for entry in made.logprobs] == [
            -float(i) for i in range(len(ids))
        ]
    cut, _ = answered(ids_of(*thought, "a", "STOP"), splits_reasoning=False)
    assert cut.text == "".join([*thought, "a"])


def test_log_probabilities_cover_all_tokens() -> None:
    made, _ = answered(ids_of("\n", "<think>", "a", "</think>", "\n", "b"), logprobs=True, stop=())
    assert [entry.token.logprob for entry in made.logprobs] == [-float(i) for i in range(6)]
    assert [entry.is_reasoning for entry in made.logprobs] == [True] * 4 + [False] * 2


@given(
    ids=IDS, cuts=st.sets(st.integers(1, 14)), reason=st.sampled_from(("stop", "length")),
    start=st.sampled_from(("anything", "reasoning", "text")), tools=st.booleans(),
    logprobs=st.booleans(), splits_reasoning=st.booleans(),
)  # fmt: skip
def test_the_answer_does_not_depend_on_how_tokens_come(
    ids: list[int],
    cuts: set[int],
    reason: FinishReason,
    start: AnswerStart,
    tools: bool,
    logprobs: bool,
    splits_reasoning: bool,
) -> None:
    options = {
        "reason": reason, "start": start, "tools": tools, "logprobs": logprobs,
        "splits_reasoning": splits_reasoning,
    }  # fmt: skip
    whole, counts = answered(ids, **options)
    split, split_counts = answered(ids, cuts, **options)
    strip = [(c.index, c.name, c.arguments) for c in whole.tool_calls]
    assert [(c.index, c.name, c.arguments) for c in split.tool_calls] == strip
    assert (split.reasoning, split.text, split.finish_reason, split.stop_string, split.logprobs) == (
        whole.reasoning, whole.text, whole.finish_reason, whole.stop_string, whole.logprobs
    )  # fmt: skip
    assert split_counts.num_tokens == counts.num_tokens
    assert split_counts.num_reasoning_tokens == counts.num_reasoning_tokens


@given(ids=IDS, reason=st.sampled_from(("stop", "length")))
def test_where_it_stays_in_the_text_nothing_is_lost(ids: list[int], reason: FinishReason) -> None:
    made, _ = answered(ids, reason=reason, stop=(), splits_reasoning=False)
    raw, _ = answered(ids, reason=reason, stop=(), start="text")
    assert (made.text, made.reasoning) == (raw.text, "")


@given(ids=IDS, reason=st.sampled_from(("stop", "length")))
def test_nothing_is_lost_but_tags_and_line_breaks(ids: list[int], reason: FinishReason) -> None:
    made, counts = answered(ids, reason=reason, stop=())
    raw, _ = answered(ids, reason=reason, stop=(), start="text")
    if not counts.num_reasoning_tokens:
        assert (made.reasoning, made.text) == ("", raw.text)
        return
    before, _, rest = raw.text.partition("<think>")
    assert not before.strip()
    reasoning, _, text = rest.partition("</think>")
    # Halves of a character on both sides of a tag do not join.
    assert (made.reasoning, made.text) == (reasoning.strip("\n"), text.lstrip("\n"))
