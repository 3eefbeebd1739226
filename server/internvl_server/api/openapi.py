"""Completes FastAPI's OpenAPI document with the schemas of bodies and errors."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from internvl_server.api.errors import dialect_of_path
from internvl_server.concurrency.offload import offload
from internvl_server.protocol.dialects import MESSAGES

__all__ = ["install_openapi", "json_body"]

_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MESSAGES_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message", "details"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "details": {
                    "type": "object",
                    "required": ["error_code", "param"],
                    "properties": {
                        "error_code": {"type": ["string", "null"]},
                        "param": {"type": ["string", "null"]},
                    },
                },
            },
        },
        "request_id": {"type": "string"},
    },
}
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})


def json_body(model: type[BaseModel], *, streams: bool = False) -> dict[str, Any]:
    """The `openapi_extra` of a route that parses its body itself.

    Args:
        model: The body's schema.
        streams: Whether the answer can also be server-sent events.
    """
    schema = model.model_json_schema()
    extra: dict[str, Any] = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
    }
    if streams:
        content: dict[str, Any] = {"text/event-stream": {"schema": {}}}
        extra["responses"] = {"200": {"content": content}}
    return extra


def install_openapi(app: FastAPI, *, is_served: bool = True) -> None:
    """Make the app's document, with references resolved and errors described.

    Args:
        app: Has all other routes.
        is_served: Whether `/openapi.json` shows it.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate())
        return app.openapi_schema

    async def document() -> JSONResponse:
        return JSONResponse(await offload(app.openapi))  # 0.1 s the first time

    app.openapi = openapi  # type: ignore[method-assign]
    if is_served:
        app.add_api_route("/openapi.json", document, include_in_schema=False)


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for path, operation in _operations(document):
        error = _error("MessagesError" if dialect_of_path(path) is MESSAGES else "Error")
        body = operation.get("requestBody", {}).get("content", {})
        for content in body.values():
            schemas.update(content["schema"].pop("$defs", {}))
        operation["responses"].pop("422", None)  # this server answers 400
        operation["responses"]["4XX"] = operation["responses"]["5XX"] = error
    schemas |= {"Error": _ERROR_SCHEMA, "MessagesError": _MESSAGES_ERROR_SCHEMA}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    completed: dict[str, Any] = _hoisted(document)
    return completed


def _error(name: str) -> dict[str, Any]:
    return {
        "description": "The request was refused or failed.",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in _METHODS:
                yield path, operation


def _hoisted(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    """Rewrite references to a schema's own definitions as references to the components."""
    if isinstance(value, dict):
        return {key: _hoisted(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_hoisted(member) for member in value]
    if isinstance(value, str) and value.startswith("#/$defs/"):
        return value.replace("#/$defs/", "#/components/schemas/")
    return value
