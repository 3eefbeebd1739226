"""Compiling what an answer is held to: before the request is accepted, off the event loop, bounded."""

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from internvl_server.core import Constraint, Grammar, JsonSchema, Regex
from internvl_server.errors import (
    EngineOverloadedError,
    EngineUnavailableError,
    InvalidRequestError,
)

__all__ = ["GrammarCompiler", "check_guide"]

_Grammar = TypeVar("_Grammar")

_MAX_CHARS = 64 << 10
_MAX_DEPTH = 32
# Nested repetitions multiply: `((a{99}){99}){99}` is short and has a million states.
_MAX_STATES = 50_000
_REPEAT_OR_CHAR = r"\{(?:\d*,)?(?P<most>\d+),?\}|."
_ATOM = re.compile(
    r"\\.|\[(?:\\.|[^\]\\])*+(?:\]|(?P<unclosed>\\?\Z))|" + _REPEAT_OR_CHAR, re.DOTALL
)
_ATOM_BUT_CLASS = re.compile(r"\\.|" + _REPEAT_OR_CHAR, re.DOTALL)
_NUM_THREADS = 2
_TIMEOUT_S = 5.0
_MAX_CACHED = 32


class GrammarCompiler(Generic[_Grammar]):
    """Compiles guides on threads of its own, at most two at a time, and keeps those used last.

    One that takes too long is given up, but its thread works on: while both are taken that way, requests
    with a guide are refused and all others run.

    Args:
        compile_guide: Makes the grammar, which requests may share; an `InvalidRequestError` of its is the
            client's answer, any other exception means that the guide cannot be used.
        timeout_s: Seconds one guide may take.
    """

    def __init__(
        self, compile_constraint: Callable[[Constraint], _Grammar], timeout_s: float = _TIMEOUT_S
    ) -> None:
        self._compile = compile_constraint
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="guide")
        self._is_closed = False
        self._slots = asyncio.Semaphore(_NUM_THREADS)
        self._cached: OrderedDict[tuple[type[Constraint], str], _Grammar] = OrderedDict()

    async def compile(self, guide: Constraint) -> _Grammar:
        """The guide's grammar.

        Raises:
            InvalidRequestError: The guide is too large, malformed or unsupported; names `guide.param`.
            EngineOverloadedError: Both threads are busy.
            EngineUnavailableError: `close` came first.
        """
        key = type(guide), _text(guide)
        grammar = self._cached.pop(key, None)
        if grammar is None:
            check_guide(guide)
            grammar = await self._compile_anew(guide)
        self._cached[key] = grammar
        if len(self._cached) > _MAX_CACHED:
            self._cached.popitem(last=False)
        return grammar

    async def _compile_anew(self, guide: Constraint) -> _Grammar:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise EngineOverloadedError(
                "Other guides are being compiled. Try again later."
            ) from None
        if self._is_closed:
            raise EngineUnavailableError("The engine was shut down.")
        # The slot goes back when the thread does, however long that takes.
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._compile, guide)
        work.add_done_callback(self._release)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(work)
        except TimeoutError:
            raise _refusal(
                guide, f"takes more than {self._timeout_s:g} s to compile. Simplify it."
            ) from None
        except InvalidRequestError:
            raise
        except Exception as err:
            raise _refusal(guide, f"cannot be used: {_reason(err)}") from err

    def close(self) -> None:
        """Start nothing more; what is being compiled is left to itself."""
        self._is_closed = True
        self._threads.shutdown(wait=False)

    def _release(self, work: asyncio.Future[_Grammar]) -> None:
        self._slots.release()
        if not work.cancelled():
            work.exception()  # seen, or asyncio would report it when nobody waited


def check_guide(guide: Constraint) -> None:
    """Refuse a guide that would take too much time or memory to compile, without compiling it.

    Raises:
        InvalidRequestError: Says what is too large.
    """
    text = _text(guide)
    if len(text) > _MAX_CHARS:
        raise _refusal(guide, f"has {len(text)} characters; at most {_MAX_CHARS} are allowed.")
    depth = deepest = 0
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        deepest = max(deepest, depth)
    if deepest > _MAX_DEPTH:
        raise _refusal(guide, f"is nested {deepest} deep; at most {_MAX_DEPTH} is allowed.")
    is_text = isinstance(guide, Regex | Grammar)
    num_states = _states(text) if is_text else _json_states(json.loads(text))
    if num_states > _MAX_STATES:
        raise _refusal(
            guide, f"repeats so much that it has over {_MAX_STATES} states. Lower its bounds."
        )


def _text(guide: Constraint) -> str:
    """What tells one constraint from another, as text."""
    if isinstance(guide, Regex):
        return guide.pattern
    if isinstance(guide, Grammar):
        return guide.gbnf
    if isinstance(guide, JsonSchema):
        return json.dumps(guide.schema, ensure_ascii=False)
    tools = [[tool.name, tool.parameters] for tool in guide.tools]
    spec = [tools, guide.is_required, guide.is_parallel, guide.answer]
    return json.dumps(spec, ensure_ascii=False)


def _json_states(node: object) -> int:
    """Roughly how many states a schema has: bounds of arrays multiply what they hold."""
    if isinstance(node, str):
        return 1
    if isinstance(node, list):
        return 1 + sum(map(_json_states, node))
    if not isinstance(node, dict):
        return 1
    pattern = node.get("pattern")
    states = 1 + sum(map(_json_states, node.values())) + max(_bounds(node, "Length"), 0)
    states += _states(pattern) if isinstance(pattern, str) else 0
    return states * max(_bounds(node, "Items"), _bounds(node, "Properties"), 1)


def _bounds(node: Mapping[str, object], what: str) -> int:
    numbers = (node.get(f"min{what}"), node.get(f"max{what}"))
    return max((number for number in numbers if isinstance(number, int)), default=0)


def _states(pattern: str) -> int:
    """Roughly how many states a pattern has: `{m,n}` multiplies the atom or group before it."""
    groups, last = [0], 0
    for match in _atoms(pattern):
        atom = match.group()
        if atom == "(":
            groups.append(0)
            continue
        if atom == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif match.group("most") is not None:
            more = last * (max(int(match.group("most")[:9]), 1) - 1)
            groups[-1] += more
            last += more
        else:
            groups[-1] += 1
            last = 1
    return sum(groups)


def _atoms(pattern: str) -> Iterator[re.Match[str]]:
    """The pattern's pieces, in linear time: behind a class that is not closed none is looked for."""
    for match in _ATOM.finditer(pattern):
        if match.group("unclosed") is not None:
            yield from _ATOM_BUT_CLASS.finditer(pattern, match.start())
            return
        yield match


def _refusal(guide: Constraint, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"The {guide.param} {what}", param=guide.param)


def _reason(error: Exception) -> str:
    """The compiler's words, without the place in its source that comes before them."""
    first = str(error).strip().splitlines()[:1]
    text = first[0] if first else type(error).__name__
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", text)[:300]
