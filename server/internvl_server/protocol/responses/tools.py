"""Tools of `/v1/responses`: definitions, and the choice among them."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag

from internvl_server.protocol.tools import MAX_ALLOWED, Function, FunctionName, ToolMode
from internvl_server.protocol.wire import Wire

__all__ = ["FunctionTool", "ToolChoice", "chosen_tools"]


def _branch_of_choice(value: Any) -> str:  # noqa: ANN401  (any JSON value, or a wire object)
    if isinstance(value, str):
        return "~mode"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"~{kind}"


def _only_false(value: bool) -> bool:  # noqa: FBT001  (a validator)
    if value:
        raise ValueError("tools are always loaded at once here; leave it out")
    return value


class FunctionTool(Function):
    """A function the model may call."""

    type: Literal["function"]
    # Only hosted tools give these a meaning; the neutral values are accepted.
    allowed_callers: Annotated[list[Literal["direct"]], Field(fail_fast=True)] | None = None
    defer_loading: Annotated[bool, AfterValidator(_only_false)] | None = None


class FunctionChoice(Wire):
    """The function that must be called."""

    type: Literal["function"]
    name: FunctionName


class AllowedFunctions(Wire):
    """The tools that may (`auto`) or must (`required`) be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[
        list[FunctionChoice], Field(fail_fast=True, min_length=1, max_length=MAX_ALLOWED)
    ]


ToolChoice: TypeAlias = Annotated[
    Annotated[ToolMode, Tag("~mode")]
    | Annotated[FunctionChoice, Tag("~function")]
    | Annotated[AllowedFunctions, Tag("~allowed_tools")],
    Discriminator(
        _branch_of_choice,
        custom_error_type="tool_choice",
        custom_error_message=(
            "It must be 'none', 'auto', 'required', or an object whose 'type' is 'function' or "
            "'allowed_tools'"
        ),
    ),
]


def chosen_tools(
    choice: ToolMode | FunctionChoice | AllowedFunctions | None,
) -> tuple[ToolMode, list[tuple[str, str]]]:
    """The mode of a `tool_choice`, and the tools it names with the JSON paths of their names."""
    if isinstance(choice, FunctionChoice):
        return "required", [(choice.name, "tool_choice.name")]
    if isinstance(choice, AllowedFunctions):
        named = enumerate(choice.tools)
        return choice.mode, [(tool.name, f"tool_choice.tools[{i}].name") for i, tool in named]
    return choice or "auto", []
