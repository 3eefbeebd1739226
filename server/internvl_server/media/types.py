"""Images and videos: their MIME types and their errors."""

from dataclasses import dataclass

from internvl_server import errors

__all__ = ["IMAGE", "VIDEO", "MediaError", "MediaType"]

MediaError = (errors.ImageError, errors.VideoError)

# The second is what S3 answers for an object without a type.
_UNNAMED_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})


@dataclass(frozen=True, slots=True)
class MediaType:
    """A kind of media.

    Attributes:
        label: Its name in messages and settings.
        mime_types: Accepted values of `Content-Type`; one that ends in `/` accepts all its subtypes.
    """

    label: str
    mime_types: tuple[str, ...]
    url_error: type[errors.InvalidRequestError]
    blocked_error: type[errors.InvalidRequestError]
    fetch_error: type[errors.InvalidRequestError]
    fetch_timeout_error: type[errors.InvalidRequestError]
    too_large_error: type[errors.InvalidRequestError]
    decode_error: type[errors.InvalidRequestError]

    def accepts(self, mime_type: str) -> bool:
        """Whether a file of a MIME type, in lower case without parameters, may be of this kind."""
        return mime_type in _UNNAMED_TYPES or any(
            mime_type.startswith(known) if known.endswith("/") else mime_type == known
            for known in self.mime_types
        )

    def over_limit(self, max_bytes: int, param: str | None = None) -> errors.InvalidRequestError:
        """The error for a file that is longer than `max_bytes`."""
        return self.too_large_error(
            f"The {self.label} is larger than {max_bytes} bytes, the limit "
            f"(media.max_{self.label}_bytes).",
            param=param,
        )


IMAGE = MediaType(
    label="image",
    mime_types=("image/", "image"),
    url_error=errors.ImageUrlError,
    blocked_error=errors.ImageBlockedError,
    fetch_error=errors.ImageFetchError,
    fetch_timeout_error=errors.ImageFetchTimeoutError,
    too_large_error=errors.ImageTooLargeError,
    decode_error=errors.ImageDecodeError,
)

VIDEO = MediaType(
    label="video",
    mime_types=("video/", "video", "image/gif"),
    url_error=errors.VideoUrlError,
    blocked_error=errors.VideoBlockedError,
    fetch_error=errors.VideoFetchError,
    fetch_timeout_error=errors.VideoFetchTimeoutError,
    too_large_error=errors.VideoTooLargeError,
    decode_error=errors.VideoDecodeError,
)
