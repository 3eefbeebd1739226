"""What an engine may know of the tokenizer: nothing but bytes and ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Vocabulary"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The text of every id.

    `token_bytes` holds UTF-8 bytes by id, parts of characters maybe; None when the vocabulary is not
    byte-level. Ids of `special_ids` stand for no text. `encode` gives ids of text as the model would
    write it, never one of `special_ids`; it may change the text's spelling (Unicode normalisation).
    """

    token_bytes: Sequence[bytes] | None
    special_ids: frozenset[int]
    encode: Callable[[str], list[int]]
