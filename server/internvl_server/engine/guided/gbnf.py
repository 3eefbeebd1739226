"""GBNF, llama.cpp's notation for grammars, in llguidance's variant of Lark.

The library's parser reads the rules. Its conversion alone is not used as it is: it refuses or changes some of
what GBNF can say, which is put right on the parsed rules here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llguidance.gbnf_to_lark import (
    AlternativeNode,
    ASTNode,
    GrammarParser,
    LiteralNode,
    RegexNode,
    RepetitionNode,
    RuleNode,
    RuleRefNode,
    resolve,
)

__all__ = ["lark_of_gbnf"]

_HEADER = "%llguidance {}\n"
_RULE = re.compile(r"^[ \t]*([\w-]+)[ \t]*::=", re.MULTILINE)
_HEX = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)")
_ASCII_END = 0x80
# The library takes time that grows with the square of the rules.
_MAX_RULES = 500
# Rules repeat rules, so that a few lines can be longer than any memory.
_MAX_SIZE = 50_000


def lark_of_gbnf(source: str) -> str:
    """GBNF rules, beginning with `root`, as Lark rules.

    Rules that do not lead back to themselves become regular expressions, which are matched exactly. In
    the others each piece takes as much text as it can, as llguidance's lexer does.
    """
    names = _RULE.findall(source)
    if len(names) != len(set(names)):
        raise ValueError("a rule is given twice")
    if len(names) > _MAX_RULES:
        raise ValueError(f"it has {len(names)} rules; at most {_MAX_RULES} are allowed")
    parsed = GrammarParser().parse(_HEX.sub(_plain_escape, source))
    if "root" not in parsed:
        raise ValueError("there is no rule 'root'")
    # Names of our own: theirs may collide once they are spelled as Lark wants them.
    names_of = {name: f"rule{number}" for number, name in enumerate(parsed)}
    for node in (node for rule in parsed.values() for node in _walk(rule)):
        if isinstance(node, RegexNode):
            node.rx = _class_of_gbnf(node.rx)
        if isinstance(node, RepetitionNode) and isinstance(node.node, AlternativeNode):
            node.node = _Group(node.node)
        if isinstance(node, RuleRefNode | RuleNode):
            if node.name not in names_of:
                raise ValueError(f"there is no rule {node.name!r}")
            node.name = names_of[node.name]
    rules = {rule.name: rule for rule in parsed.values()}
    if _Sizes(rules).of(rules[names_of["root"]]) > _MAX_SIZE:
        raise ValueError(f"it is over {_MAX_SIZE} pieces long, with all repeats. Lower its bounds")
    # The first rule is never made an expression, so it only refers to theirs.
    rules["root"] = RuleNode("root", RuleRefNode(names_of["root"]), "")
    resolve(rules)
    return _HEADER + "".join(f"{rule}\n" for rule in rules.values())


def _class_of_gbnf(rx: str) -> str:
    """A GBNF class as a regular expression, where `.` has no line ends, and `&&`, `~~` are operators."""
    return r"(.|\n)" if rx == "." else rx.replace("&", r"\&").replace("~", r"\~")


def _plain_escape(match: re.Match[str]) -> str:
    """GBNF's escapes of code points in the one form that Lark shares."""
    digits = match.group(1) or match.group(2) or match.group(3)
    if digits is None:
        return match.group()
    return f"\\x{int(digits, 16):02x}" if int(digits, 16) < _ASCII_END else chr(int(digits, 16))


def _walk(node: ASTNode) -> Iterator[ASTNode]:
    yield node
    for child in node.children():
        yield from _walk(child)


@dataclass
class _Group(ASTNode):
    """Brackets that stay: the library would write the repeat of a repeat as two marks in a row."""

    node: ASTNode

    def __str__(self) -> str:
        return f"({self.node})"

    def children(self) -> list[ASTNode]:
        return [self.node]

    def simplify(self) -> ASTNode:
        self.node = self.node.simplify()
        return self


class _Sizes:
    """How long rules are with every repeat and every other rule written out.

    Args:
        rules: By name.
    """

    def __init__(self, rules: Mapping[str, RuleNode]) -> None:
        self._rules = rules
        # A rule that leads back to itself counts once.
        self._known: dict[str, int] = {}

    def of(self, node: ASTNode) -> int:
        """Characters and classes of a node."""
        if isinstance(node, RuleRefNode):
            if node.name not in self._known:
                self._known[node.name] = 1
                self._known[node.name] = self.of(self._rules[node.name])
            return self._known[node.name]
        own = len(node.value) if isinstance(node, LiteralNode) else 1
        size = own + sum(map(self.of, node.children()))
        if isinstance(node, RepetitionNode):
            size *= max(node.min_times, node.max_times or 1)
        return size
