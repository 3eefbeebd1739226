"""Replaces client text by placeholders while a Jinja template is rendered.

The rendered text is split at the placeholders, so that text of a client can neither be read as a control
token nor form one together with text of the template.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from internvl_server.core import Tool, ToolCall
from internvl_server.prompt.segments import Segment

__all__ = ["Placeholders", "to_json"]

# ⧼12⧽ stands for segment 12, and ⧼12⧾⧽ for its text escaped as in a JSON string, once for each mark; ⧿
# escapes non-ASCII characters as well. ⧼12⧻⧽ is JSON text, which JSON contains without quotation marks. All
# five are printable, so that they survive Python's repr, which `{{ tool }}` renders. The same characters in
# text of a client are harmless: that text is not rendered.
_RAW, _BEGIN, _END, _JSON, _ASCII_JSON = "\u29fb", "\u29fc", "\u29fd", "\u29fe", "\u29ff"
_PLACEHOLDER = re.compile(f"{_BEGIN}(\\d+){_RAW}?([{_JSON}{_ASCII_JSON}]*){_END}")
_IN_JSON = re.compile(f'"{_BEGIN}(?P<raw>\\d+){_RAW}{_END}"|{_PLACEHOLDER.pattern}')
_ESCAPED_SIGN = re.compile(r"\\u(29f[b-f])")

# A heuristic: templates test for words of JSON schemas ("if 'enum' in parameters"), so these stay as they
# are in tools while all other text is protected. A template that tests for another word does not find it.
_SCHEMA_WORDS = frozenset({
    "type", "function", "name", "description", "parameters", "strict", "properties", "required", "items",
    "enum", "const", "default", "title", "format", "anyOf", "oneOf", "allOf", "not",
    "additionalProperties", "patternProperties", "nullable", "minimum", "maximum", "minLength",
    "maxLength", "minItems", "maxItems", "pattern", "examples", "$ref", "$defs", "definitions",
    "object", "array", "string", "number", "integer", "boolean", "null",
})  # fmt: skip


class Placeholders:
    """The protected segments of one rendering.

    Args:
        control_pattern: Matches control tokens. A schema word inside one is protected as well, so that
            `<{{ name }}>` in a template cannot write a control token.
    """

    def __init__(self, control_pattern: re.Pattern[str]) -> None:
        self._segments: list[Segment] = []
        self._by_text: dict[str, str] = {}
        self._plain_words = _SCHEMA_WORDS - set(re.findall(r"\w+", control_pattern.pattern))

    def protect(self, segment: Segment) -> str:
        """A new placeholder for a segment."""
        self._segments.append(segment)
        return f"{_BEGIN}{len(self._segments) - 1}{_END}"

    def protect_text(self, text: str) -> str:
        """The placeholder of a text, equal for equal texts so that a template can compare; "" for ""."""
        if not text:
            return ""
        if text not in self._by_text:
            self._by_text[text] = self.protect(text)
        return self._by_text[text]

    def protect_tool(self, tool: Tool) -> dict[str, Any]:
        """A tool in the form that templates expect."""
        function: dict[str, Any] = {"name": self.protect_text(tool.name)}
        if tool.description is not None:
            function["description"] = self.protect_text(tool.description)
        function["parameters"] = self._protect_value(tool.parameters, self._plain_words)
        return {"type": "function", "function": function}

    def protect_call(self, call: ToolCall) -> dict[str, Any]:
        """A call in the form that templates expect.

        Its arguments are an object where they can be read, because templates list its members. Otherwise they
        are a text that templates write as it is, whether they convert it to JSON or not.
        """
        function = {"name": self.protect_text(call.name), "arguments": self._arguments(call)}
        return {"id": self.protect_text(call.id), "type": "function", "function": function}

    def _arguments(self, call: ToolCall) -> Any:  # noqa: ANN401  (any JSON value)
        try:
            value = from_json(call.arguments, allow_inf_nan=False)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return self._protect_value(value, frozenset())
        return self.protect(call.arguments).replace(_END, _RAW + _END)

    def split(self, rendered: str) -> Iterator[tuple[str, Segment]]:
        """Pairs of text of the template and the segment after it; the last segment is ""."""
        end = 0
        for match in _PLACEHOLDER.finditer(rendered):
            segment = self._segments[int(match[1])]
            if isinstance(segment, str):
                segment = _escaped(segment, match[2])
            yield rendered[end : match.start()], segment
            end = match.end()
        yield rendered[end:], ""

    def contains_all(self, rendered: str, texts: Iterable[str]) -> bool:
        """Whether each of these protected texts is in the rendered text."""
        shown = {self._segments[int(match[1])] for match in _PLACEHOLDER.finditer(rendered)}
        return shown.issuperset(filter(None, texts))

    def _protect_value(self, value: Any, plain: frozenset[str]) -> Any:  # noqa: ANN401  (any JSON value)
        if isinstance(value, str):
            return value if value in plain else self.protect_text(value)
        if isinstance(value, list):
            return [self._protect_value(item, plain) for item in value]
        if isinstance(value, dict):
            return {
                self._protect_value(name, plain): self._protect_value(item, plain)
                for name, item in value.items()
            }
        return value


def to_json(
    value: Any,  # noqa: ANN401  (any JSON value)
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  (as templates call it)
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """The `tojson` of chat templates, which differs from Jinja's; marks placeholders to be escaped."""
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    text = _ESCAPED_SIGN.sub(lambda match: chr(int(match[1], 16)), text)
    mark = _ASCII_JSON if ensure_ascii else _JSON

    def in_json(match: re.Match[str]) -> str:
        if match["raw"] is not None:
            return f"{_BEGIN}{match['raw']}{_END}"
        return f"{_BEGIN}{match[2]}{match[3]}{mark}{_END}"

    return _IN_JSON.sub(in_json, text)


def _escaped(text: str, marks: str) -> str:
    for mark in marks:
        text = json.dumps(text, ensure_ascii=mark == _ASCII_JSON)[1:-1]
    return text
