"""Which values of a field ask for nothing."""

from typing import Any

__all__ = ["asks_for_nothing", "is_same"]

_WORDS_FOR_NOTHING = frozenset({"", "none", "off", "disabled", "false"})

# Members that switch off what their object describes.
_SWITCHES = frozenset({"effort", "enabled", "type"})


def asks_for_nothing(value: Any) -> bool:  # noqa: ANN401  (any JSON value)
    """Whether a value switches a feature off, in whatever way: null, false, 0, `"disabled"`, empty.

    An object asks for nothing when none of its members does, or when its `type`, `effort` or `enabled` does.
    """
    if isinstance(value, str):
        return value.lower() in _WORDS_FOR_NOTHING
    if isinstance(value, dict):
        switches = [value[name] for name in _SWITCHES if value.get(name) is not None]
        return any(map(asks_for_nothing, switches)) or all(
            asks_for_nothing(member) for member in value.values()
        )
    return not value


def is_same(value: Any, other: Any) -> bool:  # noqa: ANN401  (any JSON values)
    """Whether two values are equal, where `true` is not 1."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)
