"""Refuses by name what needs a service or a store that this server does not have.

This comes before the validator, which would only say that a name is not one of the known ones.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from internvl_server.errors import UnsupportedParameterError

__all__ = ["HOSTED_ITEMS", "HOSTED_TOOLS", "HOSTED_TOOL_CHOICES", "refuse_hosted"]

_STORED_ITEMS: frozenset[str] = frozenset({"compaction", "compaction_trigger", "item_reference"})

# Records of tools that run at the provider, or of other features of the API.
HOSTED_ITEMS: frozenset[str] = _STORED_ITEMS | {
    "additional_tools",
    "apply_patch_call",
    "apply_patch_call_output",
    "code_interpreter_call",
    "computer_call",
    "computer_call_output",
    "configuration_update",
    "custom_tool_call",
    "custom_tool_call_output",
    "file_search_call",
    "image_generation_call",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "program",
    "program_output",
    "shell_call",
    "shell_call_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
}

HOSTED_TOOLS: frozenset[str] = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use_preview",
        "custom",
        "file_search",
        "image_generation",
        "local_shell",
        "mcp",
        "namespace",
        "programmatic_tool_calling",
        "shell",
        "tool_search",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
HOSTED_TOOL_CHOICES: frozenset[str] = HOSTED_TOOLS

_PARTS: Mapping[str, str] = {
    "input_file": "Send its text as 'input_text', or its pages as 'input_image'.",
    "input_audio": "The model takes no audio; send text.",
}


def refuse_hosted(fields: Mapping[str, Any]) -> None:
    """Refuse the first item, part, tool or tool choice of a type that is not supported.

    Raises:
        UnsupportedParameterError: With the JSON path of the type and the reason.
    """
    for path, item in _objects(fields.get("input"), "input"):
        _check_item(item, path)
        for name in ("content", "output"):
            for where, part in _objects(item.get(name), f"{path}.{name}"):
                _check_part(part, where)
    for path, tool in _objects(fields.get("tools"), "tools"):
        _check_kind(tool, path, HOSTED_TOOLS, "tools", "Use 'function' tools.")
    choice = fields.get("tool_choice")
    if isinstance(choice, dict):
        _check_kind(choice, "tool_choice", HOSTED_TOOLS, "tool choices", "Use 'function' tools.")


def _objects(value: Any, path: str) -> Iterable[tuple[str, dict[str, Any]]]:  # noqa: ANN401  (any JSON value)
    """The objects of a list, each with its JSON path. Anything else is left to the validator."""
    entries = enumerate(value) if isinstance(value, list) else ()
    return ((f"{path}[{i}]", entry) for i, entry in entries if isinstance(entry, dict))


def _check_item(item: Mapping[str, Any], path: str) -> None:
    if item.keys() == {"id"}:
        item = {"type": "item_reference"}
    is_stored = str(item.get("type")) in _STORED_ITEMS
    why = "Nothing is stored here; send messages and calls." if is_stored else "Leave it out."
    _check_kind(item, path, HOSTED_ITEMS, "input items", why)


def _check_part(part: Mapping[str, Any], path: str) -> None:
    kind = part.get("type")
    _check_kind(part, path, _PARTS.keys(), "content parts", _PARTS.get(str(kind), ""))
    if kind == "input_image" and part.get("file_id") is not None:
        raise UnsupportedParameterError(
            "'file_id' is not supported by this server, which stores no files. Give a data: or https: URL as "
            "'image_url'.",
            param=f"{path}.file_id",
        )


def _check_kind(
    value: Mapping[str, Any], path: str, refused: Iterable[str], what: str, instead: str
) -> None:
    kind = value.get("type")
    if isinstance(kind, str) and kind in refused:
        raise UnsupportedParameterError(
            f"{what.capitalize()} of type '{kind}' are not supported by this server. {instead}",
            param=f"{path}.type",
        )
