"""The wire objects of content blocks: text, images, documents and search results.

Names of union branches begin with `~`, which keeps them out of the JSON paths of errors.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from internvl_server.protocol.fields import Foreign
from internvl_server.protocol.fields.foreign import TILES
from internvl_server.protocol.wire import MaxTiles, Wire

__all__ = [
    "Base64Source",
    "Block",
    "ContentSource",
    "DocumentBlock",
    "ImageBlock",
    "SearchResultBlock",
    "SystemBlocks",
    "TextBlock",
    "UrlSource",
    "UserPart",
    "branch_of_content",
    "discriminate_by_type",
]


def branch_of_content(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    """The branch of a content that is a text or a list of blocks."""
    return "~blocks" if isinstance(value, list) else "~text"


def _branch_by_type(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return f"~{value.get('type')}" if isinstance(value, dict) else "~"


def discriminate_by_type(*allowed: str) -> Discriminator:
    """Tell the branches of a union by `type`; their tags are the type's names with `~` before them.

    Args:
        allowed: The names of the types.
    """
    names = ", ".join(f"'{name}'" for name in allowed)
    return Discriminator(
        _branch_by_type,
        custom_error_type="block_type",
        custom_error_message=f"It must be an object whose 'type' is one of {names}",
    )


class Block(Wire):
    """The member of every block: a hint for a cache, without effect here."""

    cache_control: Any = None


class TextBlock(Block):
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


class ImageBlock(Block):
    """An image."""

    foreign: ClassVar[Mapping[str, Foreign]] = TILES

    type: Literal["image"]
    source: Annotated[
        Annotated[Base64Source, Tag("~base64")] | Annotated[UrlSource, Tag("~url")],
        discriminate_by_type("base64", "url"),
    ]
    transformations: ImageTransformations | None = None
    detail: Literal["low", "medium", "auto", "high", "original"] | None = None
    """How finely the image is tiled: an extension of this server."""
    max_tiles: MaxTiles | None = None
    """Most tiles of the image, overriding `detail`: an extension of this server."""


class Citations(Wire):
    """Whether the answer cites the block, which it cannot do here."""

    enabled: Literal[False] | None = None


class SearchResultBlock(Block):
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
    discriminate_by_type("text", "image"),
]


class ContentSource(Wire):
    """A document's text and images."""

    type: Literal["content"]
    content: Annotated[
        Annotated[str, Tag("~text")] | Annotated[list[DocumentPart], Tag("~blocks")],
        Discriminator(branch_of_content),
    ]


class DocumentBlock(Block):
    """A document of text and images, which the prompt has after its title and context."""

    type: Literal["document"]
    source: Annotated[
        Annotated[TextSource, Tag("~text")] | Annotated[ContentSource, Tag("~content")],
        discriminate_by_type("text", "content"),
    ]
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None


UserPart: TypeAlias = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock
SystemBlocks: TypeAlias = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[TextBlock], Tag("~blocks")],
    Discriminator(branch_of_content),
]
