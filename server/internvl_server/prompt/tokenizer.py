"""Text to token ids and back; control tokens are separate from text.

The checkpoint's file is split into a tokenizer without added tokens, which encodes text literally (so that
`<|im_end|>` typed by a user is six ordinary tokens), and a table of the added tokens. Only the template may
write these, except for InternVL's content markers, such as `<ref>`, and the tags of reasoning, `<think>`:
they open and close nothing in the prompt, models were trained to read and write them as single ids, and so
they are part of text.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from internvl_server.core.vocabulary import Vocabulary
from internvl_server.errors import StartupError

__all__ = ["CONTENT_MARKERS", "PromptTokenizer", "load_tokenizer"]

CONTENT_MARKERS = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
"""Marks of a phrase, of its box and of its quadrilateral in prompts and answers about places."""
_THINK_TAGS = ("<think>", "</think>")
_TEXT_MARKERS = frozenset((*CONTENT_MARKERS, *_THINK_TAGS))

# Texts that templates write between control tokens, and short system prompts, are encoded once.
_MAX_KEPT_CHARS = 128
_MAX_KEPT_TEXTS = 256

# The pre-tokenisation of the Qwen2 family, for checkpoints that have only vocab.json and merges.txt.
_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class PromptTokenizer:
    """Encodes literal text, looks up control tokens, decodes ids. Equal tokenizers have equal `digest`s.

    Args:
        tokenizer: The checkpoint's tokenizer with its added tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._full = tokenizer
        self._encode_short = lru_cache(_MAX_KEPT_TEXTS)(self._encode)
        text = tokenizer.to_str()
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        definition = json.loads(text)
        self._added: dict[int, dict[str, Any]] = {
            token["id"]: token for token in definition["added_tokens"]
        }
        definition["added_tokens"] = []
        definition["post_processor"] = None
        markers = [_marker(self._added[i]) for i in self.content_ids.values()]
        self._first_text = self._text_only = Tokenizer.from_str(json.dumps(definition))
        self._text_only.add_tokens(markers)
        if _prepend_scheme(definition) == "first":
            definition["pre_tokenizer"]["prepend_scheme"] = "never"
            self._text_only = Tokenizer.from_str(json.dumps(definition))
            self._text_only.add_tokens(markers)
        self._is_byte_level = "ByteLevel" in json.dumps(definition.get("decoder"))

    @cached_property
    def control_ids(self) -> Mapping[str, int]:
        """Id of every added token but the content markers, by its text; no text encodes to any of them."""
        return {
            token["content"]: token_id
            for token_id, token in self._added.items()
            if token["content"] not in _TEXT_MARKERS
        }

    @cached_property
    def content_ids(self) -> Mapping[str, int]:
        """Id of each content marker and tag of reasoning that the tokenizer has, by its text."""
        return {
            token["content"]: token_id
            for token_id, token in self._added.items()
            if token["content"] in _TEXT_MARKERS
        }

    @cached_property
    def think_ids(self) -> tuple[int, int] | None:
        """The ids of `<think>` and `</think>`; None if the tokenizer does not have both."""
        begin, end = map(self.content_ids.get, _THINK_TAGS)
        return None if begin is None or end is None else (begin, end)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that are omitted from the text of an answer; a content marker is never one of them."""
        return frozenset(i for i in self.control_ids.values() if self._added[i]["special"])

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches any control token in the text of a template."""
        names = sorted(self.control_ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._full.get_vocab_size(with_added_tokens=True))

    def control_id(self, name: str) -> int:
        """Id of the control token `name`.

        Raises:
            StartupError: The checkpoint has no such token.
        """
        try:
            return self.control_ids[name]
        except KeyError:
            raise StartupError(f"The checkpoint's tokenizer has no token {name}.") from None

    def encode_text(self, text: str, *, is_first: bool = False) -> list[int]:
        """Ids of literal text: of the added tokens, only content markers are ids. Thread-safe.

        `encode_batch_fast` releases the interpreter lock, which `encode` does not.

        Args:
            text: Any text.
            is_first: Whether a prompt begins with it; some tokenizers of the SentencePiece kind write a space
                before the first text.
        """
        encode = self._encode_short if len(text) <= _MAX_KEPT_CHARS else self._encode
        return list(encode(text, is_first))

    def _encode(self, text: str, is_first: bool) -> list[int]:  # noqa: FBT001  (a key of the cache)
        tokenizer = self._first_text if is_first else self._text_only
        [encoding] = tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        if any(name in text for name in self.content_ids):
            return [self._content_id_of.get(i, i) for i in ids]
        return ids

    @cached_property
    def _content_id_of(self) -> Mapping[int, int]:
        """The id of each content marker by its id in the tokenizer without other added tokens."""
        pairs = ((self._text_only.token_to_id(name), i) for name, i in self.content_ids.items())
        return {own_id: token_id for own_id, token_id in pairs if own_id is not None}

    def encode_answer(self, text: str) -> list[int]:
        """Ids of text as a model generates it: an added token that is not special is one id."""
        if self._plain_pattern is None:
            return self.encode_text(text)
        ids: list[int] = []
        for number, part in enumerate(self._plain_pattern.split(text)):
            ids += [self.control_ids[part]] if number % 2 else self.encode_text(part)
        return ids

    @cached_property
    def _plain_pattern(self) -> re.Pattern[str] | None:
        """Matches any control token that is not special, such as Qwen2.5's `<tool_call>`."""
        names = [name for name, i in self.control_ids.items() if not self._added[i]["special"]]
        names.sort(key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})") if names else None

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids, by default without special tokens."""
        return str(self._full.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """Ids with which every prompt begins, such as `<s>`; for most checkpoints none."""
        return self.affixes[0]

    @cached_property
    def affixes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that the checkpoint's tokenizer adds before and after a text; often none."""
        encoding = self._full.encode("x", add_special_tokens=True)
        is_text = [not special for special in encoding.special_tokens_mask]
        first, last = is_text.index(True), len(is_text) - is_text[::-1].index(True)
        return tuple(encoding.ids[:first]), tuple(encoding.ids[last:])

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Text of ids, special tokens by name; an incomplete character is U+FFFD."""
        table = self.all_token_bytes
        if table is None:
            return self.decode(token_ids, skip_special_tokens=False)
        return b"".join([table[i] for i in token_ids if i < len(table)]).decode("utf-8", "replace")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The part of the tokenizer that engines and output use."""
        return Vocabulary(
            token_bytes=self.all_token_bytes,
            special_ids=self.special_ids,
            content_ids=frozenset(self.content_ids.values()).difference(self.think_ids or ()),
            encode=self.encode_answer,
            decode=self.decode,
            size=self.vocab_size,
            think_ids=self.think_ids,
        )

    @cached_property
    def all_token_bytes(self) -> tuple[bytes, ...] | None:
        """UTF-8 bytes of every id's text; None unless the vocabulary is byte-level."""
        if not self._is_byte_level:
            return None
        unmap = _byte_level_alphabet()
        table = [b""] * (max(self._full.get_vocab(with_added_tokens=True).values()) + 1)
        for surface, token_id in self._text_only.get_vocab(with_added_tokens=False).items():
            if token_id not in self._added:
                table[token_id] = bytes(unmap[char] for char in surface if char in unmap)
        for token_id, token in self._added.items():
            table[token_id] = token["content"].encode()
        return tuple(table)


