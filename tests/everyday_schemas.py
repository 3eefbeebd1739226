"""Schemas as pydantic, Zod and programs that use them write them, with values that fit and that do not."""

import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal

from pydantic import AnyUrl, BaseModel, ConfigDict, Field

__all__ = ["EVERYDAY"]


class Colour(enum.StrEnum):
    RED = "red"
    GREEN = "green"


class Review(BaseModel):
    """Bounds of all kinds."""

    rating: Annotated[int, Field(ge=1, le=5)]
    confidence: Annotated[float, Field(ge=0, le=1)]
    price: Annotated[float, Field(gt=0)]
    pages: Annotated[int, Field(gt=0, lt=2000)] = 1
    temperature: Annotated[int, Field(ge=-40, le=60)] | None = None
    discount: Annotated[int, Field(multiple_of=5, ge=0, le=95)] = 0
    title: Annotated[str, Field(min_length=3, max_length=80)]


class Box(BaseModel):
    """A box as grounding prompts ask for it."""

    label: str
    box: Annotated[list[Annotated[int, Field(ge=0, le=1000)]], Field(min_length=4, max_length=4)]


class Boxes(BaseModel):
    boxes: Annotated[list[Box], Field(max_length=20)]


class Contact(BaseModel):
    email: Annotated[str, Field(pattern=r"^.+@.+$")]
    phone: Annotated[str, Field(pattern=r"^\+?[0-9 ()-]{5,20}$")]
    site: AnyUrl
    id: uuid.UUID
    born: datetime.date
    seen: datetime.datetime
    colour: Colour
    tags: set[str]
    numbers: set[int]
    pair: tuple[int, str]
    extra: dict[str, Any]
    scores: dict[str, float]
    amount: decimal.Decimal


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Click(BaseModel):
    kind: Literal["click"]
    x: Annotated[int, Field(ge=0, le=1000)]
    y: Annotated[int, Field(ge=0, le=1000)]


class Write(BaseModel):
    kind: Literal["type"]
    text: Annotated[str, Field(min_length=1)]


class Action(BaseModel):
    """A union with a discriminator, which pydantic writes as `oneOf`."""

    action: Annotated[Click | Write, Field(discriminator="kind")]


class Open(BaseModel):
    """Other properties are allowed."""

    model_config = ConfigDict(extra="allow")

    name: str
    count: int = 0


class Loose(BaseModel):
    anything: Any
    either: int | str | None
    deep: list[list[float]]
    const: Literal[3]
    choice: Literal["a", "b", 1, None]


def _pydantic(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _zod(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


_ZOD_EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]"
    r"@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
)
_SAFE = {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}
_ID = "123e4567-e89b-12d3-a456-426614174000"

_CONTACT = {
    "email": "a@b", "phone": "+49 123 456", "site": "https://a.b/c", "id": _ID, "born": "2020-01-31",
    "seen": "2020-01-31T10:00:00Z", "colour": "red", "tags": ["a", "b"], "numbers": [1, 2], "pair": [1, "a"],
    "extra": {"a": [1]}, "scores": {"a": 0.5}, "amount": "1.5",
}  # fmt: skip

