"""Checks finished JSON against the client's schema, in a separate process, because patterns may take long.

Nothing is ever fetched: a schema that refers to another document cannot be checked.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from internvl_server.concurrency.jobs import serve_jobs
from internvl_server.engine.guided.schemas import modern

__all__ = ["violation_of"]

_MAX_CHARS = 300


def violation_of(text: str, schema: Mapping[str, Any]) -> str | None:
    """Say how a JSON text violates a schema; None if it fits.

    Args:
        text: The answer. Text that does not begin with JSON violates nothing, because the answer was cut
            off. After JSON, a stop string or token may be shown.
        schema: The client's.
    """
    try:
        value, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except ValueError:
        return None
    validator = _Validator(
        modern(schema), registry=Registry(), format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    try:
        error = best_match(validator.iter_errors(value))
    except (Unresolvable, RecursionError, re.error) as err:
        return f"The answer could not be compared with the schema: {err}."
    return None if error is None else _sentence(error)


def _sentence(error: ValidationError) -> str:
    place = "".join(f"[{json.dumps(part, ensure_ascii=False)}]" for part in error.absolute_path)
    message = (
        error.message if len(error.message) <= _MAX_CHARS else f"{error.message[:_MAX_CHARS]}…"
    )
    return f"The answer does not fit the schema ('{error.validator}' at ${place}): {message}."


def _pattern(
    validator: Any,  # noqa: ANN401, ARG001  (an untyped validator)
    pattern: str,
    instance: object,
    schema: object,  # noqa: ARG001
) -> Iterator[ValidationError]:
    """Check a pattern that Python knows; the grammar enforces the others."""
    try:
        is_match = not isinstance(instance, str) or re.search(pattern, instance)
    except re.error:
        return
    if not is_match:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = extend(Draft202012Validator, {"pattern": _pattern})


def _answer(job: Sequence[Any]) -> Mapping[str, Any]:
    text, schema = job
    return {"violation": violation_of(text, schema)}


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)  # the process bounds the time that reading them takes
    serve_jobs(_answer, ["{}", {"type": "object", "properties": {"a": {"format": "date-time"}}}])
