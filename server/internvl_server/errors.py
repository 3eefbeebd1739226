"""The exceptions of the server, as one tree. They do not depend on HTTP.

ServerError
├── InvalidRequestError              the request itself is wrong
│   ├── UnsupportedParameterError    a field this server does not implement
│   ├── ContextLengthExceededError   the prompt does not fit the model
│   ├── RequestTooLargeError         the body is larger than the limit
│   ├── RequestHeadTooLargeError     URL and headers are larger than the limit
│   ├── UrlTooLongError              the URL alone is longer than the limit
│   ├── UnsupportedMediaTypeError    the body is not plain JSON
│   ├── ImageError                   one image cannot be used
│   │   ├── ImageUrlError            the URL is malformed or its scheme unsupported
│   │   ├── ImageBlockedError        the address is not allowed
│   │   ├── ImageFetchError          the host did not deliver it
│   │   │   └── ImageFetchTimeoutError
│   │   ├── ImageTooLargeError       bytes, pixels or aspect ratio over the limit
│   │   └── ImageDecodeError         truncated, corrupt or unknown bytes
│   └── VideoError                   one video cannot be used; subclasses as for images
│       ├── VideoUrlError
│       ├── VideoBlockedError
│       ├── VideoFetchError
│       │   └── VideoFetchTimeoutError
│       ├── VideoTooLargeError       also: too long, or too many frames
│       └── VideoDecodeError
├── AuthenticationError
├── ModelNotFoundError
├── RouteNotFoundError
├── MethodNotAllowedError
├── RequestTimeoutError              the client did not send its request in time
├── DeadlineError                    the answer was not finished in time
├── EngineOverloadedError            no capacity now; not executed, safe to retry
├── EngineUnavailableError           starting or down; not executed
│   └── ShuttingDownError            the process ends; not executed, or not to its end
├── EngineError                      the engine failed while working
└── StartupError                     settings or checkpoint cannot be served

`api/errors.py` maps these to HTTP statuses; `cli/` turns `StartupError` into an exit.

Stages after parsing serve several API dialects, which name the same field differently. They refer to
a field by its `Field`; `protocol/dialects.py` replaces it by the name the client's dialect uses.
"""

from collections.abc import Callable
from enum import Enum
from typing import TypeAlias

__all__ = [
    "AuthenticationError",
    "ContextLengthExceededError",
    "DeadlineError",
    "EngineError",
    "EngineOverloadedError",
    "EngineUnavailableError",
    "Field",
    "ImageBlockedError",
    "ImageDecodeError",
    "ImageError",
    "ImageFetchError",
    "ImageFetchTimeoutError",
    "ImageTooLargeError",
    "ImageUrlError",
    "InvalidRequestError",
    "MethodNotAllowedError",
    "ModelNotFoundError",
    "RequestHeadTooLargeError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "RouteNotFoundError",
    "ServerError",
    "ShuttingDownError",
    "StartupError",
    "UnsupportedMediaTypeError",
    "UnsupportedParameterError",
    "UrlTooLongError",
    "VideoBlockedError",
    "VideoDecodeError",
    "VideoError",
    "VideoFetchError",
    "VideoFetchTimeoutError",
    "VideoTooLargeError",
    "VideoUrlError",
]


class Field(Enum):
    """A request field that API dialects name differently. The value is the name in most of them."""

    PROMPT = "prompt"
    MAX_TOKENS = "max_tokens"
    LOGPROBS = "logprobs"
    TOOLS = "tools"
    TOOL_CHOICE = "tool_choice"


Text: TypeAlias = str | Field
"""Literal text, or a field whose name depends on the dialect."""


