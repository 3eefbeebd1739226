"""Tools, tool choice and text format of `/v1/responses` on the wire."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag

from internvl_server.protocol.tools import MAX_ALLOWED, FunctionName
from internvl_server.protocol.wire import Wire

__all__ = [
    "AllowedFunctions",
    "FunctionChoice",
    "FunctionTool",
    "JsonObjectText",
    "JsonSchemaText",
    "TextConfig",
    "ToolChoice",
    "ToolMode",
]

ToolMode: TypeAlias = Literal["none", "auto", "required"]


def _kind(value: Any) -> str:  # noqa: ANN401  (any JSON value, or a wire object)
    if isinstance(value, str):
        return "~mode"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"~{kind}"


def _by_type(message: str) -> Discriminator:
    return Discriminator(_kind, custom_error_type="kind", custom_error_message=message)


def _only_false(value: bool) -> bool:  # noqa: FBT001  (the wire's value, as it came)
    if value:
        raise ValueError("tools are always loaded at once here; leave it out")
    return value


class FunctionTool(Wire):
    """A function the model may call."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    # What only hosted tools make a difference of, with the values that ask for nothing.
    allowed_callers: Annotated[list[Literal["direct"]], Field(fail_fast=True)] | None = None
    defer_loading: Annotated[bool, AfterValidator(_only_false)] | None = None


class FunctionChoice(Wire):
    """This function has to be called."""

    type: Literal["function"]
    name: FunctionName


class AllowedFunctions(Wire):
    """Only some of the tools may be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[
        list[FunctionChoice], Field(fail_fast=True, min_length=1, max_length=MAX_ALLOWED)
    ]


ToolChoice: TypeAlias = Annotated[
    Annotated[ToolMode, Tag("~mode")]
    | Annotated[FunctionChoice, Tag("~function")]
    | Annotated[AllowedFunctions, Tag("~allowed_tools")],
    _by_type(
        "It must be 'none', 'auto', 'required', or an object whose 'type' is 'function' or "
        "'allowed_tools'"
    ),
]


class PlainText(Wire):
    """Free text."""

    type: Literal["text"]


class JsonObjectText(Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaText(Wire):
    """JSON that fits a schema; answers are held to it whether `strict` is set or not."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"]
    name: FunctionName
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class TextConfig(Wire):
    """What the text of an answer must be."""

    format: (
        Annotated[
            Annotated[PlainText, Tag("~text")]
            | Annotated[JsonObjectText, Tag("~json_object")]
            | Annotated[JsonSchemaText, Tag("~json_schema")],
            _by_type(
                "It must be an object whose 'type' is one of 'text', 'json_object', 'json_schema'"
            ),
        ]
        | None
    ) = None
    verbosity: Literal["medium"] | None = None
