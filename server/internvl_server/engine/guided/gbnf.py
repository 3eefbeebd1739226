"""GBNF, llama.cpp's grammar notation, converted to llguidance's variant of Lark.

llguidance's own converter reads the rules. Some GBNF is refused by it, or changes its meaning on the way:
`.` would not match a newline, `&&` and `~~` in a class would be operators, code points would lose leading
zeros, the repetition of a repetition would be malformed, and names that Lark spells alike would collide.
The text is rewritten first so that none of this occurs. `--` in a class is refused.
"""

import re

from llguidance.gbnf_to_lark import gbnf_to_lark

__all__ = ["lark_of_gbnf"]

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\r\n]*)
    | (?P<text>"(?:\\.|[^"\\])*")
    | (?P<char_class>\[(?:\\.|[^\]\\])*\])
    | (?P<bounds>\{[^}]*\})
    | (?P<repeated_group>\)(?=\s*[*+?{]))
    | (?P<any_char>\.)
    | (?P<name>[\w-]+)(?P<is_definition>[ \t]*::=)?""",
    re.VERBOSE | re.DOTALL,
)
_CODE_POINT = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.DOTALL
)
_ASCII_END = 0x80
# The converter takes time quadratic in the number of rules.
_MAX_RULES = 500


def lark_of_gbnf(source: str) -> str:
    """Convert GBNF rules, beginning with `root`, to Lark rules.

    Rules that do not refer to themselves, not even indirectly, become regular expressions, which are matched
    exactly. In the others each piece takes as much text as it can, as llguidance's lexer does.

    Raises:
        ValueError: The rules are malformed, too many, or use what cannot be converted.
    """
    rewriter = _Rewriter()
    rules = _TOKEN.sub(rewriter.rewrite, source)
    root = rewriter.check()
    try:
        # The first rule never becomes an expression, so it only refers to the client's.
        return gbnf_to_lark(f"root ::= {root}\n{rules}")
    except Exception as err:  # the converter raises bare exceptions for malformed text
        raise ValueError(str(err)) from err


class _Rewriter:
    """Rewrites tokens of GBNF, and keeps the names of its rules."""

    def __init__(self) -> None:
        self._new_names: dict[str, str] = {}
        self._defined: list[str] = []

    def rewrite(self, token: re.Match[str]) -> str:
        """The token as the converter reads it correctly."""
        text = token.group()
        match token.lastgroup:
            case "comment":
                return ""
            case "text":
                return _CODE_POINT.sub(_plain_code_point, text)
            case "char_class":
                return _char_class(text)
            case "repeated_group":
                return ' "")'  # a group of two pieces keeps its brackets
            case "any_char":
                return r"(. | [\n])"
            case "name" | "is_definition":
                return self._rename(token["name"], token["is_definition"] or "")
        return text

    def check(self) -> str:
        """The new name of the rule `root`.

        Raises:
            ValueError: A rule is missing or defined twice, or there are too many.
        """
        if len(self._defined) > _MAX_RULES:
            raise ValueError(f"it has {len(self._defined)} rules; at most {_MAX_RULES} are allowed")
        for name in ("root", *self._new_names):
            if (count := self._defined.count(name)) != 1:
                raise ValueError(f"the rule '{name}' is {'defined twice' if count else 'missing'}")
        return self._new_names["root"]

    def _rename(self, name: str, definition: str) -> str:
        if definition:
            self._defined.append(name)
        new_name = self._new_names.setdefault(name, f"rule{len(self._new_names)}")
        return new_name + definition


def _char_class(text: str) -> str:
    if "--" in text:
        raise ValueError("'--' in a character class is not supported")
    plain = _CODE_POINT.sub(_plain_code_point, text)
    return plain.replace("&", r"\x26").replace("~", r"\x7e")


def _plain_code_point(escape: re.Match[str]) -> str:
    """The one form of a code point that the converter, Lark and regular expressions share."""
    digits = escape[1] or escape[2] or escape[3]
    if digits is None:
        return escape.group()
    number = int(digits, 16)
    return f"\\x{number:02x}" if number < _ASCII_END else chr(number)
