"""What guides are in the words of TurboMind's grammar compiler: xgrammar's structural tags."""

import json
from typing import Any

from internvl_server.core import Guide
from internvl_server.engine.turbomind.guided.schema import native_schema
from internvl_server.errors import UnsupportedParameterError

__all__ = ["schema_of", "structural_tag"]

_BEGIN, _END = "<tool_call>", "</tool_call>"


def structural_tag(guide: Guide) -> str:
    """JSON text of the structural tag of a `grammar` or of `tool_calls`.

    Raises:
        UnsupportedParameterError: The schema of a tool uses what answers would not be held to.
    """
    if guide.kind == "grammar":
        return _tag({"type": "grammar", "grammar": guide.source})
    calls = json.loads(guide.source)
    if "answer" in calls:
        raise UnsupportedParameterError(
            f"The turbomind engine cannot hold an answer to '{guide.param}' where tools may be called "
            "instead. Leave one of them out.",
            param=guide.param,
        )
    tags = [_call(tool["name"], schema_of(guide, tool["parameters"])) for tool in calls["tools"]]
    is_one = not calls["is_parallel"]
    if calls["is_required"]:
        # Nothing but calls, a newline between them.
        shape = {"type": "tags_with_separator", "separator": "\n", "at_least_one": True}
    else:
        # Any text in which what begins a call is a call; after the only one nothing.
        shape = {"type": "triggered_tags", "triggers": [_BEGIN], "at_least_one": False}
    return _tag(shape | {"tags": tags, "stop_after_first": is_one})


def schema_of(guide: Guide, schema: object) -> object:
    """A schema of the guide, as an answer is held to all of it.

    Raises:
        UnsupportedParameterError: Names the keyword, and the field the guide came from.
    """
    try:
        return native_schema(schema)
    except ValueError as err:
        raise UnsupportedParameterError(
            f"The {guide.param} cannot be used: {err}.", param=guide.param
        ) from None


def _call(name: str, parameters: object) -> dict[str, object]:
    written = json.dumps(name, ensure_ascii=False)
    return {
        "type": "tag",
        "begin": f'{_BEGIN}\n{{"name": {written}, "arguments": ',
        "content": {"type": "json_schema", "json_schema": parameters},
        "end": f"}}\n{_END}",
    }


def _tag(shape: dict[str, Any]) -> str:
    return json.dumps({"type": "structural_tag", "format": shape}, ensure_ascii=False)
