"""pydantic's findings as one error that names the JSON path and says what is allowed."""

from typing import NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from internvl_server.errors import InvalidRequestError, UnsupportedParameterError

__all__ = ["json_path", "json_steps", "raise_first"]

# Names of union branches that pydantic puts into a location; they are not in the JSON.
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_PART_TYPES = frozenset({"text", "image_url", "video_url", "video", "refusal"})
_UNION_FIELDS = frozenset({"stop", "response_format", "tool_choice"})
_TAG_ERRORS = frozenset({"union_tag_invalid", "union_tag_not_found"})


def raise_first(error: ValidationError) -> NoReturn:
    """Raise the first violation as ours.

    Raises:
        UnsupportedParameterError: For an unknown field.
        InvalidRequestError: For anything else.
    """
    first = error.errors(include_url=False, include_context=True)[0]
    path = json_path(first["loc"], ends_in_member=first["type"] == "extra_forbidden")
    if first["type"] in _TAG_ERRORS:
        path += "." + str(first.get("ctx", {}).get("discriminator", "")).strip("'")
    if first["type"] == "extra_forbidden":
        raise UnsupportedParameterError(
            f"Unknown parameter: '{path}'. It is not supported by this server; leave it out.",
            param=path,
            code="unknown_parameter",
        ) from error
    if first["type"] == "missing":
        raise InvalidRequestError(
            f"Missing required parameter: '{path}'.",
            param=path,
            code="missing_required_parameter",
        ) from error
    raise InvalidRequestError(
        f"Invalid value for '{path}': {_say(first)}.", param=path, code="invalid_value"
    ) from error


def json_path(location: tuple[int | str, ...], *, ends_in_member: bool = False) -> str:
    """`('messages', 0, 'user', 'content', '~parts', 1)` as `messages[0].content[1]`.

    Args:
        location: pydantic's.
        ends_in_member: As in `json_steps`.
    """
    path = ""
    for step in json_steps(location, ends_in_member=ends_in_member):
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step[:64]}" if path else step[:64]
    return path


def json_steps(location: tuple[int | str, ...], *, ends_in_member: bool = False) -> list[int | str]:
    """The keys and indices of a location, without the names of union branches.

    Args:
        location: pydantic's.
        ends_in_member: Whether the last step is the name of an unknown member: the client chose it, and
            it may be that of a branch.
    """
    steps: list[int | str] = []
    previous: int | str = ""
    for depth, step in enumerate(location):
        # A list of one kind of part names no branch either: what comes last is a member.
        is_last = depth == len(location) - 1
        is_member = is_last and (ends_in_member or step in _PART_TYPES)
        if isinstance(step, int) or is_member or not _is_branch(step, previous, depth):
            steps.append(step)
        previous = step
    return steps


def _is_branch(step: str, previous: int | str, depth: int) -> bool:
    """Whether a location step names a union branch: it follows a list index, or starts with `~`."""
    if step.startswith("~") or previous == "~object":
        return True
    if depth == 1 and previous in _UNION_FIELDS:
        return True
    return isinstance(previous, int) and step in (_ROLES if depth == 2 else _PART_TYPES)  # noqa: PLR2004


def _say(first: ErrorDetails) -> str:
    """Pydantic's sentence, as a clause."""
    if first["type"] in _TAG_ERRORS:
        expected = first.get("ctx", {}).get("expected_tags")
        return "it is missing" if expected is None else f"it must be one of {expected}"
    if first["type"] in ("model_type", "dict_type"):
        return "it must be an object"
    message = first["msg"]
    return message[:1].lower() + message[1:]
