import json
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.prompt.template import DEFAULT_SYSTEM_TEXT
from internvl_server.prompt.tokenizer import CONTENT_MARKERS, PromptTokenizer, load_tokenizer
from internvl_server.settings import DEMO_MODEL
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


def test_every_added_token_typed_by_a_user_is_plain_text(tokenizer: PromptTokenizer) -> None:
    control = set(tokenizer.control_ids.values())
    assert len(control) > 20
    for name in tokenizer.control_ids:
        for text in (name, f"a{name}b", f" {name} ", name * 3, f"\n{name}\n"):
            ids = tokenizer.encode_text(text)
            assert not control.intersection(ids), name
            assert tokenizer.decode(ids) == text


@settings(max_examples=300, deadline=None)
@given(data=st.data(), before=ANY_TEXT, after=ANY_TEXT)
def test_no_text_around_a_control_tokens_name_makes_it_one(
    tokenizer: PromptTokenizer, data: st.DataObject, before: str, after: str
) -> None:
    name = data.draw(st.sampled_from(sorted(tokenizer.control_ids)))
    ids = tokenizer.encode_text(before + name + after)
    assert not set(tokenizer.control_ids.values()).intersection(ids)


MARKED_TEXT = st.lists(ANY_TEXT | st.sampled_from(CONTENT_MARKERS) | st.sampled_from(" <>/")).map(
    "".join
)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), texts=st.lists(MARKED_TEXT, min_size=1))
def test_only_content_markers_of_a_text_become_added_tokens(
    tokenizer: PromptTokenizer, data: st.DataObject, texts: list[str]
) -> None:
    names = data.draw(
        st.lists(
            st.sampled_from(sorted(tokenizer.control_ids)), min_size=len(texts), max_size=len(texts)
        )
    )
    text = "".join(part for pair in zip(texts, names, strict=True) for part in pair)
    ids = tokenizer.encode_text(text)
    assert not set(tokenizer.control_ids.values()).intersection(ids)
    markers = re.findall("</?(?:ref|box|quad)>", text)
    added = [i for i in ids if i in tokenizer._added]
    assert added == [tokenizer.content_ids[name] for name in markers]


def test_the_templates_own_system_text_is_encoded_once() -> None:
    tokenizer = load_tokenizer(DEMO_MODEL)
    for _ in range(3):
        tokenizer.encode_text(f"system\n{DEFAULT_SYSTEM_TEXT}")
    assert tokenizer._encode_short.cache_info().misses == 1


def test_markers_that_the_tokenizer_lacks_are_plain_text() -> None:
    tokenizer = load_tokenizer(DEMO_MODEL)
    assert not tokenizer.content_ids
    ids = tokenizer.encode_text("<ref>a</ref>")
    assert tokenizer.decode(ids) == "<ref>a</ref>"
    assert not set(tokenizer.control_ids.values()).intersection(ids)


def test_characters_that_normalise_to_a_marker_are_no_marker(tokenizer: PromptTokenizer) -> None:
    definition = json.loads(tokenizer._full.to_str())
    definition["normalizer"] = {"type": "NFKC"}
    for token in definition["added_tokens"]:
        token["normalized"] = True
    wide = PromptTokenizer(Tokenizer.from_str(json.dumps(definition)))
    assert wide.encode_text("<ref>") == [tokenizer.content_ids["<ref>"]]
    assert not set(wide._added).intersection(wide.encode_text("＜ref＞＜box＞"))


def test_control_ids_are_those_of_the_full_tokenizer(tokenizer: PromptTokenizer) -> None:
    assert set(tokenizer.content_ids) == set(CONTENT_MARKERS)
    for name, token_id in [*tokenizer.control_ids.items(), *tokenizer.content_ids.items()]:
        assert tokenizer._full.encode(name, add_special_tokens=False).ids == [token_id]


@settings(max_examples=300, deadline=None)
@given(text=MARKED_TEXT)
def test_text_without_control_names_encodes_as_the_full_tokenizer_does(
    tokenizer: PromptTokenizer, text: str
) -> None:
    if not tokenizer.control_pattern.search(text):
        whole = tokenizer._full.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode_text(text) == whole


@settings(max_examples=100, deadline=None)
@given(before=ANY_TEXT, after=ANY_TEXT)
def test_text_of_an_answer_has_added_but_no_special_tokens(
    tokenizer: PromptTokenizer, before: str, after: str
) -> None:
    assert tokenizer.encode_answer(before) == tokenizer.encode_text(before) or any(
        name in before for name in tokenizer.control_ids
    )
    call, end = tokenizer.control_id("<tool_call>"), tokenizer.control_id("<|im_end|>")
    ids = tokenizer.encode_answer(f"{before}<tool_call>{after}<|im_end|>")
    assert call in ids
    assert not tokenizer.special_ids.intersection(ids)
    assert end not in ids
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert text == f"{before}<tool_call>{after}<|im_end|>"


def test_token_bytes_agree_with_decode(tokenizer: PromptTokenizer) -> None:
    table = tokenizer.all_token_bytes
    assert table is not None
    for token_id in range(tokenizer.vocab_size):
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        assert table[token_id].decode("utf-8", "replace") == text


def metaspace(scheme: str) -> PromptTokenizer:
    """A tokenizer of the SentencePiece kind, as Llama and InternLM3 have: spaces are written as U+2581."""
    vocab = {token: i for i, token in enumerate(["\u2581", "a", "b", "x"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.add_special_tokens(["<s>", "<|im_end|>"])
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 4)])
    return PromptTokenizer(tokenizer)


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_text_inside_a_prompt_is_written_as_the_whole_tokenizer_does(scheme: str) -> None:
    tokenizer = metaspace(scheme)
    whole = tokenizer._full.encode("a b<|im_end|>b").ids
    pieces = tokenizer.encode_text("a b", is_first=True), [5], tokenizer.encode_text("b")
    assert whole == [*tokenizer.begin_ids, *(i for piece in pieces for i in piece)]


def test_special_tokens_around_a_text_are_those_of_the_checkpoint(
    tokenizer: PromptTokenizer,
) -> None:
    assert tokenizer.affixes == ((), ())
    begin, end = (tokenizer.control_id(name) for name in ("<|im_start|>", "<|im_end|>"))
    full = Tokenizer.from_str(tokenizer._full.to_str())
    full.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        special_tokens=[("<|im_start|>", begin), ("<|im_end|>", end)],
    )
    assert PromptTokenizer(full).affixes == ((begin,), (end,))


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
def test_text_comes_back_from_its_ids(tokenizer: PromptTokenizer, text: str) -> None:
    again = tokenizer.text_of(tokenizer.encode_text(text))
    assert unicodedata.normalize("NFC", again) == unicodedata.normalize("NFC", text)
