"""An encoded image or video file, as it was fetched or as the client sent it."""

from dataclasses import dataclass

__all__ = ["EncodedMedia"]


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """The bytes of an image or video file; a str is their base64, which a worker reads."""

    data: bytes | str
