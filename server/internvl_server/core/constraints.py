"""Constraints of guided decoding: what the text of an answer must be.

Each one keeps `param`, the request field it came from, for error messages only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["CallableTool", "Constraint", "Grammar", "JsonSchema", "Regex", "ToolCalls"]

Schema: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is JSON that fits a schema. With `is_strict`, no other JSON is presented as the answer."""

    schema: Schema
    param: str = "response_format"
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole answer matches a pattern."""

    pattern: str
    param: str = "response_format"


@dataclass(frozen=True, slots=True)
class Grammar:
    """The answer is derived from the rule `root` of a grammar in GBNF, llama.cpp's notation."""

    gbnf: str
    param: str = "response_format"


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool that an answer may call, and the schema of its arguments; `is_strict` as in `JsonSchema`."""

    name: str
    parameters: Schema
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """Calls of tools: `<tool_call>`, `{"name": …, "arguments": …}` of one of the tools, `</tool_call>`.

    With `is_required` the answer consists of calls. Otherwise any text may stand before a call or in place
    of one; with `answer`, a JSON schema, the answer is either calls alone or JSON that fits the schema, with
    `is_strict` as in `JsonSchema`. Without `is_parallel` there is at most one call where there is no text:
    in text a call may be part of the reasoning, and the answer ends with the first one after it.
    """

    tools: tuple[CallableTool, ...]
    is_required: bool = False
    is_parallel: bool = True
    answer: Schema | None = None
    param: str = "tools"
    is_strict: bool = False

    @property
    def is_hint(self) -> bool:
        """The answer may be any text: an engine that cannot follow the constraint may ignore it."""
        return not self.is_required and self.answer is None


Constraint: TypeAlias = JsonSchema | Regex | Grammar | ToolCalls
