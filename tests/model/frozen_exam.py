"""Frozen questions about coloured shapes, with their images, videos and expected answers.

``python -m scripts.demo_model.freeze`` writes these files.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "demo"
CONTENT: dict[str, Any] = json.loads((FOLDER / "questions.json").read_text(encoding="utf-8"))
REQUIRED_KINDS = ("describe", "count", "place", "where", "which", "who")
_MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".mp4": "video/mp4"}


@dataclass(frozen=True)
class Task:
    images: list[str]
    question: str
    answer: str
    detail: str
    earlier: tuple[str, str] | None = None


def tasks(kind: str) -> list[Task]:
    return [Task(**record) for record in CONTENT["tasks"][kind]]


def read(name: str) -> tuple[bytes, str]:
    path = FOLDER / name
    return path.read_bytes(), _MEDIA_TYPES[path.suffix]


def data_url(name: str) -> str:
    data, media_type = read(name)
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def image_part(name: str, detail: str = "auto") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(name), "detail": detail}}


def messages(task: Task) -> list[dict[str, Any]]:
    parts = [image_part(name, task.detail) for name in task.images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": task.question}]}]
