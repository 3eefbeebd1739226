"""What guides are in the words of TurboMind's grammar compiler: xgrammar's structural tags."""

import json
from collections.abc import Mapping
from typing import Any

from server.core import Guide
from server.engine.lmdeploy_schema import check_schema
from server.errors import UnsupportedParameterError

__all__ = ["check_guided_schema", "structural_tag"]

_BEGIN, _END = "<tool_call>", "</tool_call>"


def structural_tag(guide: Guide) -> str:
    """JSON text of the structural tag of a `grammar` or of `tool_calls`.

    Raises:
        UnsupportedParameterError: The schema of a tool uses what answers would not be held to.
    """
    if guide.kind == "grammar":
        return _tag({"type": "grammar", "grammar": guide.source})
    calls = json.loads(guide.source)
    for tool in calls["tools"]:
        check_guided_schema(guide, tool["parameters"])
    tags = [_call(tool) for tool in calls["tools"]]
    is_one = not calls["is_parallel"]
    if calls["is_required"]:
        # Nothing but calls, a newline between them.
        shape = {"type": "tags_with_separator", "separator": "\n", "at_least_one": True}
    else:
        # Any text in which what begins a call is a call; after the only one nothing.
        shape = {"type": "triggered_tags", "triggers": [_BEGIN], "at_least_one": False}
    return _tag(shape | {"tags": tags, "stop_after_first": is_one})


def check_guided_schema(guide: Guide, schema: object) -> None:
    """Refuse a schema that an answer would not be held to in full.

    Raises:
        UnsupportedParameterError: Names the keyword, and the field the guide came from.
    """
    try:
        check_schema(schema)
    except ValueError as err:
        raise UnsupportedParameterError(
            f"The {guide.param} cannot be used: {err}.", param=guide.param
        ) from None


def _call(tool: Mapping[str, Any]) -> dict[str, object]:
    name = json.dumps(tool["name"], ensure_ascii=False)
    return {
        "type": "tag",
        "begin": f'{_BEGIN}\n{{"name": {name}, "arguments": ',
        "content": {"type": "json_schema", "json_schema": tool["parameters"]},
        "end": f"}}\n{_END}",
    }


def _tag(shape: dict[str, Any]) -> str:
    return json.dumps({"type": "structural_tag", "format": shape}, ensure_ascii=False)
