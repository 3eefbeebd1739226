"""The wire objects of messages and of their content blocks.

Names of union branches begin with `~`, which keeps them out of the JSON paths of errors.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from internvl_server.protocol.fields import Foreign
from internvl_server.protocol.fields.foreign import TILES
from internvl_server.protocol.tools import CallArguments
from internvl_server.protocol.wire import MaxTiles, Wire

__all__ = [
    "AssistantTurn",
    "Base64Source",
    "ContentSource",
    "DocumentBlock",
    "ImageBlock",
    "SearchResultBlock",
    "SystemBlocks",
    "SystemTurn",
    "TextBlock",
    "ThinkingBlock",
    "ToolResultBlock",
    "ToolUseBlock",
    "Turn",
    "UrlSource",
    "UserBlock",
]


def _branch_of_content(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return "~blocks" if isinstance(value, list) else "~text"


def _branch_by_type(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return f"~{value.get('type')}" if isinstance(value, dict) else "~"


def _by_type(*allowed: str) -> Discriminator:
    names = ", ".join(f"'{name}'" for name in allowed)
    return Discriminator(
        _branch_by_type,
        custom_error_type="block_type",
        custom_error_message=f"It must be an object whose 'type' is one of {names}",
    )


class _Block(Wire):
    """The member of every block: a hint for a cache, without effect here."""

    cache_control: Any = None


class TextBlock(_Block):
    """Text. The citations of an earlier answer are accepted and not used."""

    type: Literal["text"]
    text: str
    citations: Any = None


class Base64Source(Wire):
    """An image's bytes; `data` may also be a whole `data:` URL."""

    type: Literal["base64"]
    media_type: str | None = None
    data: Annotated[str, Field(min_length=1)]


class UrlSource(Wire):
    """An image's address."""

    type: Literal["url"]
    url: Annotated[str, Field(min_length=1)]


class ImageTransformations(Wire):
    """What happens to a large image: it is scaled down to its tiles."""

    oversized_image: Literal["downsize"] | None = None


class ImageBlock(_Block):
    """An image."""

    foreign: ClassVar[Mapping[str, Foreign]] = TILES

    type: Literal["image"]
    source: Annotated[
        Annotated[Base64Source, Tag("~base64")] | Annotated[UrlSource, Tag("~url")],
        _by_type("base64", "url"),
    ]
    transformations: ImageTransformations | None = None
    detail: Literal["low", "medium", "auto", "high", "original"] | None = None
    """How finely the image is tiled: an extension of this server."""
    max_tiles: MaxTiles | None = None
    """Most tiles of the image, overriding `detail`: an extension of this server."""


class Citations(Wire):
    """Whether the answer cites the block, which it cannot do here."""

    enabled: Literal[False] | None = None


class SearchResultBlock(_Block):
    """A result of a search, which the prompt has as text."""

    type: Literal["search_result"]
    title: str
    source: str
    content: list[TextBlock]
    citations: Citations | None = None


class TextSource(Wire):
    """A document's text."""

    type: Literal["text"]
    media_type: Literal["text/plain"] | None = None
    data: str


DocumentPart: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("~text")] | Annotated[ImageBlock, Tag("~image")],
    _by_type("text", "image"),
]


class ContentSource(Wire):
    """A document's text and images."""

    type: Literal["content"]
    content: Annotated[
        Annotated[str, Tag("~text")] | Annotated[list[DocumentPart], Tag("~blocks")],
        Discriminator(_branch_of_content),
    ]


class DocumentBlock(_Block):
    """A document of text and images, which the prompt has after its title and context."""

    type: Literal["document"]
    source: Annotated[
        Annotated[TextSource, Tag("~text")] | Annotated[ContentSource, Tag("~content")],
        _by_type("text", "content"),
    ]
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None


class ToolUseBlock(_Block):
    """A call of a tool in an earlier answer, as the model wrote it."""

    type: Literal["tool_use"]
    id: str = ""
    name: str
    input: CallArguments | None = None
    caller: Any = None


UserPart: TypeAlias = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock
ResultPart: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("~text")]
    | Annotated[ImageBlock, Tag("~image")]
    | Annotated[DocumentBlock, Tag("~document")]
    | Annotated[SearchResultBlock, Tag("~search_result")],
    _by_type("text", "image", "document", "search_result"),
]


class ToolResultBlock(_Block):
    """The result of a tool, text and images; with `is_error` the prompt has it after `Error: `."""

    type: Literal["tool_result"]
    tool_use_id: str = ""
    content: (
        Annotated[
            Annotated[str, Tag("~text")] | Annotated[list[ResultPart], Tag("~blocks")],
            Discriminator(_branch_of_content),
        ]
        | None
    ) = None
    is_error: bool | None = None


class ThinkingBlock(_Block):
    """The reasoning of an earlier answer, which the prompt does not have."""

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
    _by_type("text", "image", "document", "search_result", "tool_result"),
]
AssistantBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("~text")]
    | Annotated[ImageBlock, Tag("~image")]
    | Annotated[ToolUseBlock, Tag("~tool_use")]
    | Annotated[ThinkingBlock, Tag("~thinking")]
    | Annotated[ThinkingBlock, Tag("~redacted_thinking")],
    _by_type("text", "image", "tool_use", "thinking", "redacted_thinking"),
]
SystemBlocks: TypeAlias = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[TextBlock], Tag("~blocks")],
    Discriminator(_branch_of_content),
]


class UserTurn(Wire):
    """Text, images, documents and results of tools."""

    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag("~text")] | Annotated[list[UserBlock], Tag("~blocks")],
        Discriminator(_branch_of_content),
    ]


class AssistantTurn(Wire):
    """An earlier answer; in last place, the beginning of the answer."""

    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag("~text")] | Annotated[list[AssistantBlock], Tag("~blocks")],
        Discriminator(_branch_of_content),
    ] = ""


class SystemTurn(Wire):
    """Instructions between other messages."""

    role: Literal["system"]
    content: SystemBlocks


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
