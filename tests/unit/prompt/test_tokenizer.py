import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.prompt.tokenizer import PromptTokenizer
from tokenizers import Tokenizer
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


def test_control_ids_are_those_of_the_full_tokenizer(tokenizer: PromptTokenizer) -> None:
    for name, token_id in tokenizer.control_ids.items():
        assert tokenizer._full.encode(name, add_special_tokens=False).ids == [token_id]


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
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
    assert tokenizer.decode(ids) == f"{before}<tool_call>{after}<|im_end|>"


def test_token_bytes_agree_with_decode(tokenizer: PromptTokenizer) -> None:
    table = tokenizer.all_token_bytes
    assert table is not None
    for token_id in range(tokenizer.vocab_size):
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        assert table[token_id].decode("utf-8", "replace") == text


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
