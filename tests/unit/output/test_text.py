import codecs
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from internvl_server.core import FinishReason, TextDelta, TokenDelta, TokenLogprobs
from internvl_server.output.detokenizer import BytesDetokenizer
from internvl_server.output.logprobs import LEAST_LOGPROB, LogprobWriter
from internvl_server.output.stop import StopMatcher
from internvl_server.output.text import AnswerRules, AnswerText

# Whole characters, halves of one, and the end.
TABLE = (b"a", b"b", b"ab", b"\xc3", b"\xa9", "世".encode(), b"", b"<end>")
END = len(TABLE) - 1
IDS = st.lists(st.integers(0, END - 1), max_size=12)
STOPS = st.lists(st.text(alphabet="ab\ufffdé世", min_size=1, max_size=3), max_size=2)


def deltas(token_ids: list[int], cuts: set[int], reason: FinishReason) -> list[TokenDelta]:
    """The ids as deltas cut at some places, with a log probability that is each id's negative place."""
    made, begin = [], 0
    for end in sorted({cut for cut in cuts if cut < len(token_ids)} | {len(token_ids)}):
        if begin < end:
            logprobs = tuple(TokenLogprobs(-float(i)) for i in range(begin, end))
            ids = tuple(token_ids[begin:end])
            made.append(TokenDelta(ids, reason if end == len(token_ids) else None, logprobs))
        begin = end
    return made


def answer(
    token_ids: list[int],
    *,
    cuts: set[int] | None = None,
    reason: FinishReason = "length",
    stops: tuple[str, ...] = (),
    logprobs: bool = False,
    **rules: Any,
) -> tuple[TextDelta, int]:
    """Everything an answer yields, joined, and how many tokens it counted."""
    writer = LogprobWriter(lambda i: TABLE[i], 0) if logprobs else None
    is_shown, hidden = rules.pop("is_shown", False), rules.pop("hidden", frozenset())
    text = AnswerText(
        AnswerRules(to_logprobs=writer, **rules),
        BytesDetokenizer(TABLE, hidden),
        StopMatcher(stops, is_shown=is_shown),
    )
    got: list[TextDelta] = []
    for delta in deltas(token_ids, cuts or set(), reason):
        got += text.push(delta)
        if got[-1].finish_reason is not None:
            break
    assert all(d.finish_reason is None for d in got[:-1])
    entries = tuple(entry for d in got for entry in d.logprobs)
    joined = TextDelta(
        "".join(d.text for d in got),
        got[-1].finish_reason,
        logprobs=entries,
        stop_string=got[-1].stop_string,
    )
    return joined, text.num_tokens


