"""The two kinds of media: what they are called, what they are sent as, and how each of them fails."""

from dataclasses import dataclass

from internvl_server import errors

__all__ = ["IMAGE", "VIDEO", "MediaError", "MediaType"]

MediaError = (errors.ImageError, errors.VideoError)


@dataclass(frozen=True, slots=True)
class MediaType:
    """`media_types` are what a sender may call it; one that ends in `/` admits all that begin so."""

    noun: str
    media_types: tuple[str, ...]
    url_error: type[errors.InvalidRequestError]
    blocked_error: type[errors.InvalidRequestError]
    fetch_error: type[errors.InvalidRequestError]
    fetch_timeout_error: type[errors.InvalidRequestError]
    too_large_error: type[errors.InvalidRequestError]
    decode_error: type[errors.InvalidRequestError]

    def admits(self, media_type: str) -> bool:
        """Whether a media type, in lower case without parameters, may be one of this kind."""
        return media_type in ("", "application/octet-stream") or any(
            media_type.startswith(known) if known.endswith("/") else media_type == known
            for known in self.media_types
        )

    def over_limit(self, max_bytes: int, param: str) -> errors.InvalidRequestError:
        """The error for one of too many bytes."""
        return self.too_large_error(
            f"The {self.noun} is larger than {max_bytes} bytes, the limit "
            f"(media.max_{self.noun}_bytes).",
            param=param,
        )


IMAGE = MediaType(
    noun="image",
    media_types=("image/",),
    url_error=errors.ImageUrlError,
    blocked_error=errors.ImageBlockedError,
    fetch_error=errors.ImageFetchError,
    fetch_timeout_error=errors.ImageFetchTimeoutError,
    too_large_error=errors.ImageTooLargeError,
    decode_error=errors.ImageDecodeError,
)

VIDEO = MediaType(
    noun="video",
    media_types=("video/", "image/gif"),
    url_error=errors.VideoUrlError,
    blocked_error=errors.VideoBlockedError,
    fetch_error=errors.VideoFetchError,
    fetch_timeout_error=errors.VideoFetchTimeoutError,
    too_large_error=errors.VideoTooLargeError,
    decode_error=errors.VideoDecodeError,
)
