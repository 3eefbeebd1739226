"""Schemas as pydantic, Zod and programs write them, on every engine."""

import json
from datetime import date, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field

from tests.cases.asking import CaseServer, Reply, chat, load

Schema = dict[str, Any]


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Rating(BaseModel):
    stars: Annotated[int, Field(ge=1, le=5)]
    confidence: Annotated[float, Field(ge=0, le=1)]
    percent: Annotated[int, Field(ge=0, lt=101)]
    price: Annotated[float, Field(gt=0)]
    temperature: Annotated[float, Field(ge=-40.5, le=60)]


class Box(BaseModel):
    label: str
    box: Annotated[list[Annotated[int, Field(ge=0, le=1000)]], Field(min_length=4, max_length=4)]


class Circle(BaseModel):
    kind: Literal["circle"]
    radius: int


class Square(BaseModel):
    kind: Literal["square"]
    side: Annotated[int, Field(ge=0, le=9)]


class Drawing(BaseModel):
    shape: Annotated[Circle | Square, Field(discriminator="kind")]
    colour: Colour = Colour.RED
    level: Level
    title: str | None = None


class Formats(BaseModel):
    day: date
    at: datetime
    id: UUID
    amount: Decimal
    mail: Annotated[str, Field(json_schema_extra={"format": "email"})]
    tint: Annotated[str, Field(json_schema_extra={"format": "color-hex"})]


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    tags: set[str]
    scores: dict[str, int]
    pair: tuple[int, str]
    nested: list[Box]


SAFE = {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}


