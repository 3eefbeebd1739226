"""One request at a time: every kind, the same twice, and the longest prompt."""

from functools import partial

from scripts.gpu_smoke.prompts import Messages, question, request_kinds
from scripts.gpu_smoke.results import must
from scripts.gpu_smoke.server.running import Running

__all__ = ["every_kind", "greedy_twice", "longest_prompt"]

# Kernels round differently in bfloat16, so long texts part; the beginning must not.
MIN_EQUAL_CHARS = 4
_MAX_TOKENS = 32
_SHORT, _LONG = 200, 400  # words of two prompts, whose difference gives the tokens of a word


async def every_kind(running: Running) -> str:
    """All kinds of request are answered, with as many prompt tokens as were counted beforehand."""
    found = []
    for name, (messages, _) in request_kinds(running.tile_px).items():
        answer = await running.ask(messages, max_tokens=8)
        counted = await count(running, messages)
        must(answer["usage"]["prompt_tokens"] == counted, f"{name}: another length than counted")
        found.append(f"{name}: {counted}")
    return "prompt tokens of " + ", ".join(found)


async def greedy_twice(running: Running) -> str:
    """The second run may take other sums, from the prefix cache; how far are the texts equal?"""
    found = []
    for name, (messages, _) in request_kinds(running.tile_px).items():
        ask = partial(running.ask, messages, max_tokens=_MAX_TOKENS)
        one, other = [(await ask())["choices"][0]["message"]["content"] for _ in range(2)]
        equal, length = num_equal(one, other), len(other)
        must(equal >= min(MIN_EQUAL_CHARS, length), f"{name}: equal {equal} of {length} characters")
        found.append(f"{name}: {equal} of {length}")
    return "equal characters of " + ", ".join(found)


def num_equal(one: str, other: str) -> int:
    """Characters two texts have in common from the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


async def count(running: Running, messages: Messages) -> int:
    response = await running.post("/v1/chat/completions/input_tokens", {"messages": messages})
    must(response.is_success, f"input_tokens: {response.text[:200]}")
    return int(response.json()["input_tokens"])


async def longest_prompt(running: Running) -> str:
    """A prompt of all of the context but one token is answered with that token; one more is refused."""
    sizes = [await count(running, _words(number)) for number in (_SHORT, _LONG)]
    per_word = (sizes[1] - sizes[0]) / (_LONG - _SHORT)
    room = running.max_model_len - 1
    number = int(_SHORT + (room - sizes[0]) / per_word)
    rest = room - await count(running, _words(number))
    messages = _words(number, rest)
    counted = await count(running, messages)
    must(counted == room, f"the prompt has {counted} tokens, not {room}: no words of one token")
    answer = await running.ask(messages, max_tokens=1)
    must(answer["usage"]["completion_tokens"] == 1, "not one token")
    longer = await running.post(
        "/v1/chat/completions", {"messages": _words(number, rest + 1), "max_tokens": 1}
    )
    must(longer.status_code == 400, f"one token more: {longer.status_code} instead of 400")
    return f"{counted} + 1 of {running.max_model_len} tokens; one more is refused"


def _words(number: int, more: int = 0) -> Messages:
    """Words of as many tokens each, and signs to fill what is less than a word."""
    return [question("a" + " a" * number + "!" * more)]
