"""What is measured: cells of the table, and the requests of each."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.load.bodies import chat_body, fresh_picture, text_of_length, tile_sizes

__all__ = ["CONTENTS", "SAMPLINGS", "Cell", "Scale", "cells"]

# Tiles of the picture in each request; 0 is text only.
CONTENTS = {"text": 0, "1 tile": 1, "13 tiles": 13}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "top_k 50": {"temperature": 1, "top_k": 50},
    "defaults": {},
}


@dataclass(frozen=True)
class Scale:
    """Sizes of requests, and how many there are."""

    folder: Path
    tile_px: int
    prompt_tokens: int = 512
    new_tokens: int = 128
    clients: tuple[int, ...] = (1, 8, 32, 64, 128)
    requests_per_client: int = 2
    least_requests: int = 4


@dataclass(frozen=True)
class Cell:
    """One measurement of one system; `extra` are further fields of its requests."""

    content: str
    sampling: str
    clients: int

    @property
    def name(self) -> str:
        return f"{self.content}, {self.sampling}, {self.clients}"

    def bodies(self, scale: Scale, start: int, **extra: Any) -> list[bytes]:
        """Requests with prompts and pictures that no other `start` has."""
        number = max(self.clients * scale.requests_per_client, scale.least_requests)
        return [self.body(scale, start + n, **extra) for n in range(number)]

    def body(self, scale: Scale, number: int, **extra: Any) -> bytes:
        num_tiles = CONTENTS[self.content]
        urls = []
        if num_tiles:
            urls = [fresh_picture(*tile_sizes(scale.tile_px, num_tiles), number)]
        num_tokens = 16 if num_tiles else scale.prompt_tokens
        fields = {
            "model": "model", "max_tokens": scale.new_tokens, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        text = text_of_length(scale.folder, num_tokens, number)
        return chat_body(text, *urls, **fields | SAMPLINGS[self.sampling] | extra)


def cells(scale: Scale) -> Iterator[Cell]:
    """The table, content by content."""
    for content, clients, sampling in itertools.product(CONTENTS, scale.clients, SAMPLINGS):
        yield Cell(content, sampling, clients)
