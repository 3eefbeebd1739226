"""The text format of `/v1/responses`."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Tag

from internvl_server.core import Constraint
from internvl_server.protocol.response_format import json_constraint
from internvl_server.protocol.tools import FunctionName
from internvl_server.protocol.wire import Wire, discriminate_by_type

__all__ = ["TextConfig", "format_constraint"]


class PlainText(Wire):
    """Free text."""

    type: Literal["text"]


class JsonObjectText(Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaText(Wire):
    """JSON that fits a schema; `strict` matters where it cannot be enforced completely."""

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
            discriminate_by_type("text", "json_object", "json_schema"),
        ]
        | None
    ) = None
    verbosity: Literal["medium"] | None = None


def format_constraint(text: TextConfig) -> Constraint | None:
    """The constraint of `text.format`; None for free text."""
    if isinstance(text.format, JsonObjectText):
        return json_constraint(None, "text.format")
    if isinstance(text.format, JsonSchemaText):
        return json_constraint(text.format.schema_, "text.format", is_strict=text.format.strict)
    return None
