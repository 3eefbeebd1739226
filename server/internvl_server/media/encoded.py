"""An encoded image or video file, as it was fetched or as the client sent it."""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

__all__ = ["Base64Media", "BinaryMedia", "EncodedMedia"]


@dataclass(frozen=True, slots=True)
class BinaryMedia:
    """A file that was fetched."""

    data: bytes
    is_base64: ClassVar[bool] = False

    def to_bytes(self) -> bytes:
        """The file itself."""
        return self.data


@dataclass(frozen=True, slots=True)
class Base64Media:
    """The ASCII text of a `data:` URL; a decode worker decodes it."""

    text: str
    is_base64: ClassVar[bool] = True

    def to_bytes(self) -> bytes:
        """The base64 text. Copies it, so call it off the event loop."""
        return self.text.encode("ascii")


EncodedMedia: TypeAlias = BinaryMedia | Base64Media
