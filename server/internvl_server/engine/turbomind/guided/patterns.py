"""Patterns in JSON schemas that are safe to pass to TurboMind's grammar compiler (xgrammar).

The compiler inserts a pattern unchanged between the quotes of a JSON string. A pattern that matches a quote,
a backslash or a control character would end the string early, or produce invalid JSON.
"""

import re

__all__ = ["is_safe_pattern"]

_ATOM = re.compile(
    r"\\(?P<escaped>.)|\[(?P<negation>\^?)(?P<members>(?:\\.|[^\]\\])*)\]|(?P<plain>.)", re.DOTALL
)
_MEMBER = re.compile(r"(\\.|[^\\])(?:-(\\.|[^\\]))?", re.DOTALL)
_CLASSES = "dw"
_FIRST_PRINTABLE = " "


def is_safe_pattern(pattern: str) -> bool:
    """Whether every match is a valid JSON string when put between quotes."""
    return all(map(_is_safe_atom, _ATOM.finditer(pattern)))


def _is_safe_atom(atom: re.Match[str]) -> bool:
    if atom["members"] is not None:
        members = _MEMBER.finditer(atom["members"])
        return not atom["negation"] and all(_is_safe_range(*m.groups()) for m in members)
    if atom["escaped"] is not None:
        return _is_safe_escape(atom["escaped"])
    return atom["plain"] != "." and _are_plain(atom["plain"], atom["plain"])


def _is_safe_range(first: str, last: str | None) -> bool:
    if last is None:
        return _is_safe_escape(first[1]) if first[0] == "\\" else _are_plain(first, first)
    ends = [end.removeprefix("\\") for end in (first, last)]
    are_known = all(len(end) == 1 or _is_safe_escape(end[-1]) for end in (first, last))
    return are_known and _are_plain(*ends)


def _is_safe_escape(character: str) -> bool:
    """Digits, word characters, and characters that an escape leaves unchanged."""
    return character in _CLASSES or (not character.isalnum() and _are_plain(character, character))


def _are_plain(first: str, last: str) -> bool:
    """Whether a range contains no character that JSON escapes."""
    return first >= _FIRST_PRINTABLE and not any(first <= mark <= last for mark in '"\\')
