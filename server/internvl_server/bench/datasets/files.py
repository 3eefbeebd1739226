"""Prompts from files: conversations in ShareGPT's JSON, and JSON lines of requests."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from internvl_server.bench.datasets.base import DatasetError, Prompt
from internvl_server.bench.datasets.counting import TokenCounter

__all__ = ["read_requests", "read_sharegpt"]

_MIN_TOKENS, _MAX_PROMPT_TOKENS, _MAX_TOKENS = 4, 1024, 2048
_OWN_FIELDS = frozenset(
    {"model", "messages", "prompt", "stream", "stream_options", "output_tokens"}
)


async def read_sharegpt(
    path: Path, number: int, counter: TokenCounter, *, output_len: int | None, seed: int
) -> list[Prompt]:
    """The first turns of conversations, in a random order; answers are as long as those of the file.

    As in `vllm bench serve`, turns of fewer than 4 tokens, prompts of more than 1,024 and pairs of more than
    2,048 are left out. Prompts are repeated if the file has too few.

    Args:
        path: A JSON list of `{"conversations": [{"from", "value"}, …]}`.
        number: How many prompts.
        counter: Counts tokens.
        output_len: Tokens of answers instead of those of the file.
        seed: Of the order.

    Raises:
        DatasetError: The file is not like this, or nothing is left.
    """
    pairs = list(_pairs(_json(path), path))
    found: list[Prompt] = []
    for index in np.random.default_rng(seed).permutation(len(pairs)):
        if len(found) == number:
            break
        text, answer = pairs[index]
        size = await counter.count(text)
        length = await counter.count(answer) if output_len is None else output_len
        is_short = size < _MIN_TOKENS or (output_len is None and length < _MIN_TOKENS)
        if is_short or size > _MAX_PROMPT_TOKENS or size + length > _MAX_TOKENS:
            continue
        found.append(Prompt(text, max_tokens=length, num_tokens=size))
    return _repeated(found, number, path)


def read_requests(path: Path, number: int, *, output_len: int | None) -> list[Prompt]:
    """Requests of a file, one a line, in its order and repeated if there are too few.

    A line has `messages` or `prompt`, further members of a body, and `output_tokens` for the length of the
    answer; or it is a line of a batch file, whose `body` has them.

    Raises:
        DatasetError: A line is not like this.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [_request(line, f"{path}:{at}") for at, line in enumerate(lines, 1) if line.strip()]
    if output_len is not None:
        found = [replace(prompt, max_tokens=output_len) for prompt in found]
    return _repeated(found, number, path)


def _request(line: str, place: str) -> Prompt:
    try:
        value = json.loads(line)
        body = value.get("body", value)
        fields = {name: item for name, item in body.items() if name not in _OWN_FIELDS}
        text, messages = body.get("prompt", ""), body.get("messages")
    except (ValueError, AttributeError) as err:
        raise DatasetError(f"{place}: not a JSON object") from err
    if messages is None and not (isinstance(text, str) and text):
        raise DatasetError(f"{place}: there is no text in `prompt` and no `messages`")
    return Prompt(text, messages=messages, max_tokens=body.get("output_tokens"), fields=fields)


def _pairs(value: object, path: Path) -> Iterator[tuple[str, str]]:
    """The first two turns of each conversation that has two."""
    try:
        for item in cast("list[Any]", value):
            turns = item.get("conversations") or item.get("conversation") or []
            if len(turns) > 1:
                yield turns[0]["value"], turns[1]["value"]
    except (AttributeError, KeyError, TypeError) as err:
        raise DatasetError(f"{path}: not a list of conversations as ShareGPT's") from err


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise DatasetError(f"{path}: {err}") from err


def _repeated(prompts: list[Prompt], number: int, path: Path) -> list[Prompt]:
    if not prompts:
        raise DatasetError(f"{path}: no prompt of a usable length")
    return [prompts[index % len(prompts)] for index in range(number)]
