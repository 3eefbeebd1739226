"""An encoded image or video file, as it was fetched or as the client sent it."""

import hashlib
from dataclasses import dataclass
from typing import Self

__all__ = ["EncodedMedia"]


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """A file, or base64 text that only a decode worker should decode.

    `digest` is the SHA-256 of `data`. The same file has the same one, whether it was inline or fetched.
    """

    data: bytes
    is_base64: bool
    digest: bytes

    @classmethod
    def of(cls, data: bytes, *, is_base64: bool = False) -> Self:
        """Hash a file or a text. CPU-bound: about 1 ms per megabyte."""
        return cls(data, is_base64, hashlib.sha256(data).digest())
