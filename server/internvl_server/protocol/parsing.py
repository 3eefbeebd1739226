"""From the bytes of a body to validated wire objects."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from internvl_server.core import AnswerParams, Conversation, SamplingParams
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.fields import NestedMembers, shown_name
from internvl_server.protocol.wire import Wire

__all__ = ["ParsedRequest", "read_object", "validate"]

W = TypeVar("W", bound=Wire)

# pydantic reports all errors or none, and each takes time.
_MAX_ERRORS = 10_000
_MAX_NAME_CHARS = 8192

# Names of union branches that pydantic puts into a location although the JSON does not have them.
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_PART_TYPES = frozenset(
    {"text", "image_url", "video_url", "video", "refusal"}
    | {"reasoning", "thinking", "redacted_thinking"}
)
_UNION_FIELDS = frozenset({"response_format"})
_TAG_ERRORS = frozenset({"union_tag_invalid", "union_tag_not_found"})
_MISSING = frozenset({"missing", "union_tag_not_found"})
_TYPES = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "list_type": "a list",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_type": "a string",
}
# pydantic's "Input should be …", "List should have …".
_SUBJECT = re.compile(r"\w+ should")


# A union of types would be made anew for each value.
_CHECKED = (dict, list, float)


@dataclass(frozen=True, slots=True)
class ParsedRequest(Generic[W]):
    """A valid request: its body, what the stages take from it, and the JSON paths that were ignored."""

    body: W
    conversation: Conversation
    sampling: SamplingParams
    answer: AnswerParams
    ignored: tuple[str, ...] = ()


def read_object(body: bytes | str) -> dict[str, Any]:
    """Parse a JSON object. CPU-bound for large bodies.

    Raises:
        InvalidRequestError: It is not JSON, or not an object; or it has a number that is too large for a
            float (JSON has no infinity, so that it could be in no answer and no prompt) or a very long name.
    """
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as err:
        raise InvalidRequestError(
            f"The body is not valid JSON (UTF-8, no NaN or Infinity, no lone surrogates): {err}.",
            code="invalid_json",
        ) from err
    if not isinstance(value, dict):
        raise InvalidRequestError("The body must be a JSON object.", code="invalid_json")
    _check_values(value, ())
    return value


def _check_values(value: Any, steps: tuple[int | str, ...]) -> None:  # noqa: ANN401  (any JSON value)
    """Refuse what no later stage expects: infinite numbers, and names of members that are whole texts."""
    if isinstance(value, float):
        if math.isinf(value):
            raise _invalid_value(steps, "the number is too large")
        return
    items: Iterable[tuple[int | str, Any]] = ()
    if isinstance(value, dict):
        if max(map(len, value), default=0) > _MAX_NAME_CHARS:
            raise _invalid_value(steps, f"a name has more than {_MAX_NAME_CHARS} characters")
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        if isinstance(item, _CHECKED):
            _check_values(item, (*steps, key))


def _invalid_value(steps: tuple[int | str, ...], reason: str) -> InvalidRequestError:
    path = _json_path(list(steps))
    message = (
        f"Invalid value for '{path}': {reason}." if path else f"The body is invalid: {reason}."
    )
    return InvalidRequestError(message, param=path or None, code="invalid_value")


def validate(
    model: type[W], fields: dict[str, Any], *, ignore_unknown: bool = False
) -> tuple[W, tuple[str, ...]]:
    """The wire object, and the JSON paths of members that were ignored.

    Args:
        model: What the fields must be.
        fields: The object's members.
        ignore_unknown: Ignore members that the model does not have instead of refusing them.

    Raises:
        InvalidRequestError: With the JSON path of the first violation.
        UnsupportedParameterError: For a member that is not implemented and not neutral, and for one that is
            probably misspelt.
    """
    nested = NestedMembers(ignore_unknown=ignore_unknown)
    try:
        made = model.model_validate(fields, context=nested)
    except ValidationError as err:
        if err.error_count() > _MAX_ERRORS:
            raise InvalidRequestError(
                f"The body is invalid in more than {_MAX_ERRORS} places."
            ) from None
        _raise_first(err)
    return made, nested.ignored_paths(fields)


def _raise_first(error: ValidationError) -> NoReturn:
    """Raise the first violation as an error of this server."""
    first = error.errors(include_url=False, include_context=True)[0]
    path = _json_path(_json_steps(first["loc"]))
    if first["type"] in _TAG_ERRORS:
        path += "." + str(first.get("ctx", {}).get("discriminator", "")).strip("'")
    if first["type"] in _MISSING:
        raise InvalidRequestError(
            f"Missing required parameter: '{path}'.",
            param=path,
            code="missing_required_parameter",
        ) from error
    raise InvalidRequestError(
        f"Invalid value for '{path}': {_reason(first)}.", param=path, code="invalid_value"
    ) from error


def _json_path(steps: list[int | str]) -> str:
    """Write `["messages", 0, "content", 1]` as `messages[0].content[1]`."""
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{shown_name(step)}" if path else shown_name(step)
    return path


def _json_steps(location: tuple[int | str, ...]) -> list[int | str]:
    """The keys and indices of a location, without the names of union branches.

    Args:
        location: pydantic's, such as `("messages", 0, "user", "content", "~list", 1)`.
    """
    steps: list[int | str] = []
    for depth, step in enumerate(location):
        # A list of parts of one type has no branches: a type's name in last place is a member.
        is_member = depth == len(location) - 1 and step in _PART_TYPES
        if isinstance(step, int) or is_member or not _is_branch(location, depth):
            steps.append(step)
    # What pydantic puts behind the name of a member that has a wrong name.
    return steps[:-1] if steps[-1:] == ["[key]"] else steps


def _is_branch(location: tuple[int | str, ...], depth: int) -> bool:
    """Whether a step names a union branch: it starts with `~`, or follows a list index."""
    step, previous = str(location[depth]), location[depth - 1] if depth else ""
    if step.startswith("~") or previous == "~object":
        return True
    if depth == 1 and previous in _UNION_FIELDS:
        return True
    is_role = location[0] == "messages" and depth == 2  # noqa: PLR2004
    return isinstance(previous, int) and step in (_ROLES if is_role else _PART_TYPES)


def _reason(first: ErrorDetails) -> str:
    """The reason of a violation as a clause."""
    if expected := _TYPES.get(first["type"]):
        return f"it must be {expected}"
    if expected := first.get("ctx", {}).get("expected_tags"):
        return f"it must be one of {expected}"
    message = _SUBJECT.sub("it must", first["msg"], count=1).replace(" after validation", "")
    return message[:1].lower() + message[1:]
