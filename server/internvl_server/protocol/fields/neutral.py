"""Which values of a field are neutral: the answer is the same as without the field."""

from typing import Any

__all__ = ["is_off", "is_same", "to_switch"]

_OFF_WORDS = frozenset({"", "none", "off", "disabled", "false"})

# Members that switch off what their object describes.
_SWITCHES = frozenset({"effort", "enabled", "type"})


def is_off(value: Any) -> bool:  # noqa: ANN401  (any JSON value)
    """Whether a value switches a feature off, in any usual way: null, false, 0, `"disabled"`, empty.

    An object does when all of its members do, or when its `type`, `effort` or `enabled` does.
    """
    if isinstance(value, str):
        return value.lower() in _OFF_WORDS
    if isinstance(value, dict):
        switches = [value[name] for name in _SWITCHES if value.get(name) is not None]
        return any(map(is_off, switches)) or all(is_off(member) for member in value.values())
    return not value


def to_switch(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    """A value that switches a feature on or off, as a boolean; None if it leaves that to the server."""
    kind = value.get("type", value) if isinstance(value, dict) else value
    if kind is None or kind in ("auto", "adaptive") or kind in ("", [], {}):
        return None
    return not is_off(value)


def is_same(value: Any, other: Any) -> bool:  # noqa: ANN401  (any JSON values)
    """Whether two values are equal, where `true` is not 1."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)
