"""Patterns in JSON schemas, as regular expressions that match the text between the quotes of a JSON string.

What JSON escapes is left out: no character of a match is a quote, a backslash or a control character, unless
the pattern names the quote or the backslash itself. The result therefore matches no more than the pattern.
"""

import re

__all__ = ["json_pattern"]

_ATOM = re.compile(
    r"\\(?P<escaped>.)|\[(?P<negation>\^?)(?P<members>(?:\\.|[^\]\\])*)\]|(?P<plain>.)", re.DOTALL
)
_ESCAPED_BY_JSON = r'\x00-\x1f"\\'
_ANY = f"[^{_ESCAPED_BY_JSON}]"
# Classes, as members of a character class.
_CLASSES = {"d": "0-9", "w": "a-zA-Z0-9_", "s": " "}
_NEGATED = {"D": "0-9", "W": "a-zA-Z0-9_", "S": r"\x09-\x0d "}
# In groups, because a quantifier may follow.
_WRITTEN = {'"': r'(\\")', "\\": r"(\\\\)"}
# In a class, ranges may contain what JSON escapes.
_MEMBER = re.compile(r"(\\.|[^\\])(?:-(\\.|[^\\]))?", re.DOTALL)
_TOP_LEVEL = re.compile(
    r"\\.|\[(?:\\.|[^\]\\])*\]|(?P<begin>\()|(?P<end>\))|(?P<or>\|)|.", re.DOTALL
)


def json_pattern(pattern: str) -> str:
    """Rewrite a pattern, which matches anywhere in a string, to one that matches a whole string of JSON.

    Raises:
        ValueError: It has an escape that is not known here, or an anchor inside.
    """
    if _has_alternatives(pattern):  # anchors may belong to some of them only
        return _rewritten(pattern)
    anchors = [atom.start() for atom in _ATOM.finditer(pattern) if atom["plain"] in ("^", "$")]
    has_start, has_end = pattern.startswith("^"), pattern.endswith("$")
    has_end = has_end and len(pattern) - 1 in anchors
    if len(anchors) > has_start + has_end:  # the converter would ignore it
        raise ValueError("the pattern has an anchor inside")
    start, end = ("" if has_anchor else f"{_ANY}*" for has_anchor in (has_start, has_end))
    return start + _rewritten(pattern) + end


def _rewritten(pattern: str) -> str:
    return _ATOM.sub(_atom, pattern)


def _atom(atom: re.Match[str]) -> str:
    if atom["members"] is not None:
        return _char_class(atom["members"], is_negated=bool(atom["negation"]))
    if atom["escaped"] is not None:
        return _escape(atom["escaped"])
    return _ANY if atom["plain"] == "." else _WRITTEN.get(atom["plain"], atom["plain"])


def _escape(character: str) -> str:
    if character in _CLASSES:
        return f"[{_CLASSES[character]}]"
    if character in _NEGATED:
        return f"[^{_NEGATED[character]}{_ESCAPED_BY_JSON}]"
    if character.isalnum():
        raise ValueError(f"the pattern has the escape '\\{character}'")
    return _WRITTEN.get(character, f"\\{character}")


def _char_class(members: str, *, is_negated: bool) -> str:
    """A class without what JSON escapes."""
    found = _MEMBER.finditer(members)
    pieces = [_member(m[1], m[2], is_negated=is_negated) for m in found]
    if is_negated:
        return f"[^{''.join(pieces)}{_ESCAPED_BY_JSON}]"
    kept = "".join(pieces)
    if not kept:
        raise ValueError("the pattern has a class of characters that JSON escapes")
    return f"[{kept}]"


def _member(first: str, last: str | None, *, is_negated: bool) -> str:
    if last is None:
        return _single(first, is_negated=is_negated)
    ends = [_code_point(end) for end in (first, last)]
    if is_negated:
        return f"{_literal(ends[0])}-{_literal(ends[1])}"
    return "".join(
        _literal(low) if low == high else f"{_literal(low)}-{_literal(high)}"
        for low, high in _without_escaped(*ends)
    )


def _single(member: str, *, is_negated: bool) -> str:
    name = member[1:] if member[0] == "\\" else ""
    if name in _CLASSES and name:
        return r"\x09-\x0d " if name == "s" and is_negated else _CLASSES[name]
    code = _code_point(member)
    return _literal(code) if is_negated or list(_without_escaped(code, code)) else ""


def _code_point(member: str) -> int:
    if member[0] != "\\":
        return ord(member)
    named = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
    if member[1].isalnum() and member[1] not in named:
        raise ValueError(f"the pattern has the escape '{member}'")
    return ord(named.get(member[1], member[1]))


def _without_escaped(low: int, high: int) -> list[tuple[int, int]]:
    """The parts of a range of code points that JSON writes as they are."""
    ranges, start = [], max(low, ord(" "))
    for code in (ord('"'), ord("\\")):
        if start <= code <= high:
            ranges.append((start, code - 1))
            start = code + 1
    ranges.append((start, high))
    return [(first, last) for first, last in ranges if first <= last]


def _literal(code: int) -> str:
    character = chr(code)
    if code < ord(" "):
        return f"\\x{code:02x}"
    return f"\\{character}" if character in r"\]^-[" else character


def _has_alternatives(pattern: str) -> bool:
    depth = 0
    for atom in _TOP_LEVEL.finditer(pattern):
        depth += bool(atom["begin"]) - bool(atom["end"])
        if atom["or"] and not depth:
            return True
    return False
