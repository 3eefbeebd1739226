"""Refuses by name what needs a service or storage that this server does not have.

This runs before validation, whose message would only say that a type is unknown.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from internvl_server.errors import UnsupportedParameterError

__all__ = ["refuse_unsupported"]

_CUSTOM = "Give the tool a name, a description and an 'input_schema', without a 'type'."
_LEAVE_OUT = "Leave it out."

# Blocks of tools that run at the provider, or of other services.
_BLOCKS: Mapping[str, str] = {
    "advisor_tool_result": _LEAVE_OUT,
    "bash_code_execution_tool_result": _LEAVE_OUT,
    "browser_state": _LEAVE_OUT,
    "code_execution_tool_result": _LEAVE_OUT,
    "compaction": "Send the messages themselves.",
    "container_upload": "Files are not stored here; send text or images.",
    "fallback": _LEAVE_OUT,
    "mcp_tool_listing": _LEAVE_OUT,
    "mcp_tool_result": _LEAVE_OUT,
    "mcp_tool_use": _LEAVE_OUT,
    "server_tool_use": _LEAVE_OUT,
    "text_editor_code_execution_tool_result": _LEAVE_OUT,
    "tool_search_tool_result": _LEAVE_OUT,
    "web_fetch_tool_result": _LEAVE_OUT,
    "web_search_tool_result": _LEAVE_OUT,
}
_SOURCES: Mapping[tuple[str, str], str] = {
    ("document", "base64"): "Send its text, or its pages as images.",
    ("document", "file"): "Files are not stored here; send its text, or its pages as images.",
    ("document", "url"): "Send its text, or its pages as images.",
    ("image", "file"): "Files are not stored here; send the image as 'base64' or 'url'.",
}


def refuse_unsupported(fields: Mapping[str, Any]) -> None:
    """Refuse a thread, and the first block or tool of a type that is not supported.

    Raises:
        UnsupportedParameterError: With the JSON path of the type and the reason. The code for a thread tells
            the SDK that it must send the whole conversation.
    """
    if fields.get("thread") is not None:
        raise UnsupportedParameterError(
            "Nothing is stored here; send the whole conversation in 'messages', without 'thread'.",
            param="thread",
            code="thread_unsupported_request",
        )
    for path, tool in _objects(fields.get("tools"), "tools"):
        kind = tool.get("type")
        if isinstance(kind, str) and kind != "custom":
            raise _unsupported(f"Tools of type '{kind[:64]}'", f"{path}.type", _CUSTOM)
    for path, turn in _objects(fields.get("messages"), "messages"):
        _check_blocks(turn, path)


def _check_blocks(holder: Mapping[str, Any], path: str) -> None:
    for where, block in _objects(holder.get("content"), f"{path}.content"):
        kind, source = block.get("type"), block.get("source")
        if isinstance(kind, str) and kind in _BLOCKS:
            raise _unsupported(f"Blocks of type '{kind}'", f"{where}.type", _BLOCKS[kind])
        if isinstance(source, dict):
            _check_source(str(kind), source, f"{where}.source")
        if kind == "tool_result":
            _check_blocks(block, where)


def _check_source(kind: str, source: Mapping[str, Any], path: str) -> None:
    instead = _SOURCES.get((kind, str(source.get("type"))))
    if instead is not None:
        raise _unsupported(
            f"A{'n' * (kind == 'image')} {kind} with a source of type '{source['type']}'",
            f"{path}.type",
            instead,
        )


def _objects(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401  (any JSON value)
    """The objects of a list, each with its JSON path. Anything else is left to the validator."""
    entries = enumerate(value) if isinstance(value, list) else ()
    return ((f"{path}[{i}]", entry) for i, entry in entries if isinstance(entry, dict))


def _unsupported(what: str, path: str, instead: str) -> UnsupportedParameterError:
    verb = "are" if what.startswith(("Blocks", "Tools")) else "is"
    return UnsupportedParameterError(
        f"{what} {verb} not supported by this server. {instead}", param=path
    )
