"""Tools, calls and results in the Hermes format of the Qwen2.5 chat template.

InternVL3's language model was trained on exactly these strings. `<tool_call>` in them is a control token,
in the instructions as well; in text of a client it never is.
"""

import json
from collections.abc import Iterable, Sequence

from internvl_server.core import Tool, ToolCall
from internvl_server.prompt.segments import Control, Segment

__all__ = ["call_segments", "result_segments", "tools_segments"]

_CALL = Control("<tool_call>", is_optional=True)
_CALL_END = Control("</tool_call>", is_optional=True)
# Not a token in Qwen2.5's vocabulary, but in those of its successors.
_RESULT = Control("<tool_response>", is_optional=True)
_RESULT_END = Control("</tool_response>", is_optional=True)

_BEFORE_TOOLS = (
    "\n\n# Tools\n\n"
    "You may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n"
    "<tools>\n"
)
_AFTER_TOOLS: tuple[Segment, ...] = (
    "\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within ",
    _CALL,
    _CALL_END,
    " XML tags:\n",
    _CALL,
    '\n{"name": <function-name>, "arguments": <args-json-object>}\n',
    _CALL_END,
)


def tools_segments(tools: Sequence[Tool]) -> list[Segment]:
    """The text after the system message that lists the tools and the call format; empty without tools."""
    if not tools:
        return []
    return [_BEFORE_TOOLS, "\n".join(map(_tool_line, tools)), *_AFTER_TOOLS]


def call_segments(calls: Iterable[ToolCall]) -> list[Segment]:
    """The calls of one message, each on separate lines."""
    segments: list[Segment] = []
    for call in calls:
        body = f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments}}}'
        segments += ["\n" if segments else "", _CALL, f"\n{body}\n", _CALL_END]
    return segments


def result_segments(results: Iterable[Sequence[Segment]]) -> list[Segment]:
    """The results of one or several calls, in order."""
    segments: list[Segment] = []
    for result in results:
        segments += ["\n" if segments else "", _RESULT, "\n", *result, "\n", _RESULT_END]
    return segments


def _tool_line(tool: Tool) -> str:
    function: dict[str, object] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.parameters
    return json.dumps({"type": "function", "function": function}, ensure_ascii=False)
