"""The messages of a conversation, and the images and videos of its next question."""

import mimetypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pybase64

__all__ = ["ChatError", "Conversation", "find_file", "media_part"]

_UNKNOWN_TYPE = "application/octet-stream"


class ChatError(Exception):
    """A file or an input cannot be used; nothing was sent."""


@dataclass
class Conversation:
    """Questions and their answers, as the messages of chat completions.

    Attributes:
        system: The system message; empty: none.
        attachments: Parts that the next question begins with.
    """

    system: str = ""
    attachments: list[dict[str, Any]] = field(default_factory=list)
    _turns: list[list[dict[str, Any]]] = field(default_factory=list)

    def question(self, text: str) -> dict[str, Any]:
        """A question as a message, with the attachments."""
        parts = [*self.attachments, {"type": "text", "text": text}]
        return {"role": "user", "content": parts if self.attachments else text}

    def messages(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        """The messages of a request that asks a question."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *(message for turn in self._turns for message in turn), question]

    def add(self, question: dict[str, Any], answer: str) -> None:
        """Keep an answered question. Its attachments are no longer those of the next one."""
        self._turns.append([question, {"role": "assistant", "content": answer}])
        self.attachments.clear()

    def undo(self) -> str:
        """Drop the attachments, or else the last question with its answer. Returns what was dropped."""
        if self.attachments:
            self.attachments.clear()
            return "the attachments"
        return (
            "the last question and its answer" if self._turns and self._turns.pop() else "nothing"
        )

    def reset(self) -> None:
        """Drop everything except the system message."""
        self.attachments.clear()
        self._turns.clear()


def media_part(kind: Literal["image", "video"], source: str) -> dict[str, Any]:
    """An image or a video as a part of a message.

    Args:
        kind: Which of them.
        source: An http, https or data URL, which the server fetches or decodes, or the path of a file, which
            becomes a data URL.

    Raises:
        ChatError: The file cannot be read, or its name is that of something else.
    """
    is_url = source.lower().startswith(("http://", "https://", "data:"))
    url = source if is_url else _data_url(kind, source)
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def find_file(name: str) -> Path | None:
    """The file of a name, which may begin with ~; None if there is none."""
    try:
        path = Path(name).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, a user who does not exist, a zero byte
        return None


def _data_url(kind: str, source: str) -> str:
    media_type = mimetypes.guess_type(Path(source).name)[0] or _UNKNOWN_TYPE
    if media_type != _UNKNOWN_TYPE and not media_type.startswith(f"{kind}/"):
        raise ChatError(f"{source} is not of the kind {kind}, but {media_type}")
    path = find_file(source)
    if path is None:
        raise ChatError(f"there is no file {source}")
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ChatError(f"{path}: {err.strerror}") from err
    return f"data:{media_type};base64,{pybase64.b64encode(data).decode()}"
