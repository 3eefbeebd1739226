"""From the bytes of a body to validated wire objects, and what was ignored on the way."""

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.validation_errors import json_path, json_steps, raise_first
from internvl_server.protocol.wire import Wire

__all__ = ["read_object", "validate"]

W = TypeVar("W", bound=Wire)

# Unknown members are taken out in rounds: a wrong branch of a union can hide some from the first.
_MAX_ROUNDS = 8
# pydantic tells of all or none, and each takes time.
_MAX_ERRORS = 10_000


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object. CPU-bound for large bodies.

    Raises:
        InvalidRequestError: It is not JSON, or not an object.
    """
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as err:
        raise InvalidRequestError(
            "The body is not valid JSON (UTF-8, no NaN or Infinity, no half of a surrogate pair).",
            code="invalid_json",
        ) from err
    if not isinstance(value, dict):
        raise InvalidRequestError("The body must be a JSON object.", code="invalid_json")
    return value


def validate(
    model: type[W], fields: dict[str, Any], *, ignore_unknown: bool = False
) -> tuple[W, tuple[str, ...]]:
    """The wire object, and the JSON paths of members that were ignored.

    Args:
        model: What the fields must be.
        fields: May be changed: ignored members are taken out.
        ignore_unknown: Ignore members the model does not know instead of refusing them.

    Raises:
        InvalidRequestError: With the JSON path of the first thing that is wrong.
        UnsupportedParameterError: For a member that is not known.
    """
    ignored: list[str] = []
    for _ in range(_MAX_ROUNDS):
        try:
            return model.model_validate(fields), tuple(ignored)
        except ValidationError as err:
            if err.error_count() > _MAX_ERRORS:
                raise InvalidRequestError(
                    f"The body is wrong in more than {_MAX_ERRORS} places."
                ) from None
            unknown = [e for e in err.errors(include_url=False) if e["type"] == "extra_forbidden"]
            if not ignore_unknown or not unknown:
                raise_first(err)
            ignored += [_take_out(fields, error) for error in unknown]
    raise InvalidRequestError("The body has unknown members in too many places.")


def _take_out(fields: dict[str, Any], error: ErrorDetails) -> str:
    """Remove an unknown member and say where it was."""
    *way, name = json_steps(error["loc"], ends_in_member=True)
    holder: Any = fields
    for step in way:
        holder = holder[step]
    del holder[name]
    return json_path(error["loc"], ends_in_member=True)
