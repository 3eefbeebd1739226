"""The wire objects of content blocks: text, images, documents and search results.

Names of union branches begin with `~`, which keeps them out of the JSON paths of errors.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, Tag

from internvl_server.protocol.fields import Foreign
from internvl_server.protocol.fields.foreign import TILES
from internvl_server.protocol.wire import ImageDetail, MaxTiles, TextOr, Wire, discriminate_by_type

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
]


class Block(Wire):
    """A content block. `cache_control`, a hint for a cache, has no effect here."""

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
    """What happens to a large image; the server always scales images down to their tiles."""

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
    detail: ImageDetail = None
    """How finely the image is tiled: an extension of this server."""
    max_tiles: MaxTiles | None = None
    """Maximum number of tiles of the image, overriding `detail`: an extension of this server."""


class Citations(Wire):
    """Whether the answer cites the block; citations are not supported."""

    enabled: Literal[False] | None = None


class SearchResultBlock(Block):
    """A search result, which becomes text of the prompt."""

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
    content: TextOr[list[DocumentPart]]


class DocumentBlock(Block):
    """A document of text and images, which become part of the prompt after its title and context."""

    type: Literal["document"]
    source: Annotated[
        Annotated[TextSource, Tag("~text")] | Annotated[ContentSource, Tag("~content")],
        discriminate_by_type("text", "content"),
    ]
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None


UserPart: TypeAlias = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock
SystemBlocks: TypeAlias = TextOr[list[TextBlock]]
