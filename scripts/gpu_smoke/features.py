"""What a request may ask for besides text, on a running server: one row each, judged by what must hold.

Everything is bounded, so that a model of random numbers passes as well.
"""

import json
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import openai
from openai.types.chat import ChatCompletion

from scripts.gpu_smoke.prompts import question

__all__ = ["try_features"]

Check: TypeAlias = Callable[[openai.AsyncOpenAI, str], Awaitable[str]]

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


async def ask(
    client: openai.AsyncOpenAI, model: str, text: str = "Which block is it?", **fields: Any
) -> ChatCompletion:
    """One answer to a question about a picture, greedy unless the fields say otherwise."""
    fields = {"max_tokens": 64, "temperature": 0} | fields
    answer = await client.chat.completions.create(
        model=model, messages=[question(text, (448, 448))], **fields
    )
    assert isinstance(answer, ChatCompletion)
    return answer


def must(holds: object, what: str) -> None:
    if not holds:
        raise AssertionError(what)


async def logprobs(client: openai.AsyncOpenAI, model: str) -> str:
    """Greedy and drawn log probabilities take different ways and must be the same numbers."""
    asked = {"logprobs": True, "top_logprobs": NUM_TOP}
    first = []
    for temperature in (0, 1):
        answer = await ask(client, model, temperature=temperature, max_tokens=8, seed=1, **asked)
        found = answer.choices[0].logprobs
        places = found.content if found is not None and found.content is not None else []
        must(answer.usage and len(places) == answer.usage.completion_tokens, "a place is missing")
        for place in places:
            values = [token.logprob for token in place.top_logprobs]
            must(values == sorted(values, reverse=True), "the likeliest are not in order")
            must(sum(map(math.exp, values)) < 1.01, "they add up to more than 1")
            must(
                place.token in [token.token for token in place.top_logprobs],
                "the chosen is missing",
            )
            must(temperature or place.logprob == values[0], "greedy did not take the likeliest")
        first.append({token.token: token.logprob for token in places[0].top_logprobs})
    common = first[0].keys() & first[1].keys()
    apart = max((abs(first[0][token] - first[1][token]) for token in common), default=math.inf)
    must(apart < SAME_LOGPROB, f"greedy and drawn differ by {apart}")
    return f"two ways {apart:.3f} apart"


async def json_schema(client: openai.AsyncOpenAI, model: str) -> str:
    schema = {"name": "blocks", "strict": True, "schema": ARGUMENTS}
    answer = await ask(
        client,
        model,
        max_tokens=256,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    must(answer.choices[0].finish_reason == "stop", "it was cut")
    return check_arguments(answer.choices[0].message.content or "")


async def tool_call(client: openai.AsyncOpenAI, model: str) -> str:
    answer = await ask(
        client,
        model,
        max_tokens=256,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    (choice,) = answer.choices
    must(choice.finish_reason == "tool_calls", f"it ended with {choice.finish_reason}")
    calls = choice.message.tool_calls or []
    must(len(calls) == 1, f"there are {len(calls)} calls")
    must(calls[0].type == "function" and calls[0].function.name == "find_blocks", "wrong tool")
    return check_arguments(calls[0].function.arguments)


def check_arguments(text: str) -> str:
    """JSON text that must fit `ARGUMENTS`."""
    arguments = json.loads(text)
    must(arguments.keys() == {"colour", "count"}, f"wrong keys: {text}")
    must(arguments["colour"] in ("red", "green", "blue"), f"wrong colour: {text}")
    must(re.fullmatch("[0-9]{1,2}", arguments["count"]), f"wrong count: {text}")
    return text


async def min_tokens(client: openai.AsyncOpenAI, model: str) -> str:
    """Where an answer ended by itself, one more token must come when that many are asked for."""
    text = "Say yes."
    free = await ask(client, model, text, max_tokens=2 * MIN_TOKENS)
    assert free.usage is not None
    ended = free.choices[0].finish_reason == "stop"
    least = free.usage.completion_tokens if ended else MIN_TOKENS
    held = await ask(
        client, model, text, max_tokens=2 * MIN_TOKENS + 1, extra_body={"min_tokens": least}
    )
    assert held.usage is not None
    number = held.usage.completion_tokens
    must(number > least or not ended, f"{number} tokens, where {least} and an end were due")
    must(number >= least, f"{number} tokens instead of at least {least}")
    return f"{number} of at least {least}" + (", held back from its end" if ended else "")


async def ignore_eos(client: openai.AsyncOpenAI, model: str) -> str:
    answer = await ask(client, model, "Say yes.", extra_body={"ignore_eos": True})
    assert answer.usage is not None
    must(answer.choices[0].finish_reason == "length", "it ended before its length")
    must(answer.usage.completion_tokens == 64, f"{answer.usage.completion_tokens} of 64 tokens")
    return "ran to its length"


async def two_choices(client: openai.AsyncOpenAI, model: str) -> str:
    answer = await ask(client, model, n=2, temperature=1, seed=3)
    must([choice.index for choice in answer.choices] == [0, 1], "there are not two choices")
    for choice in answer.choices:
        must(choice.finish_reason in ("stop", "length"), f"one ended with {choice.finish_reason}")
    texts = {choice.message.content for choice in answer.choices}
    return f"{len(texts)} different texts"


CHECKS: dict[str, Check] = {
    "logprobs": logprobs, "json_schema": json_schema, "tool call": tool_call,
    "min_tokens": min_tokens, "ignore_eos": ignore_eos, "n = 2": two_choices,
}  # fmt: skip


async def cached_tokens(client: openai.AsyncOpenAI, model: str) -> str:
    """The same prompt again: only for an engine with a prefix cache."""
    for _ in range(2):
        answer = await ask(client, model, "A question of its own: " + "blocks " * 200)
    details = answer.usage.prompt_tokens_details if answer.usage is not None else None
    number = details.cached_tokens if details is not None else None
    must(number, "no token of the same prompt was cached")
    assert answer.usage is not None
    return f"{number} of {answer.usage.prompt_tokens} cached"


async def try_features(
    client: openai.AsyncOpenAI, model: str, *, has_prefix_cache: bool = True
) -> list[tuple[str, str, bool]]:
    """What was tried, what came of it, and whether that is right."""
    rows = []
    checks = CHECKS | ({"prefix cache": cached_tokens} if has_prefix_cache else {})
    for name, check in checks.items():
        try:
            rows.append((name, await check(client, model), True))
        except (AssertionError, ValueError, LookupError, openai.OpenAIError) as error:
            rows.append((name, f"{type(error).__name__}: {error}"[:200], False))
    return rows
