"""The tokenizer as engines and output see it: ids, their bytes and their text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["DecodeIds", "Vocabulary"]


class DecodeIds(Protocol):
    """Converts token ids to text."""

    def __call__(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of all ids."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The text of every id.

    `token_bytes` holds UTF-8 bytes by id, maybe parts of characters, and the names of special tokens; it is
    None when the vocabulary is not byte-level. Ids of `special_ids` stand for no text. Those of `content_ids`
    are markers in a text, such as `<ref>`, which a client may want left out. `encode` gives the ids
    of text as the model would write it, never one of `special_ids`; it may change the text's spelling
    (Unicode normalisation). `decode` gives the text of ids. `size` is the number of ids, added tokens
    included. `think_ids` are those of `<think>` and `</think>`; None if the model does not have both.
    `json_strings` has the text of ids as JSON strings, written once and used by every stream.
    """

    token_bytes: Sequence[bytes] | None
    special_ids: frozenset[int]
    content_ids: frozenset[int]
    encode: Callable[[str], list[int]]
    decode: DecodeIds
    size: int
    think_ids: tuple[int, int] | None = None
    json_strings: dict[int, bytes] = field(default_factory=dict, compare=False, repr=False)

    def bytes_of(self, token_id: int) -> bytes:
        """UTF-8 bytes of one id, maybe part of a character; the name of a special token."""
        if self.token_bytes is None:
            return self.decode((token_id,), skip_special_tokens=False).encode()
        return self.token_bytes[token_id] if token_id < len(self.token_bytes) else b""
