"""The base of all wire objects, and what several of them share."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    model_validator,
)

from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.fields import DefinedNames, Foreign, NestedMembers

__all__ = [
    "ImageDetail",
    "MaxTiles",
    "MaxTokens",
    "ServiceTier",
    "StreamOptions",
    "TextOr",
    "Wire",
    "check_stream_options",
    "discriminate_by_type",
]

ImageDetail = Annotated[
    Literal["low", "medium", "auto", "high", "original"] | None,
    BeforeValidator(lambda value: None if value == "" else value),
]
MaxTiles = Annotated[int, Field(ge=1, le=40)]
MaxTokens = Annotated[int, Field(ge=1, le=2**63 - 1)]
ServiceTier = Literal["auto", "default"]


def _allow_unknown(schema: dict[str, Any]) -> None:
    """Leave unknown members open in the published schema: most are accepted, and named as ignored."""
    schema.pop("additionalProperties", None)


class Wire(BaseModel):
    """The base of all wire objects: no coercion between JSON types, no unknown member."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra=_allow_unknown,
    )

    foreign: ClassVar[Mapping[str, Foreign]] = {}
    """Members that other servers define."""

    @model_validator(mode="before")
    @classmethod
    def _keep_known_members(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401  (any JSON value)
        if isinstance(value, dict) and isinstance(info.context, NestedMembers):
            return info.context.known_members(value, _defined_names(cls))
        return value


@cache
def _defined_names(model: type[Wire]) -> DefinedNames:
    names = frozenset(info.alias or name for name, info in model.model_fields.items())
    return DefinedNames(names, model.foreign)


def _branch_of_text_or_list(value: Any) -> str | None:  # noqa: ANN401  (any JSON value)
    if isinstance(value, str):
        return "~text"
    return "~list" if isinstance(value, list) else None


_List = TypeVar("_List")

# Names of union branches begin with `~`, which keeps them out of the JSON paths of errors.
TextOr: TypeAlias = Annotated[
    Annotated[str, Tag("~text")] | Annotated[_List, Tag("~list")],
    Discriminator(
        _branch_of_text_or_list,
        custom_error_type="text_or_list",
        custom_error_message="It must be a string or a list",
    ),
]
"""A text, or a list of the given type."""


def _branch_by_type(value: Any) -> str:  # noqa: ANN401  (any JSON value, or a wire object)
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"~{kind}"


def discriminate_by_type(*allowed: str) -> Discriminator:
    """Tell the branches of a union by `type`; their tags are the type's names with `~` before them.

    Args:
        allowed: The names of the types.
    """
    names = ", ".join(f"'{name}'" for name in allowed)
    return Discriminator(
        _branch_by_type,
        custom_error_type="unknown_type",
        custom_error_message=f"It must be an object whose 'type' is one of {names}",
    )


class StreamOptions(Wire):
    """Options of a stream."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """Each chunk has the usage so far: an extension that vLLM and SGLang have too."""
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
