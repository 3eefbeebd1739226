"""The wire objects of messages, and of the content blocks about tools and reasoning.

Names of union branches begin with `~`, which keeps them out of the JSON paths of errors.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Tag

from internvl_server.protocol.messages.content import (
    Block,
    DocumentBlock,
    ImageBlock,
    SearchResultBlock,
    TextBlock,
)
from internvl_server.protocol.tools import CallArguments
from internvl_server.protocol.wire import TextOr, Wire, discriminate_by_type

__all__ = [
    "AssistantTurn",
    "SystemTurn",
    "ThinkingBlock",
    "ToolChangeBlock",
    "ToolReferenceBlock",
    "ToolResultBlock",
    "ToolUseBlock",
    "Turn",
    "UserBlock",
    "UserTurn",
    "blocks_of",
]


class ToolUseBlock(Block):
    """A call of a tool in an earlier answer, as the model wrote it."""

    type: Literal["tool_use"]
    id: str = ""
    name: str
    input: CallArguments | None = None
    caller: Any = None


class ToolReferenceBlock(Block):
    """A tool that a search found: it is offered from now on, and its name becomes text of the prompt."""

    type: Literal["tool_reference"]
    tool_name: str


ResultPart: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("~text")]
    | Annotated[ImageBlock, Tag("~image")]
    | Annotated[DocumentBlock, Tag("~document")]
    | Annotated[SearchResultBlock, Tag("~search_result")]
    | Annotated[ToolReferenceBlock, Tag("~tool_reference")],
    discriminate_by_type("text", "image", "document", "search_result", "tool_reference"),
]


class ToolResultBlock(Block):
    """The result of a tool, as text and images; with `is_error` the prompt has `Error: ` before it."""

    type: Literal["tool_result"]
    tool_use_id: str = ""
    content: TextOr[list[ResultPart]] | None = None
    is_error: bool | None = None


class ThinkingBlock(Block):
    """The reasoning of an earlier answer, which is left out of the prompt."""

    type: Literal["thinking", "redacted_thinking"]
    thinking: Any = None
    signature: Any = None
    data: Any = None


UserBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("~text")]
    | Annotated[ImageBlock, Tag("~image")]
    | Annotated[DocumentBlock, Tag("~document")]
    | Annotated[SearchResultBlock, Tag("~search_result")]
    | Annotated[ToolResultBlock, Tag("~tool_result")],
    discriminate_by_type("text", "image", "document", "search_result", "tool_result"),
]
AssistantBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("~text")]
    | Annotated[ImageBlock, Tag("~image")]
    | Annotated[ToolUseBlock, Tag("~tool_use")]
    | Annotated[ThinkingBlock, Tag("~thinking")]
    | Annotated[ThinkingBlock, Tag("~redacted_thinking")],
    discriminate_by_type("text", "image", "tool_use", "thinking", "redacted_thinking"),
]


class UserTurn(Wire):
    """Text, images, documents and results of tools."""

    role: Literal["user"]
    content: TextOr[list[UserBlock]]


class AssistantTurn(Wire):
    """An earlier answer or, as the last message, the beginning of the new one."""

    role: Literal["assistant"]
    content: TextOr[list[AssistantBlock]] = ""


class ToolReference(Wire):
    """The name of a tool."""

    type: Literal["tool_reference"]
    name: str


class ToolChangeBlock(Block):
    """A tool that is offered or withdrawn from now on."""

    type: Literal["tool_addition", "tool_removal"]
    tool: ToolReference


SystemBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("~text")]
    | Annotated[ToolChangeBlock, Tag("~tool_addition")]
    | Annotated[ToolChangeBlock, Tag("~tool_removal")],
    discriminate_by_type("text", "tool_addition", "tool_removal"),
]


class SystemTurn(Wire):
    """Instructions between other messages; with `clear_at` they may end at the next message of the user."""

    role: Literal["system"]
    content: TextOr[list[SystemBlock]] = ""
    clear_at: Literal["next_user_message", "never"] | None = None


def _branch_of_turn(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return f"~{value.get('role')}" if isinstance(value, dict) else "~"


Turn: TypeAlias = Annotated[
    Annotated[UserTurn, Tag("~user")]
    | Annotated[AssistantTurn, Tag("~assistant")]
    | Annotated[SystemTurn, Tag("~system")],
    Discriminator(
        _branch_of_turn,
        custom_error_type="role",
        custom_error_message=(
            "It must be an object whose 'role' is 'user', 'assistant' or 'system'"
        ),
    ),
]


def blocks_of(turn: Turn) -> Sequence[Block]:
    """The content blocks of a message; a message that is one text has none."""
    return () if isinstance(turn.content, str) else turn.content