def stopped(text: str, stops: tuple[str, ...]) -> str | None:
    """The text before the stop string that ends first, straight from the definition."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stops if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))]
    return None


@given(ids=IDS.filter(bool), cuts=st.sets(st.integers(1, 11)), stops=STOPS, logprobs=st.booleans())
def test_text_and_count_do_not_depend_on_how_tokens_arrive(
    ids: list[int], cuts: set[int], stops: list[str], logprobs: bool
) -> None:
    options: dict[str, Any] = {"stops": tuple(stops), "logprobs": logprobs}
    whole, count = answer(ids, **options)
    assert answer(ids, cuts=cuts, **options) == (whole, count)
    text = b"".join(TABLE[i] for i in ids).decode("utf-8", "replace")
    before = stopped(text, tuple(stops))
    assert whole.text == (text if before is None else before)
    assert whole.finish_reason == ("length" if before is None else "stop")
    found = None if before is None else whole.stop_string
    assert found in (*stops, None)
    assert text.startswith(whole.text + (found or ""))
    assert (whole.stop_string is None) == (before is None)
    assert count == len(ids) if before is None else count <= len(ids)


@given(ids=IDS.filter(bool), cuts=st.sets(st.integers(1, 11)), stops=STOPS)
def test_log_probabilities_are_those_of_the_tokens_that_are_shown(
    ids: list[int], cuts: set[int], stops: list[str]
) -> None:
    whole, count = answer(ids, cuts=cuts, stops=tuple(stops), logprobs=True)
    if whole.finish_reason == "length":
        assert len(whole.logprobs) == len(ids)
        assert b"".join(e.token.data for e in whole.logprobs) == b"".join(TABLE[i] for i in ids)
    else:
        assert len(whole.logprobs) <= count
        shown = b"".join(e.token.data for e in whole.logprobs).decode("utf-8", "replace")
        assert shown.startswith(whole.text)
    assert [e.token.logprob for e in whole.logprobs] == [
        -float(i) for i in range(len(whole.logprobs))
    ]


def test_the_end_is_counted_and_not_shown() -> None:
    rules: dict[str, Any] = {"end_ids": frozenset({END}), "reason": "stop", "logprobs": True}
    hidden, count = answer([0, 1, END], **rules)
    assert (hidden.text, count, len(hidden.logprobs)) == ("ab", 3, 2)
    shown, count = answer([0, 1, END], show_end=True, **rules)
    assert (shown.text, count, len(shown.logprobs)) == ("ab<end>", 3, 3)
    plain, count = answer([0, 1, END], end_ids=frozenset({END}), reason="stop")
    assert (plain.text, count) == ("ab", 3)


def test_an_end_within_is_text() -> None:
    """With `ignore_eos` and special tokens shown it may stand anywhere."""
    assert answer([0, END, 1], end_ids=frozenset({END}))[0].text == "a<end>b"


def test_stop_strings_count_after_min_tokens() -> None:
    ids = [0, 1, 0, 1]
    assert answer(ids, stops=("b",))[0].text == "a"
    assert answer(ids, stops=("b",), min_tokens=2)[0].text == "aba"
    assert answer(ids, stops=("b",), min_tokens=2, is_shown=True)[0].text == "abab"
    assert answer(ids, stops=("b",), min_tokens=4)[0].text == "abab"


@given(
    ids=IDS.filter(bool),
    cuts=st.sets(st.integers(1, 11)),
    hidden=st.frozensets(st.sampled_from([0, 5])),
)
def test_tokens_have_their_place_in_the_text_that_is_shown(
    ids: list[int], cuts: set[int], hidden: frozenset[int]
) -> None:
    made, _ = answer(ids, cuts=cuts, logprobs=True, hidden=hidden)
    shown = [b"" if i in hidden else TABLE[i] for i in ids]
    for place, entry in enumerate(made.logprobs):
        before = codecs.getincrementaldecoder("utf-8")("replace").decode(b"".join(shown[:place]))
        assert entry.offset == len(before)
        assert made.text.startswith(before)


def test_hidden_tokens_and_stop_strings_do_not_move_the_others() -> None:
    made, _ = answer([5, 0, 5, 1, 3, 4, 0], logprobs=True, hidden=frozenset({5}))
    assert made.text == "abéa"
    assert [entry.offset for entry in made.logprobs] == [0, 0, 1, 1, 2, 2, 3]
    made, _ = answer([0, 1, 0, 5], logprobs=True, stops=("世",), hidden=frozenset({0}))
    assert (made.text, [entry.offset for entry in made.logprobs]) == ("b", [0, 0])


def test_the_chosen_token_is_among_the_likeliest() -> None:
    writer = LogprobWriter(lambda i: TABLE[i], 2)
    rare = writer(5, TokenLogprobs(float("-inf"), ((0, -0.1), (1, -2.0))))
    assert [t.text for t in rare.top] == ["a", "世"]
    assert rare.token.logprob == LEAST_LOGPROB
    likely = writer(1, TokenLogprobs(-2.0, ((0, -0.1), (1, -2.0), (2, -3.0))))
    assert [t.text for t in likely.top] == ["a", "b"]
    assert LogprobWriter(lambda i: TABLE[i], 0)(3, TokenLogprobs(-1.0)).token.text == "\ufffd"
    assert LogprobWriter(lambda i: TABLE[i], 0)(3, TokenLogprobs(-1.0)).top == ()
