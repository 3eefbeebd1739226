"""One prompt, in the forms of the three endpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["DatasetError", "Part", "Prompt"]


class DatasetError(Exception):
    """A data set cannot be read or made, or does not fit the endpoint."""


class Part(Protocol):
    """A picture or a video; `url` is a `data:` URL, `type` that of a part in chat."""

    @property
    def type(self) -> str:
        """`image_url` or `video_url`."""
        ...

    @property
    def url(self) -> str:
        """A `data:` URL."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request.

    Attributes:
        text: What the user says, after the media.
        system: A text that prompts may share, before everything else.
        media: Pictures and videos.
        messages: A whole conversation as in chat, instead of the three above.
        max_tokens: Length of the answer; None leaves it to the server.
        num_tokens: Tokens of all texts, without those of the template; None if unknown.
        fields: Further members of the body.
        group: Which shared beginning it has, if any.
    """

    text: str = ""
    system: str = ""
    media: Sequence[Part] = ()
    messages: Sequence[Mapping[str, Any]] | None = None
    max_tokens: int | None = None
    num_tokens: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    group: int | None = None

    def chat_messages(self) -> list[Mapping[str, Any]]:
        """As the messages of chat."""
        if self.messages is not None:
            return list(self.messages)
        parts: list[dict[str, Any]] = [
            {"type": part.type, part.type: {"url": part.url}} for part in self.media
        ]
        content = [*parts, {"type": "text", "text": self.text}] if parts else self.text
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": content}]

    def response_items(self) -> list[Mapping[str, Any]]:
        """As the input items of responses, where a video has the place of an image."""
        if self.messages is not None:
            return [
                {**message, "content": _as_input(message["content"])} for message in self.messages
            ]
        parts = [{"type": "input_image", "image_url": part.url} for part in self.media]
        content = [*parts, {"type": "input_text", "text": self.text}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": content}]

    def plain_text(self) -> str:
        """As a text without a template.

        Raises:
            ValueError: It has pictures, or is a conversation.
        """
        if self.media:
            raise ValueError("completions have no pictures or videos: take --endpoint chat")
        if self.messages is not None:
            raise ValueError("completions have no messages: take --endpoint chat")
        return f"{self.system} {self.text}" if self.system else self.text


def _as_input(content: object) -> object:
    """The content of a message of chat as an input item has it."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "input_text", "text": part["text"]}
        if part["type"] == "text"
        else {"type": "input_image", "image_url": part[part["type"]]["url"]}
        for part in content
    ]
