"""The base of all wire objects, and what several of them share."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from internvl_server.errors import InvalidRequestError

__all__ = [
    "MaxTokens",
    "ServiceTier",
    "StreamOptions",
    "Wire",
    "check_stream_options",
]

# More members than any wire object has. Each unknown member is a validation error, which takes time.
_MAX_MEMBERS = 64

MaxTokens = Annotated[int, Field(ge=1, le=2**63 - 1)]
ServiceTier = Literal["auto", "default"]


class Wire(BaseModel):
    """The base of all wire objects: no coercion between JSON types, no unknown member."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _check_num_members(cls, value: Any) -> Any:  # noqa: ANN401  (any JSON value)
        if isinstance(value, dict) and len(value) > _MAX_MEMBERS:
            raise PydanticCustomError(
                "too_many_members",
                "It has {count} members; at most {limit} are allowed",
                {"count": len(value), "limit": _MAX_MEMBERS},
            )
        return value


class StreamOptions(Wire):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


def check_stream_options(options: Wire | None, *, stream: bool | None) -> None:
    """Check that options of a stream are given only with `stream`.

    Raises:
        InvalidRequestError: They are given for an answer that is not streamed.
    """
    if options is not None and not stream:
        raise InvalidRequestError(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
