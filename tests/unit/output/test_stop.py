import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.output.stop import StopMatcher

SMALL = st.text(alphabet="ab\n", max_size=12)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=4)


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + matcher.flush(), matcher.is_stopped


def expected(stops: list[str], text: str) -> tuple[str, bool]:
    """Straight from the definition: the occurrence that ends first, the longest of those."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stops if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(stops=STOPS, pieces=st.lists(SMALL))
def test_result_is_the_definitions_however_the_text_is_cut(
    stops: list[str], pieces: list[str]
) -> None:
    text = "".join(pieces)
    assert run(stops, pieces) == expected(stops, text)
    assert run(stops, list(text)) == expected(stops, text)
    assert run(stops, [text]) == expected(stops, text)


@given(stops=STOPS, pieces=st.lists(SMALL))
def test_no_stop_string_is_ever_emitted(stops: list[str], pieces: list[str]) -> None:
    text, _ = run(stops, pieces)
    assert not any(stop in text for stop in stops)


@given(stops=STOPS, pieces=st.lists(SMALL))
def test_a_stop_string_that_is_shown_ends_the_text(stops: list[str], pieces: list[str]) -> None:
    shown = StopMatcher(stops, is_shown=True)
    text = "".join(shown.push(piece) for piece in pieces) + shown.flush()
    before, is_stopped = run(stops, pieces)
    assert shown.is_stopped == is_stopped
    assert (shown.found in stops) == is_stopped
    assert text == before + (shown.found or "")


def test_text_is_held_back_only_while_it_may_become_a_stop() -> None:
    matcher = StopMatcher(["</answer>"])
    assert matcher.push("42</ans") == "42"
    assert matcher.push("wers>") == "</answers>"
    assert matcher.push("<") == ""
    assert matcher.flush() == "<"


def test_nothing_follows_a_stop() -> None:
    matcher = StopMatcher(["."])
    assert matcher.push("a.b") == "a"
    assert matcher.push("c") == ""
    assert matcher.is_stopped


@given(
    num=st.integers(1, 400),
    piece_sizes=st.lists(st.integers(1, 300), min_size=1),
    between=st.sampled_from(["", "c", "b", "ab"]),
)
def test_a_long_repetitive_stop_is_found_after_it_broke_off(
    num: int, piece_sizes: list[int], between: str
) -> None:
    stops = ["a" * num + "!", "a" * (num // 2) + "b!"]
    text = "a" * num + between + "a" * num + "!" + "a"
    pieces: list[str] = []
    rest = text
    while rest:
        size = piece_sizes[len(pieces) % len(piece_sizes)]
        pieces.append(rest[:size])
        rest = rest[size:]
    assert run(stops, pieces) == expected(stops, text)


def test_held_text_is_shorter_than_the_longest_stop_and_released_later() -> None:
    matcher = StopMatcher(["a" * 500 + "!"])
    text = "a" * 500 + "b" * 30
    shown = 0
    for num_pushed, char in enumerate(text, start=1):
        shown += len(matcher.push(char))
        assert num_pushed - shown <= 500
    assert shown == len(text)


@pytest.mark.parametrize("length", [1, 100, 10_000])
def test_stops_of_any_length_match_across_pieces(length: int) -> None:
    stop = "x" * length + "!"
    assert run([stop], [*("a" + stop), "b"]) == ("a", True)