def load_tokenizer(folder: Path) -> PromptTokenizer:
    """Load a checkpoint's tokenizer: tokenizer.json, or vocab.json and merges.txt of the Qwen2 family.

    Raises:
        StartupError: The files are missing or cannot be read.
    """
    try:
        if (folder / "tokenizer.json").exists():
            return PromptTokenizer(Tokenizer.from_file(str(folder / "tokenizer.json")))
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            return PromptTokenizer(_from_vocab_and_merges(folder))
    except Exception as err:
        raise StartupError(f"The checkpoint's tokenizer files cannot be read: {err}") from err
    raise StartupError(
        "The checkpoint has neither tokenizer.json nor vocab.json with merges.txt. "
        "The transformers layout (-hf) of the same model has one."
    )


def _from_vocab_and_merges(folder: Path) -> Tokenizer:
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_regex(_QWEN2_PATTERN), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    table = config.get("added_tokens_decoder", {})
    for token_id, token in sorted(table.items(), key=lambda item: int(item[0])):
        _add_token(tokenizer, int(token_id), token)
    return tokenizer


def _prepend_scheme(definition: Mapping[str, Any]) -> str | None:
    """When the tokenizer writes a space before a text: "first", "always" or "never"; None for byte levels."""
    return (definition.get("pre_tokenizer") or {}).get("prepend_scheme")


def _marker(token: Mapping[str, Any]) -> AddedToken:
    """A content marker of `tokenizer.json`, which only its exact characters stand for."""
    options = {name: value for name, value in token.items() if name != "id"}
    return AddedToken(**{**options, "normalized": False})


def _regex(pattern: str) -> Any:  # noqa: ANN401 - tokenizers.Regex has no type stub
    from tokenizers import Regex  # noqa: PLC0415

    return Regex(pattern)


def _add_token(tokenizer: Tokenizer, token_id: int, token: Mapping[str, Any]) -> None:
    is_special = bool(token.get("special", False))
    add = tokenizer.add_special_tokens if is_special else tokenizer.add_tokens
    add([AddedToken(token["content"], special=is_special, normalized=False)])
    if tokenizer.token_to_id(token["content"]) != token_id:
        raise ValueError(f"added token {token['content']!r} does not get id {token_id}")


def _byte_level_alphabet() -> dict[str, int]:
    """The byte of each character of a byte-level vocabulary, as introduced with GPT-2's tokenizer.

    A printable Latin-1 byte is written as itself; the others are written as U+0100, U+0101, … in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet
