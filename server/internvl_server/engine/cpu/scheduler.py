"""Decides which requests run and what a step computes. Counts tokens; knows neither tensors nor threads.

Requests are admitted strictly in order: a request that does not fit yet blocks those behind it, so that a
large request is never starved. A step decodes one token for every request after prefill, prefills at most
one chunk of prompts, oldest first, and encodes at most one piece of an image. Neither a long prompt nor a
large image therefore delays the others by more than that; a text prompt may overtake images that are still
being encoded.
"""

from collections import deque
from dataclasses import dataclass

from internvl_server.core import GenerateRequest
from internvl_server.engine.guided.matcher import CompiledGrammar

__all__ = ["Prefill", "Scheduler", "Sequence", "Step"]


@dataclass(eq=False, slots=True)
class Sequence:
    """The engine's state of one request.

    `request` loses its pixels when it starts. `num_kv_tokens` tokens of keys and values are reserved for
    it while it runs. `num_read_tokens` of its prompt are in the cache, of which the first `num_cached_tokens`
    are an earlier request's; `num_generated` tokens have been chosen. `grammar` constrains the answer.
    """

    request: GenerateRequest
    num_kv_tokens: int
    needs_encoding: bool = False
    num_read_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated: int = 0
    grammar: CompiledGrammar | None = None

    @property
    def max_generated(self) -> int:
        """Largest number of tokens of the answer."""
        return self.num_kv_tokens - len(self.request.prompt_token_ids)

    @property
    def num_unread_tokens(self) -> int:
        """Prompt tokens that are not in the cache yet."""
        return len(self.request.prompt_token_ids) - self.num_read_tokens


@dataclass(frozen=True, slots=True)
class Prefill:
    """Compute the next `num_tokens` tokens of a sequence's prompt."""

    sequence: Sequence
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a token for each `decode` sequence, `prefill` chunks, one piece of the `encode` images."""

    decode: tuple[Sequence, ...] = ()
    prefill: tuple[Prefill, ...] = ()
    encode: Sequence | None = None


class Scheduler:
    """The queue and the running requests.

    Args:
        max_num_seqs: Largest number of running requests.
        max_kv_tokens: Tokens of keys and values that all running requests may reserve.
        prefill_chunk_tokens: Largest number of prompt tokens per step.
    """

    def __init__(self, *, max_num_seqs: int, max_kv_tokens: int, prefill_chunk_tokens: int) -> None:
        self._max_num_seqs = max_num_seqs
        self._max_kv_tokens = max_kv_tokens
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._num_kv_tokens = 0

    @property
    def num_waiting(self) -> int:
        """Requests that have not started."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Requests that hold a slot, oldest first."""
        return tuple(self._running)

    @property
    def num_kv_tokens(self) -> int:
        """Tokens of keys and values reserved now."""
        return self._num_kv_tokens

    @property
    def num_free_tokens(self) -> int:
        """Tokens of keys and values that are not reserved."""
        return self._max_kv_tokens - self._num_kv_tokens

    @property
    def has_work(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Put a request at the end of the queue.

        It must fit an empty cache; otherwise it would block the queue forever.
        """
        assert sequence.num_kv_tokens <= self._max_kv_tokens, sequence.num_kv_tokens
        self._waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Start requests in order, as long as a slot and enough of the cache are free."""
        admitted = []
        while self._waiting and self._has_room(self._waiting[0]):
            sequence = self._waiting.popleft()
            self._num_kv_tokens += sequence.num_kv_tokens
            self._running.append(sequence)
            admitted.append(sequence)
        return admitted

    def remove(self, sequence: Sequence) -> None:
        """Remove a request, running or waiting; does nothing if it is gone already."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._num_kv_tokens -= sequence.num_kv_tokens
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def plan(self) -> Step:
        """The next step for the running requests."""
        ready = [s for s in self._running if not s.needs_encoding]
        return Step(
            decode=tuple(s for s in ready if not s.num_unread_tokens),
            prefill=self._plan_prefill(ready),
            encode=next((s for s in self._running if s.needs_encoding), None),
        )

    def _plan_prefill(self, ready: list[Sequence]) -> tuple[Prefill, ...]:
        room = self._prefill_chunk_tokens
        chunks = []
        for sequence in ready:
            num_tokens = min(sequence.num_unread_tokens, room)
            if num_tokens:
                chunks.append(Prefill(sequence, num_tokens))
                room -= num_tokens
        return tuple(chunks)

    def _has_room(self, sequence: Sequence) -> bool:
        return (
            len(self._running) < self._max_num_seqs
            and self._num_kv_tokens + sequence.num_kv_tokens <= self._max_kv_tokens
        )
