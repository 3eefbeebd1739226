"""`response_format` and `structured_outputs`: their wire types, and the constraints they stand for."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field

from internvl_server.core import Constraint, Grammar, Regex
from internvl_server.core import JsonSchema as JsonSchemaConstraint
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.fields import Foreign
from internvl_server.protocol.fields.foreign import CONSTRAINT
from internvl_server.protocol.parsing import read_object
from internvl_server.protocol.wire import Wire

__all__ = [
    "ResponseFormat",
    "StructuredOutputs",
    "format_constraint",
    "json_constraint",
    "structured_constraint",
]

_MAX_CHOICES = 256


class TextFormat(Wire):
    """Free text."""

    type: Literal["text"]


class JsonObjectFormat(Wire):
    """Any JSON object, or with a schema, as llama.cpp has it, JSON that fits the schema."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_object"]
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class RegexFormat(Wire):
    """LMDeploy's format: text that fits a regular expression."""

    type: Literal["regex_schema"]
    regex_schema: Annotated[str, Field(min_length=1)]


class JsonSchema(Wire):
    """A JSON schema with a name; `strict` matters where it cannot be enforced completely."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(Wire):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


def _with_named_schema(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    """llama.cpp's form of a JSON schema, which has no name, as OpenAI's form."""
    is_named = not isinstance(value, dict) or value.get("json_schema") is not None
    if is_named or value.get("type") != "json_schema" or "schema" not in value:
        return value
    named = {"name": "schema", "schema": value["schema"]}
    return {k: v for k, v in value.items() if k != "schema"} | {"json_schema": named}


ResponseFormat: TypeAlias = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat,
    Field(discriminator="type"),
    BeforeValidator(_with_named_schema),
]

# A constraint may have this many characters together.
Choice: TypeAlias = Annotated[str, Field(max_length=65_536)]


class StructuredOutputs(Wire):
    """vLLM's field for guided decoding; at most one member is given."""

    model_config = ConfigDict(serialize_by_alias=True)
    foreign: ClassVar[Mapping[str, Foreign]] = CONSTRAINT

    json_: Annotated[Any, Field(alias="json")] = None
    json_object: bool | None = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    choice: (
        Annotated[list[Choice], Field(fail_fast=True, min_length=1, max_length=_MAX_CHOICES)] | None
    ) = None
    grammar: Annotated[str, Field(min_length=1)] | None = None


def json_constraint(
    schema: dict[str, Any] | None, param: str, *, is_strict: bool | None = False
) -> JsonSchemaConstraint:
    """Constrain an answer to a schema; to any JSON object when there is none."""
    return JsonSchemaConstraint(
        {"type": "object"} if schema is None else schema, param, bool(is_strict)
    )


def format_constraint(response_format: ResponseFormat | None) -> Constraint | None:
    """The constraint of a `response_format`; None for free text."""
    if isinstance(response_format, JsonObjectFormat):
        return json_constraint(response_format.schema_, "response_format")
    if isinstance(response_format, JsonSchemaFormat):
        schema = response_format.json_schema
        return json_constraint(schema.schema_, "response_format", is_strict=schema.strict)
    if isinstance(response_format, RegexFormat):
        return Regex(response_format.regex_schema, "response_format")
    return None


def structured_constraint(outputs: StructuredOutputs) -> Constraint | None:
    """The constraint of `structured_outputs`; None if no member asks for one.

    Raises:
        InvalidRequestError: Several members are given, or `json` is a string that is not a JSON
            schema.
    """
    given = {
        name: value
        for name, value in outputs.model_dump().items()
        if value is not None and value is not False
    }
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequestError(
            "'structured_outputs' must have only one of 'json', 'json_object', 'regex', 'choice' "
            f"and 'grammar'; it has {len(given)}.",
            param="structured_outputs",
        )
    [(name, value)] = given.items()
    param = f"structured_outputs.{name}"
    if name == "json":
        return json_constraint(_schema(value), param, is_strict=True)
    if name == "json_object":
        return json_constraint(None, param)
    if name == "choice":
        return Regex("|".join(f"({re.escape(choice)})" for choice in value), param)
    return Regex(value, param) if name == "regex" else Grammar(value, param)


def _schema(value: Any) -> dict[str, Any]:  # noqa: ANN401  (any JSON value)
    schema = value
    if isinstance(value, str):
        try:
            schema = read_object(value)
        except InvalidRequestError:
            schema = None
    if not isinstance(schema, dict):
        raise InvalidRequestError(
            "'structured_outputs.json' must be a JSON schema, as an object or as its JSON text.",
            param="structured_outputs.json",
        )
    return schema
