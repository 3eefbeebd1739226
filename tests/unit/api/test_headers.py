"""The headers that name ignored fields and warnings."""

from hypothesis import given
from hypothesis import strategies as st
from internvl_server.api.headers import IGNORED_HEADER, WARNINGS_HEADER, notice_headers


def test_nothing_to_say_is_no_header() -> None:
    assert notice_headers((), ()) == {}


def test_fields_and_sentences_are_readable() -> None:
    headers = notice_headers(["messages[0].é", "foo"], ["2 marks, 1 image: text.", "Über | 50 %"])
    assert headers == {
        IGNORED_HEADER: "messages%5B0%5D.%C3%A9, foo",
        WARNINGS_HEADER: "2 marks, 1 image: text. | %C3%9Cber %7C 50 %25",
    }


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_headers_are_short_and_printable(ignored: list[str], warnings: list[str]) -> None:
    for value in notice_headers(ignored, warnings).values():
        assert value.isascii()
        assert value.isprintable()
        assert len(value) <= 4200


def test_an_empty_name_makes_no_empty_item() -> None:
    assert notice_headers(["a", ""]) == {"x-ignored-fields": 'a, ""'}
