"""Token ids to text, as they come, never splitting a character.

Byte-level vocabularies (all Qwen2.5-based InternVL3) are decoded through a table of bytes and Python's
incremental UTF-8 decoder: exact, and one table look-up a token. Others go through the tokenizer's own
decode stream.
"""

import codecs
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from internvl_server.core.vocabulary import Vocabulary

__all__ = ["BytesDetokenizer", "Detokenizer", "WindowDetokenizer", "new_detokenizer"]


class Detokenizer(Protocol):
    """Turns the ids of one answer into text; the pieces concatenate to the one-shot decode."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that these ids complete; may be empty."""

    def flush(self) -> str:
        """The text that is left when no id will follow: an incomplete character becomes U+FFFD."""


def new_detokenizer(vocabulary: Vocabulary, *, skip_special_tokens: bool) -> Detokenizer:
    """The detokenizer of one answer."""
    if vocabulary.token_bytes is None:
        decode = partial(vocabulary.decode, skip_special_tokens=skip_special_tokens)
        return WindowDetokenizer(decode)
    skipped_ids = vocabulary.special_ids if skip_special_tokens else frozenset()
    return BytesDetokenizer(vocabulary.token_bytes, skipped_ids)


class BytesDetokenizer:
    """For byte-level vocabularies.

    Args:
        token_bytes: UTF-8 bytes of each id.
        skipped_ids: Ids that are left out of the text.
    """

    def __init__(
        self, token_bytes: Sequence[bytes], skipped_ids: frozenset[int] = frozenset()
    ) -> None:
        self._token_bytes = token_bytes
        self._skipped_ids = skipped_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that these ids complete. An id beyond the vocabulary (padding rows) has no text."""
        table, skipped = self._token_bytes, self._skipped_ids
        data = b"".join([table[i] for i in token_ids if i < len(table) and i not in skipped])
        return self._decoder.decode(data)

    def flush(self) -> str:
        """An incomplete character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For any vocabulary: decodes a short window of ids twice and takes the difference.

    Args:
        decode: One-shot decode of ids.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = 0  # the window's start: where the last emitted piece began
        self._emitted = 0  # ids whose text has been emitted

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that these ids complete; a trailing U+FFFD is held back: the character may be incomplete."""
        self._ids += token_ids
        before = self._decode(self._ids[self._start : self._emitted])
        after = self._decode(self._ids[self._start :])
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        self._start, self._emitted = self._emitted, len(self._ids)
        return after[len(before) :]

    def flush(self) -> str:
        """The text that was held back."""
        before = self._decode(self._ids[self._start : self._emitted])
        return self._decode(self._ids[self._start :])[len(before) :]
