"""Token ids to text, as they come, never splitting a character.

Byte-level vocabularies (all Qwen2.5-based InternVL3) are decoded through a table of bytes and Python's
incremental UTF-8 decoder: exact, and one table look-up a token. Others go through the tokenizer's own
decode stream.
"""

from collections.abc import Sequence
from encodings.utf_8 import IncrementalDecoder
from functools import partial
from json.encoder import encode_basestring
from typing import Protocol

from internvl_server.core.vocabulary import DecodeIds, Vocabulary

__all__ = ["BytesDetokenizer", "Detokenizer", "WindowDetokenizer", "json_string", "new_detokenizer"]


class Detokenizer(Protocol):
    """Turns the ids of one answer into text; the pieces concatenate to the one-shot decode."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that these ids complete; may be empty."""

    def push_json(self, token_ids: Sequence[int]) -> bytes:
        """As `push`, as an encoded JSON string; empty for no text."""

    def flush(self) -> str:
        """The text that is left when no id will follow: an incomplete character becomes U+FFFD."""


def json_string(text: str) -> bytes:
    """Text as an encoded JSON string; empty for no text."""
    return encode_basestring(text).encode() if text else b""


def new_detokenizer(vocabulary: Vocabulary, *, skip_special_tokens: bool | None) -> Detokenizer:
    """The detokenizer of one answer; None leaves out special tokens but not content markers."""
    skipped_ids = frozenset() if skip_special_tokens is False else vocabulary.special_ids
    if skip_special_tokens:
        skipped_ids |= vocabulary.content_ids
    if vocabulary.token_bytes is None:
        return WindowDetokenizer(vocabulary.decode, skipped_ids)
    return BytesDetokenizer(vocabulary.token_bytes, skipped_ids, vocabulary.json_strings)


class BytesDetokenizer:
    """For byte-level vocabularies.

    Args:
        token_bytes: UTF-8 bytes of each id.
        skipped_ids: Ids that are left out of the text.
        json_strings: Shared by all detokenizers of a vocabulary, which fill it.
    """

    __slots__ = (
        "_decoder", "_json_strings", "_skipped_ids", "_token_bytes",
    )  # fmt: skip

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        skipped_ids: frozenset[int] = frozenset(),
        json_strings: dict[int, bytes] | None = None,
    ) -> None:
        self._token_bytes = token_bytes
        self._skipped_ids = skipped_ids
        self._json_strings = {} if json_strings is None else json_strings
        self._decoder = IncrementalDecoder("replace")

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that these ids complete. An id beyond the vocabulary (padding rows) has no text."""
        table, skipped = self._token_bytes, self._skipped_ids
        data = b"".join([table[i] for i in token_ids if i < len(table) and i not in skipped])
        return self._decoder.decode(data)

    def push_json(self, token_ids: Sequence[int]) -> bytes:
        """As `push`. For a single token that is whole characters, nearly all of them, it is a look-up."""
        if len(token_ids) == 1 and not self._decoder.buffer:
            token_id = token_ids[0]
            if token_id in self._skipped_ids:
                return b""
            text = self._json_strings.get(token_id)
            if text is None:
                text = self._json_strings[token_id] = self._whole_text(token_id)
            if text:
                return text
        return json_string(self.push(token_ids))

    def _whole_text(self, token_id: int) -> bytes:
        """The JSON string of a token; empty if it is part of a character or has no text."""
        data = self._token_bytes[token_id] if token_id < len(self._token_bytes) else b""
        try:
            return json_string(data.decode())
        except UnicodeDecodeError:
            return b""

    def flush(self) -> str:
        """An incomplete character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For any vocabulary: decodes a short window of ids twice and takes the difference.

    Args:
        decode: One-shot decode of ids.
        skipped_ids: Ids that are left out of the text.
    """

    def __init__(self, decode: DecodeIds, skipped_ids: frozenset[int] = frozenset()) -> None:
        self._decode = partial(decode, skip_special_tokens=False)
        self._skipped_ids = skipped_ids
        self._ids: list[int] = []
        self._start = 0  # the window's start: where the last emitted piece began
        self._emitted = 0  # ids whose text has been emitted

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that these ids complete; a trailing U+FFFD is held back: the character may be incomplete."""
        self._ids += [i for i in token_ids if i not in self._skipped_ids]
        before = self._decode(self._ids[self._start : self._emitted])
        after = self._decode(self._ids[self._start :])
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        self._start, self._emitted = self._emitted, len(self._ids)
        return after[len(before) :]

    def push_json(self, token_ids: Sequence[int]) -> bytes:
        """As `push`, as a JSON string."""
        return json_string(self.push(token_ids))

    def flush(self) -> str:
        """The text that was held back."""
        before = self._decode(self._ids[self._start : self._emitted])
        return self._decode(self._ids[self._start :])[len(before) :]