def closed(properties: Schema, **fields: Any) -> Schema:
    """An object as Zod writes it."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **fields,
    }


def stored_schema(name: str) -> Schema:
    return load(name)["response_format"]["json_schema"]["schema"]


def sentence(length: int) -> str:
    return ("A person walks past the door. " * 30)[:length]


BOX = {"label": "star", "box": [0, 10, 999, 1000]}
SCHEMAS: dict[str, tuple[Schema, Any]] = {
    "pydantic ratings": (
        Rating.model_json_schema(),
        {"stars": 5, "confidence": 0.25, "percent": 100, "price": 9.5, "temperature": -40.5},
    ),
    "pydantic box": (Box.model_json_schema(), BOX),
    "pydantic discriminated union": (
        Drawing.model_json_schema(),
        {"shape": {"kind": "square", "side": 7}, "colour": "blue", "level": 2, "title": None},
    ),
    "pydantic formats": (
        Formats.model_json_schema(),
        {
            "day": "2026-11-28",
            "at": "2026-11-28T10:00:00Z",
            "id": "12345678-1234-4234-8234-123456789012",
            "amount": "1.5",
            "mail": "a@example.com",
            "tint": "#ff0000",
        },
    ),
    "pydantic open object": (
        Loose.model_json_schema(),
        {"tags": ["a", "b"], "scores": {"x": 1}, "pair": [1, "a"], "nested": [BOX]},
    ),
    "Zod record": (
        closed(
            {
                "h": {
                    "type": "object",
                    "propertyNames": {"type": "string"},
                    "additionalProperties": {"type": "string"},
                }
            }
        ),
        {"h": {"a": "b"}},
    ),
    "Zod record of anything": (
        closed(
            {
                "h": {
                    "type": "object",
                    "propertyNames": {"type": "string"},
                    "additionalProperties": {},
                }
            }
        ),
        {"h": {"a": [1]}},
    ),
    "Zod integer": (closed({"n": SAFE, "m": {**SAFE, "minimum": 0}}), {"n": -3, "m": 4}),
    "Zod rating": (closed({"n": {"type": "integer", "minimum": 1, "maximum": 10}}), {"n": 10}),
    "Zod exclusive bounds": (
        closed({"n": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}}),
        {"n": 0.5},
    ),
    "Zod union": (
        closed(
            {
                "s": {
                    "oneOf": [
                        closed({"type": {"type": "string", "const": "a"}, "n": SAFE}),
                        closed({"type": {"type": "string", "const": "b"}, "t": {"type": "string"}}),
                    ]
                }
            }
        ),
        {"s": {"type": "b", "t": "x"}},
    ),
    "Zod nullable and default": (
        closed(
            {
                "a": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "b": {"default": 3, "type": "number"},
                "c": {"type": ["integer", "null"], "minimum": 0, "maximum": 3},
            }
        ),
        {"a": None, "b": 3, "c": None},
    ),
    "Zod mail": (
        closed(
            {
                "mail": {
                    "type": "string",
                    "format": "email",
                    "pattern": "^[A-Za-z0-9_+-]+@[A-Za-z0-9-]+\\.[A-Za-z]{2,}$",
                }
            }
        ),
        {"mail": "a@b.org"},
    ),
    "unique items": (
        closed({"t": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True, "maxItems": 2}}),
        {"t": ["a", "b"]},
    ),
    "step": (closed({"n": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 20}}), {"n": 15}),
    "any further property": (
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": True},
        {"a": 1, "b": "c"},
    ),
    "all of one": (
        {
            "$defs": {"c": {"type": "string", "enum": ["x", "y"]}},
            "type": "object",
            "properties": {"c": {"allOf": [{"$ref": "#/$defs/c"}], "description": "d"}},
            "required": ["c"],
        },
        {"c": "y"},
    ),
    "bounds of a stored case": (
        stored_schema("requests/schemas_bounds"),
        {"confidence": 1, "level": 2},
    ),
    "Frigate": (
        stored_schema("clients/frigate_review"),
        {
            "observations": [sentence(40)] * 3,
            "title": "A person",
            "scene": sentence(200),
            "shortSummary": sentence(80),
            "confidence": 0.9,
            "potential_threat_level": 0,
            "other_concerns": None,
            "time": None,
        },
    ),
}  # fmt: skip


def max_tokens(server: CaseServer) -> int:
    """Enough for a whole answer, of one token a character; the demo model may never end one."""
    return 60 if server.kind == "cpu" else 1200


def check(server: CaseServer, reply: Reply, text: str, schema: Schema) -> None:
    """A finished answer keeps the schema, or is refused where only the finished answer can be checked."""
    if server.kind == "cpu" and reply.finish_reason == "length":
        return
    assert reply.finish_reason in ("stop", "tool_calls")
    if reply.refusal:
        assert server.kind == "cpu"
        assert "only the finished answer is checked" in reply.warnings
        return
    assert list(Draft202012Validator(schema).iter_errors(json.loads(text))) == []
    if server.loop is not None:
        assert server.loop.calls[-1].grammar is not None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_keeps_the_schema(server: CaseServer, name: str, *, stream: bool) -> None:
    schema, example = SCHEMAS[name]
    assert list(Draft202012Validator(schema).iter_errors(example)) == []
    server.will_answer(json.dumps(example))
    json_schema = {"name": "r", "strict": True, "schema": schema}
    asked = {"type": "json_schema", "json_schema": json_schema}
    reply = server.answer(chat(response_format=asked, max_tokens=max_tokens(server), stream=stream))
    check(server, reply, reply.text, schema)


@pytest.mark.parametrize("strict", [None, False, True])
@pytest.mark.parametrize("name", SCHEMAS)
def test_arguments_keep_the_schema(server: CaseServer, name: str, strict: bool | None) -> None:
    schema, example = SCHEMAS[name]
    call = json.dumps({"name": "f", "arguments": example})
    server.will_answer(f"<tool_call>\n{call}\n</tool_call>")
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": strict}}
    reply = server.answer(chat(tools=[tool], tool_choice="required", max_tokens=max_tokens(server)))
    message = reply.whole["choices"][0]["message"]
    calls = message.get("tool_calls") or [{"function": {"arguments": "null"}}]
    check(server, reply, calls[0]["function"]["arguments"], schema)


def test_a_guided_schema_is_a_response_format(server: CaseServer) -> None:
    schema, example = SCHEMAS["Zod rating"]
    server.will_answer(json.dumps(example))
    reply = server.answer(chat(guided_json=schema, max_tokens=100))
    check(server, reply, reply.text, schema)
    assert reply.ignored == []
