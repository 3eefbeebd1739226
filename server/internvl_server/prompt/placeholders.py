"""What a client wrote, kept out of a Jinja template: the template sees placeholders and moves them about.

The rendered text is cut at the placeholders, so a client's words can neither be read as control tokens
nor join what the template wrote to one.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from internvl_server.core import Tool, ToolCall
from internvl_server.prompt.segments import Segment

__all__ = ["Placeholders", "to_json"]

# ⧼12⧽ stands for the segment with number 12, ⧼12⧾⧽ for its text escaped as in a JSON string, once for
# each mark; ⧿ also escapes what is not ASCII. Printable, so that Python's repr, which `{{ tool }}`
# gives, leaves them as they are. A client's own are never looked at: its texts are not rendered.
_BEGIN, _END, _JSON, _ASCII_JSON = "\u29fc", "\u29fd", "\u29fe", "\u29ff"
_PLACEHOLDER = re.compile(f"{_BEGIN}(\\d+)([{_JSON}{_ASCII_JSON}]*){_END}")
_ESCAPED_SIGN = re.compile(r"\\u(29f[c-f])")

# Words of JSON schemas that templates look for. They are plain in tools, everything else is held.
_SCHEMA_WORDS = frozenset({
    "type", "function", "name", "description", "parameters", "strict", "properties", "required", "items",
    "enum", "const", "default", "title", "format", "anyOf", "oneOf", "allOf", "not",
    "additionalProperties", "patternProperties", "nullable", "minimum", "maximum", "minLength",
    "maxLength", "minItems", "maxItems", "pattern", "examples", "$ref", "$defs", "definitions",
    "object", "array", "string", "number", "integer", "boolean", "null",
})  # fmt: skip


class Placeholders:
    """The held segments of one rendering.

    Args:
        control_pattern: Matches control tokens. A schema word that is one, but for the signs around it,
            is held as well: `<{{ name }}>` must not write it.
    """

    def __init__(self, control_pattern: re.Pattern[str]) -> None:
        self._segments: list[Segment] = []
        self._places: dict[str, str] = {}
        self._plain = _SCHEMA_WORDS - set(re.findall(r"\w+", control_pattern.pattern))

    def hold(self, segment: Segment) -> str:
        """A placeholder of its own."""
        self._segments.append(segment)
        return f"{_BEGIN}{len(self._segments) - 1}{_END}"

    def hold_text(self, text: str) -> str:
        """A placeholder, the same for the same text, so that a template can compare; none for no text."""
        if not text:
            return ""
        if text not in self._places:
            self._places[text] = self.hold(text)
        return self._places[text]

    def hold_tool(self, tool: Tool) -> dict[str, Any]:
        """A tool as templates know it."""
        function: dict[str, Any] = {"name": self.hold_text(tool.name)}
        if tool.description is not None:
            function["description"] = self.hold_text(tool.description)
        function["parameters"] = self._hold_value(tool.parameters, self._plain)
        return {"type": "function", "function": function}

    def hold_call(self, call: ToolCall) -> dict[str, Any]:
        """A call as templates know it: its arguments are an object, not text."""
        arguments = self._hold_value(json.loads(call.arguments), frozenset())
        function = {"name": self.hold_text(call.name), "arguments": arguments}
        return {"id": self.hold_text(call.id), "type": "function", "function": function}

    def cut(self, rendered: str) -> Iterator[tuple[str, Segment]]:
        """Pairs of what the template wrote and what it put after it, an empty text at the end."""
        end = 0
        for match in _PLACEHOLDER.finditer(rendered):
            segment = self._segments[int(match[1])]
            if isinstance(segment, str):
                segment = _escaped(segment, match[2])
            yield rendered[end : match.start()], segment
            end = match.end()
        yield rendered[end:], ""

    def shows_all(self, rendered: str, texts: Iterable[str]) -> bool:
        """Whether the template put each of these held texts somewhere."""
        shown = {self._segments[int(match[1])] for match in _PLACEHOLDER.finditer(rendered)}
        return shown.issuperset(texts)

    def _hold_value(self, value: Any, plain: frozenset[str]) -> Any:  # noqa: ANN401  (any JSON value)
        if isinstance(value, str):
            return value if value in plain else self.hold_text(value)
        if isinstance(value, list):
            return [self._hold_value(item, plain) for item in value]
        if isinstance(value, dict):
            return {
                self._hold_value(name, plain): self._hold_value(item, plain)
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
    """The `tojson` of chat templates, which is not Jinja's own; texts in placeholders will be escaped."""
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    text = _ESCAPED_SIGN.sub(lambda match: chr(int(match[1], 16)), text)
    mark = _ASCII_JSON if ensure_ascii else _JSON
    return _PLACEHOLDER.sub(rf"{_BEGIN}\1\2{mark}{_END}", text)


def _escaped(text: str, marks: str) -> str:
    for mark in marks:
        text = json.dumps(text, ensure_ascii=mark == _ASCII_JSON)[1:-1]
    return text