class ServerError(Exception):
    """The root of the tree.

    Args:
        message: For the client: what was wrong, what is allowed, what to do, in one or more pieces that
            are joined; a `Field` is shown as its quoted name. Never a path, an address or a traceback.
        param: The offending field: a `Field`, the client's own JSON path, such as
            `messages[2].content[0].image_url`, or a field followed by steps below it.
        code: Overrides the code of the class in the error table.
    """

    def __init__(
        self,
        *message: Text,
        param: Text | tuple[Text, ...] | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(*message)
        self.param = param
        self.code = code

    @property
    def message(self) -> str:
        """The message with the usual names of fields."""
        return self.message_for(lambda field: field.value)

    def message_for(self, name_of: Callable[[Field], str]) -> str:
        """The message in a dialect.

        Args:
            name_of: The dialect's name of a field.
        """
        return "".join(
            f"'{name_of(piece)}'" if isinstance(piece, Field) else piece for piece in self.args
        )

    def param_for(self, name_of: Callable[[Field], str]) -> str | None:
        """The JSON path of the offending field in a dialect; None when no field is at fault."""
        if self.param is None:
            return None
        steps = self.param if isinstance(self.param, tuple) else (self.param,)
        return "".join(name_of(step) if isinstance(step, Field) else step for step in steps)

    def __str__(self) -> str:
        return self.message


class InvalidRequestError(ServerError):
    """The request itself is wrong; sending it again cannot help."""


class UnsupportedParameterError(InvalidRequestError):
    """A field that this server or its engine does not implement."""


class ContextLengthExceededError(InvalidRequestError):
    """The prompt does not fit the model's context."""


class RequestTooLargeError(InvalidRequestError):
    """The body is larger than the limit."""


class RequestHeadTooLargeError(InvalidRequestError):
    """URL and headers, or the framing of the body's chunks, are larger than the limit."""


class UrlTooLongError(InvalidRequestError):
    """The URL is longer than the limit."""


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body is not plain JSON."""


class ImageError(InvalidRequestError):
    """One image of the request cannot be used; `param` names it."""


class ImageUrlError(ImageError):
    """The image's URL is malformed, or its scheme is not supported."""


class ImageBlockedError(ImageError):
    """The server may not connect to the image's address."""


class ImageFetchError(ImageError):
    """The image's host did not deliver it."""


class ImageFetchTimeoutError(ImageFetchError):
    """The image's host did not deliver it in time."""


class ImageTooLargeError(ImageError):
    """The image has more bytes or pixels, or a more extreme shape, than the limits allow."""


class ImageDecodeError(ImageError):
    """The image's bytes are truncated, corrupt or of an unknown format."""


class VideoError(InvalidRequestError):
    """One video of the request cannot be used; `param` names it."""


class VideoUrlError(VideoError):
    """The video's URL is malformed, or its scheme is not supported."""


class VideoBlockedError(VideoError):
    """The server may not connect to the video's address."""


class VideoFetchError(VideoError):
    """The video's host did not deliver it."""


class VideoFetchTimeoutError(VideoFetchError):
    """The video's host did not deliver it in time."""


class VideoTooLargeError(VideoError):
    """The video has more bytes, pixels, seconds or frames than the limits allow."""


class VideoDecodeError(VideoError):
    """The video's bytes are truncated, corrupt, without a video stream, or of an unknown format."""


class AuthenticationError(ServerError):
    """The key is missing or wrong."""


class ModelNotFoundError(ServerError):
    """The request names a model that this server does not have."""


class RouteNotFoundError(ServerError):
    """The path does not exist."""


class MethodNotAllowedError(ServerError):
    """The path does not support the method."""


class RequestTimeoutError(ServerError):
    """The client did not send its request in time."""


class DeadlineError(ServerError):
    """The answer was not finished in time, and was aborted."""


class EngineOverloadedError(ServerError):
    """There is no capacity now. The request was not executed and may be sent again.

    Args:
        message, param: As for `ServerError`.
        retry_after_s: Seconds after which that may help.
    """

    def __init__(
        self,
        *message: Text,
        param: Text | tuple[Text, ...] | None = None,
        retry_after_s: int = 1,
    ) -> None:
        super().__init__(*message, param=param)
        self.retry_after_s = retry_after_s


class EngineUnavailableError(ServerError):
    """The engine is starting or down. The request was not executed."""


class ShuttingDownError(EngineUnavailableError):
    """The server is being stopped: it takes no new requests, or ends one that has taken too long."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down. Try another replica.")


class EngineError(ServerError):
    """The engine failed while working on the request."""


class StartupError(ServerError):
    """The settings or the checkpoint cannot be used; the message says why and what to change."""
