"""Counts tokens: by a tokenizer's file, by the server's `/tokenize`, or not at all."""

from pathlib import Path
from typing import Protocol

import httpx2
from tokenizers import Tokenizer

from internvl_server.bench.datasets.base import DatasetError

__all__ = ["EstimatedCounter", "FileCounter", "ServerCounter", "TokenCounter", "counter_for"]

_CHARACTERS_A_TOKEN = 4


class TokenCounter(Protocol):
    """Counts the tokens of texts. `is_exact` tells whether it may be relied on."""

    is_exact: bool
    name: str

    async def count(self, text: str) -> int:
        """Tokens of a text, without special tokens."""
        ...


class FileCounter:
    """Counts by a `tokenizer.json`, or a folder that has one.

    Raises:
        DatasetError: It cannot be read.
    """

    is_exact = True

    def __init__(self, path: Path) -> None:
        file = path / "tokenizer.json" if path.is_dir() else path
        self.name = str(path)
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as err:
            raise DatasetError(f"{file}: {err}") from err

    async def count(self, text: str) -> int:
        """Tokens of a text, without special tokens."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


class ServerCounter:
    """Counts by `/tokenize`, which this server and vLLM have."""

    is_exact = True
    name = "/tokenize"

    def __init__(self, http: httpx2.AsyncClient, model: str) -> None:
        self._http, self._model = http, model

    async def count(self, text: str) -> int:
        """Tokens of a text, without special tokens.

        Raises:
            DatasetError: The server does not answer as expected.
        """
        body = {"model": self._model, "prompt": text, "add_special_tokens": False}
        try:
            answer = (await self._http.post("/tokenize", json=body)).raise_for_status().json()
            return int(answer["count"])
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as err:
            raise DatasetError(f"/tokenize: {type(err).__name__}") from err


class EstimatedCounter:
    """Assumes four characters a token, where nothing can count."""

    is_exact = False
    name = "estimated"

    async def count(self, text: str) -> int:
        """About as many tokens as an English text of this length has."""
        return max(1, round(len(text) / _CHARACTERS_A_TOKEN))


async def counter_for(tokenizer: Path | None, http: httpx2.AsyncClient, model: str) -> TokenCounter:
    """The best counter there is: the file, else the server, else an estimate.

    Raises:
        DatasetError: The file cannot be read.
    """
    if tokenizer is not None:
        return FileCounter(tokenizer)
    server = ServerCounter(http, model)
    try:
        await server.count("one two")
    except DatasetError:
        return EstimatedCounter()
    return server
