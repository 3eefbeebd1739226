from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.output.detokenizer import BytesDetokenizer, Detokenizer, new_detokenizer
from internvl_server.prompt.tokenizer import PromptTokenizer


def make(kind: str, tokenizer: PromptTokenizer) -> Detokenizer:
    vocabulary = tokenizer.vocabulary
    if kind == "window":
        vocabulary = replace(vocabulary, token_bytes=None)
    detokenizer = new_detokenizer(vocabulary, skip_special_tokens=None)
    assert isinstance(detokenizer, BytesDetokenizer) == (kind == "bytes")
    return detokenizer


@pytest.mark.parametrize("kind", ["bytes", "window"])
@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")),
    cuts=st.lists(st.integers(1, 4)),
)
def test_pieces_concatenate_to_the_text_and_split_no_character(
    tokenizer: PromptTokenizer, kind: str, text: str, cuts: list[int]
) -> None:
    ids = tokenizer.encode_text(text)
    detokenizer = make(kind, tokenizer)
    pieces: list[str] = []
    while ids:
        size = cuts.pop() if cuts else 1
        pieces.append(detokenizer.push(ids[:size]))
        ids = ids[size:]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(
        tokenizer.encode_text(text), skip_special_tokens=False
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_ids_at_all_decode_as_in_one_go(
    tokenizer: PromptTokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    detokenizer = make("bytes", tokenizer)
    pieces = [detokenizer.push([i]) for i in ids]
    table = tokenizer.all_token_bytes
    assert table is not None
    kept = [i for i in ids if i not in tokenizer.special_ids]
    whole = b"".join(table[i] for i in kept).decode("utf-8", "replace")
    assert "".join(pieces) + detokenizer.flush() == whole


def test_a_character_cut_by_the_end_becomes_a_replacement(tokenizer: PromptTokenizer) -> None:
    ids = tokenizer.encode_text("é")
    for kind in ("bytes", "window"):
        detokenizer = make(kind, tokenizer)
        if len(ids) > 1:
            assert detokenizer.push(ids[:1]) == ""
            assert detokenizer.flush() == "\ufffd"


def test_an_id_beyond_the_vocabulary_has_no_text(tokenizer: PromptTokenizer) -> None:
    assert make("bytes", tokenizer).push([10**6]) == ""


@pytest.mark.parametrize("kind", ["bytes", "window"])
def test_special_tokens_are_text_only_where_they_are_not_skipped(
    tokenizer: PromptTokenizer, kind: str
) -> None:
    vocabulary = tokenizer.vocabulary
    if kind == "window":
        vocabulary = replace(vocabulary, token_bytes=None)
    ids = [*tokenizer.encode_text("a<ref>b</ref>"), tokenizer.control_id("<|im_end|>")]
    shown = {None: "a<ref>b</ref>", True: "ab", False: "a<ref>b</ref><|im_end|>"}
    for skip, text in shown.items():
        detokenizer = new_detokenizer(vocabulary, skip_special_tokens=skip)
        assert detokenizer.push(ids) + detokenizer.flush() == text
