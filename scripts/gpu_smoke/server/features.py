"""What a request may ask for besides text: each must hold also for a model of random numbers."""

import json
import math
import re
from typing import Any

from scripts.gpu_smoke.prompts import question
from scripts.gpu_smoke.results import must
from scripts.gpu_smoke.server.running import Running

__all__ = [
    "cached_tokens",
    "ignore_eos",
    "json_schema",
    "logprobs",
    "min_tokens",
    "tool_call",
    "two_choices",
]

NUM_TOP = 5
# Two ways to the same number in bfloat16, whose step is 0.125 between 16 and 32.
SAME_LOGPROB = 0.3
MIN_TOKENS = 24
ARGUMENTS = {
    "type": "object",
    "properties": {
        "colour": {"type": "string", "enum": ["red", "green", "blue"]},
        "count": {"type": "string", "pattern": "^[0-9]{1,2}$"},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "find_blocks", "description": "Finds blocks.", "parameters": ARGUMENTS},
}


async def _ask(running: Running, text: str = "Which block is it?", **fields: Any) -> dict[str, Any]:
    """An answer to a question about a picture of one tile."""
    return await running.ask([question(text, (running.tile_px, running.tile_px))], **fields)


async def logprobs(running: Running) -> str:
    """Greedy and drawn log probabilities take different ways and must be the same numbers."""
    first = []
    for temperature in (0, 1):
        answer = await _ask(
            running, temperature=temperature, max_tokens=8, seed=1, logprobs=True,
            top_logprobs=NUM_TOP,
        )  # fmt: skip
        places = answer["choices"][0]["logprobs"]["content"]
        must(len(places) == answer["usage"]["completion_tokens"], "a place is missing")
        for place in places:
            _check_place(place, is_greedy=temperature == 0)
        first.append({token["token"]: token["logprob"] for token in places[0]["top_logprobs"]})
    common = first[0].keys() & first[1].keys()
    apart = max((abs(first[0][token] - first[1][token]) for token in common), default=math.inf)
    must(apart < SAME_LOGPROB, f"greedy and drawn differ by {apart}")
    return f"two ways {apart:.3f} apart"


def _check_place(place: dict[str, Any], *, is_greedy: bool) -> None:
    values = [token["logprob"] for token in place["top_logprobs"]]
    must(values == sorted(values, reverse=True), "the likeliest are not in order")
    must(sum(map(math.exp, values)) < 1.01, "they add up to more than 1")
    must(not is_greedy or place["logprob"] == values[0], "greedy did not take the likeliest")


async def json_schema(running: Running) -> str:
    schema = {"name": "blocks", "strict": True, "schema": ARGUMENTS}
    answer = await _ask(
        running, max_tokens=256, response_format={"type": "json_schema", "json_schema": schema}
    )
    (choice,) = answer["choices"]
    must(choice["finish_reason"] == "stop", "it was cut")
    return _check_arguments(choice["message"]["content"])


async def tool_call(running: Running) -> str:
    answer = await _ask(
        running, max_tokens=256, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    (choice,) = answer["choices"]
    must(choice["finish_reason"] == "tool_calls", f"it ended with {choice['finish_reason']}")
    calls = choice["message"]["tool_calls"]
    must(len(calls) == 1, f"there are {len(calls)} calls")
    must(calls[0]["function"]["name"] == "find_blocks", "wrong tool")
    return _check_arguments(calls[0]["function"]["arguments"])


def _check_arguments(text: str) -> str:
    """JSON text that must fit `ARGUMENTS`."""
    arguments = json.loads(text)
    must(arguments.keys() == {"colour", "count"}, f"wrong keys: {text}")
    must(arguments["colour"] in ("red", "green", "blue"), f"wrong colour: {text}")
    must(re.fullmatch("[0-9]{1,2}", arguments["count"]), f"wrong count: {text}")
    return text


async def min_tokens(running: Running) -> str:
    """Where an answer ended by itself, one more token must come when that many are asked for."""
    text = "Say yes."
    free = await _ask(running, text, max_tokens=2 * MIN_TOKENS)
    ended = free["choices"][0]["finish_reason"] == "stop"
    least = free["usage"]["completion_tokens"] if ended else MIN_TOKENS
    held = await _ask(running, text, max_tokens=2 * MIN_TOKENS + 1, min_tokens=least)
    number = held["usage"]["completion_tokens"]
    must(number > least or not ended, f"{number} tokens, where {least} and an end were due")
    must(number >= least, f"{number} tokens instead of at least {least}")
    return f"{number} of at least {least}" + (", held back from its end" if ended else "")


async def ignore_eos(running: Running) -> str:
    answer = await _ask(running, "Say yes.", ignore_eos=True)
    must(answer["choices"][0]["finish_reason"] == "length", "it ended before its length")
    number = answer["usage"]["completion_tokens"]
    must(number == 64, f"{number} of 64 tokens")
    return "ran to its length"


async def two_choices(running: Running) -> str:
    answer = await _ask(running, n=2, temperature=1, seed=3)
    must([choice["index"] for choice in answer["choices"]] == [0, 1], "there are not two choices")
    for choice in answer["choices"]:
        reason = choice["finish_reason"]
        must(reason in ("stop", "length"), f"one ended with {reason}")
    texts = {choice["message"]["content"] for choice in answer["choices"]}
    return f"{len(texts)} different texts"


async def cached_tokens(running: Running) -> str:
    """The same prompt again: only for an engine with a prefix cache."""
    for _ in range(2):
        answer = await _ask(running, "Describe the arrangement: " + "blocks " * 200)
    usage = answer["usage"]
    number = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    must(number, "no token of the same prompt was cached")
    return f"{number} of {usage['prompt_tokens']} cached"