# name, schema, something that fits it, something that does not
EVERYDAY: list[tuple[str, dict[str, Any], Any, Any]] = [
    ("bounds", _pydantic(Review),
     {"rating": 5, "confidence": 0.25, "price": 1.5, "pages": 1999, "temperature": -40, "discount": 15,
      "title": "abc"},
     {"rating": 6, "confidence": 0.25, "price": 1.5, "title": "abc"}),
    ("boxes", _pydantic(Boxes), {"boxes": [{"label": "cat", "box": [0, 10, 999, 1000]}]},
     {"boxes": [{"label": "cat", "box": [0, 10, 999, 1001]}]}),
    ("contact", _pydantic(Contact), _CONTACT, _CONTACT | {"numbers": [1, 1]}),
    ("tree", _pydantic(Node), {"value": 1, "children": [{"value": 2, "children": []}]}, {"value": "1"}),
    ("actions", _pydantic(Action), {"action": {"kind": "click", "x": 0, "y": 1000}},
     {"action": {"kind": "click", "x": 0, "y": 1001}}),
    ("open", _pydantic(Open), {"name": "a", "count": 1}, {"name": 1}),
    ("loose", _pydantic(Loose),
     {"anything": {"a": 1}, "either": None, "deep": [[1.5]], "const": 3, "choice": "a"},
     {"anything": {"a": 1}, "either": None, "deep": [[1.5]], "const": 4, "choice": "a"}),
    ("zod record", _zod(
        {"labels": {"type": "object", "propertyNames": {"type": "string"},
                    "additionalProperties": {"type": "string"}}}),
     {"labels": {"a": "b"}}, {"labels": {"a": 1}}),
    ("zod formats", _zod(
        {"email": {"type": "string", "format": "email", "pattern": _ZOD_EMAIL},
         "code": {"type": "string", "format": "nanoid", "pattern": "^[a-zA-Z0-9_-]{21}$"},
         "kind": {"type": "string", "format": "emoji"}, "n": _SAFE}),
     {"email": "a.b@c.de", "code": "a" * 21, "kind": "x", "n": -5},
     {"email": "a..b@c.de", "code": "a" * 21, "kind": "x", "n": -5}),
    ("zod union", _zod(
        {"shape": {"oneOf": [
            _zod({"type": {"type": "string", "const": "circle"},
                  "radius": {"type": "number", "exclusiveMinimum": 0}}),
            _zod({"type": {"type": "string", "const": "square"}, "side": {"type": "number", "minimum": 1}})]},
         "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, ["shape"]),
     {"shape": {"type": "circle", "radius": 0.5}}, {"shape": {"type": "circle", "radius": 0}}),
    ("zod 3", {
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
        "properties": {
            "percent": {"type": "number", "minimum": 0, "maximum": 100},
            "above": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
            "pair": {"type": "array", "minItems": 2, "maxItems": 2,
                     "items": [{"type": "number"}, {"type": "string"}]},
            "both": {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
                               {"type": "object", "properties": {"b": {"type": "integer"}},
                                "required": ["b"]}]}},
        "required": ["percent", "above", "pair", "both"], "additionalProperties": False},
     {"percent": 12.5, "above": 0.5, "pair": [1, "a"], "both": {"a": "x", "b": 1}},
     {"percent": 12.5, "above": 0, "pair": [1, "a"], "both": {"a": "x", "b": 1}}),
    ("frigate", {
        "type": "object", "title": "ReviewMetadata", "properties": {
            "title": {"type": "string", "minLength": 3, "maxLength": 60},
            "scene": {"type": "string"},
            "confidence": {"type": "number", "minimum": 0.0, "maximum": 1.0},
            "potential_threat_level": {"type": "integer", "minimum": 0, "maximum": 2},
            "other_concerns": {"anyOf": [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}],
                               "default": None}},
        "required": ["title", "scene", "confidence", "potential_threat_level"]},
     {"title": "A cat", "scene": "x", "confidence": 0.9, "potential_threat_level": 0, "other_concerns": None},
     {"title": "A cat", "scene": "x", "confidence": 0.9, "potential_threat_level": 3}),
    ("browser use", {
        "type": "object", "properties": {
            "memory": {"type": "string"},
            "action": {"type": "array", "minItems": 1, "items": {"anyOf": [
                {"type": "object", "properties": {"click": {
                    "type": "object", "properties": {"index": {"type": "integer", "minimum": 1}},
                    "required": ["index"]}}, "required": ["click"]},
                {"type": "object", "properties": {"wait": {
                    "type": "object", "properties": {"seconds": {"type": "integer", "default": 3}}}},
                 "required": ["wait"]}]}}},
        "required": ["memory", "action"]},
     {"memory": "", "action": [{"click": {"index": 1}}, {"wait": {}}]},
     {"memory": "", "action": [{"click": {"index": 0}}]}),
    ("conditions", {
        "type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}},
     {"b": "x"}, {}),
]  # fmt: skip
