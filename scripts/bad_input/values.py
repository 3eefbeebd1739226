"""What the data files abbreviate: long texts, deep nesting, pictures, and texts that are not JSON values.

In a JSON value `{"$repeat": ["ab", 1000]}` is the result of a generator of this module or of `pictures.py`.
A *text* is a string, or a list of strings and of `[string, count]`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from scripts.bad_input.pictures import PICTURES
from scripts.bad_input.texts import text_of

__all__ = ["body_of", "filled", "generated"]

Names: TypeAlias = Mapping[str, Any]

_NAME = re.compile(r"«(\w+)»")
_FRAGMENT = re.compile(r'"@@([0-9a-f]*)@@"')


def filled(value: Any, names: Names) -> Any:
    """A value with `«name»` replaced; a string that is nothing else becomes the value of the name."""
    if isinstance(value, str):
        whole = _NAME.fullmatch(value)
        if whole and whole[1] in names:
            return names[whole[1]]
        return _NAME.sub(lambda match: str(names.get(match[1], match[0])), value)
    if isinstance(value, list):
        return [filled(item, names) for item in value]
    if isinstance(value, dict):
        return {filled(key, names): filled(item, names) for key, item in value.items()}
    return value


def generated(value: Any) -> Any:
    """A value with its generators called."""
    if isinstance(value, list):
        return [generated(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(name, arguments)] = value.items()
        if name in GENERATORS:
            return GENERATORS[name](generated(arguments))
    return {key: generated(item) for key, item in value.items()}


def body_of(value: Any) -> str:
    """The JSON of a value, with its fragments as they are."""
    text = json.dumps(value)
    return _FRAGMENT.sub(lambda match: bytes.fromhex(match[1]).decode("latin-1"), text)


def _fragment(text: Any) -> str:
    """JSON, or something that only looks like it, which no Python value stands for."""
    return f"@@{text_of(text).encode('latin-1').hex()}@@"


def _chain(arguments: Sequence[Any]) -> Any:
    """A schema of a depth: each level is the one property of the level above."""
    depth, schema = arguments
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


GENERATORS: Mapping[str, Callable[[Any], Any]] = {
    "$text": text_of,
    "$fragment": _fragment,
    "$repeat": lambda x: x[0] * x[1],
    "$list": lambda x: [x[0]] * x[1],
    "$numbers": lambda count: list(range(count)),
    "$names": lambda x: [f"{x[0]}{i}" for i in range(x[1])],
    "$members": lambda x: {f"{x[0]}{i}": x[1] for i in range(x[2])},
    "$chain": _chain,
    "$json": body_of,
    **PICTURES,
}
