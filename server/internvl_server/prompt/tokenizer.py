"""Text to token ids and back; control tokens are separate from text.

The checkpoint's file is split into a tokenizer without added tokens, which encodes all text literally (so
that `<|im_end|>` typed by a user is six ordinary tokens), and a table of the added tokens, which only the
template may write.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from internvl_server.core.vocabulary import Vocabulary
from internvl_server.errors import StartupError

__all__ = ["PromptTokenizer", "load_tokenizer"]

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
        text = tokenizer.to_str()
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        definition = json.loads(text)
        self._added: dict[int, dict[str, Any]] = {
            token["id"]: token for token in definition["added_tokens"]
        }
        definition["added_tokens"] = []
        definition["post_processor"] = None
        self._text_only = Tokenizer.from_str(json.dumps(definition))
        self._is_byte_level = "ByteLevel" in json.dumps(definition.get("decoder"))

    @cached_property
    def control_ids(self) -> Mapping[str, int]:
        """Id of every added token by its text; no text encodes to any of them."""
        return {token["content"]: token_id for token_id, token in self._added.items()}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that are omitted from the text of an answer."""
        return frozenset(i for i, token in self._added.items() if token["special"])

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches any added token in the text of a template."""
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

    def encode_text(self, text: str) -> list[int]:
        """Ids of literal text; never one of an added token. Thread-safe.

        `encode_batch_fast` releases the interpreter lock, which `encode` does not.
        """
        [encoding] = self._text_only.encode_batch_fast([text], add_special_tokens=False)
        return list(encoding.ids)

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
        """Matches any added token that is not special, such as Qwen2.5's `<tool_call>`."""
        names = [token["content"] for token in self._added.values() if not token["special"]]
        names.sort(key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})") if names else None

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids, by default without special tokens."""
        return str(self._full.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

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
            encode=self.encode_answer,
            decode=self.decode,
            size=self.vocab_size,
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


def _regex(pattern: str) -> Any:  # noqa: ANN401 - tokenizers.Regex has no type stub
    from tokenizers import Regex  # noqa: PLC0415

    return Regex(pattern)


def _add_token(tokenizer: Tokenizer, token_id: int, token: Mapping[str, Any]) -> None:
    is_special = bool(token.get("special", False))
    added = AddedToken(token["content"], special=is_special, normalized=False)
    add = tokenizer.add_special_tokens if is_special else tokenizer.add_tokens
    add([added])
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
