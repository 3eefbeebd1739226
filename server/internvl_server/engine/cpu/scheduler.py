"""Decides which requests run and what one step computes. Knows counts, no tensors and no threads.

Requests are admitted strictly in order: one that does not fit yet holds back those behind it, so a
large request is never starved. A step decodes every request that has read its prompt, reads at most
one chunk of prompts, oldest first, and encodes at most one piece of images, so that neither a long
prompt nor a large image holds up the others; a text prompt may overtake images that are still being
encoded.
"""

from collections import deque
from dataclasses import dataclass

from internvl_server.core import GenerateRequest
from internvl_server.engine.guided.matcher import CompiledGrammar

__all__ = ["Prefill", "Scheduler", "Sequence", "Step"]


@dataclass(eq=False, slots=True)
class Sequence:
    """One request as long as the engine has it.

    `request` loses its pixels when it starts. `num_kv_tokens` tokens of keys and values are
    reserved for it while it runs. `num_read_tokens` of its prompt are in the cache; `num_generated`
    tokens were chosen. `guide` is what the answer is held to.
    """

    request: GenerateRequest
    num_kv_tokens: int
    needs_encoding: bool = False
    num_read_tokens: int = 0
    num_generated: int = 0
    guide: CompiledGrammar | None = None

    @property
    def max_generated(self) -> int:
        """Tokens after which the answer is cut off."""
        return self.num_kv_tokens - len(self.request.prompt_token_ids)

    @property
    def num_unread_tokens(self) -> int:
        """Prompt tokens that are not in the cache yet."""
        return len(self.request.prompt_token_ids) - self.num_read_tokens


@dataclass(frozen=True, slots=True)
class Prefill:
    """Read the next `num_tokens` tokens of a sequence's prompt."""

    sequence: Sequence
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one step computes: a token each of `decode`, chunks of prompts, a piece of `encode`."""

    decode: tuple[Sequence, ...] = ()
    prefill: tuple[Prefill, ...] = ()
    encode: Sequence | None = None


class Scheduler:
    """The waiting line and the running requests.

    Args:
        max_num_seqs: Most requests that run at the same time.
        max_kv_tokens: Most tokens of keys and values reserved by running requests.
        prefill_chunk_tokens: Most prompt tokens read in one step.
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
    def has_work(self) -> bool:
        """Something waits or runs."""
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Put a request at the end of the line.

        It must be able to fit: one that never can would hold back everything behind it for ever.
        """
        assert sequence.num_kv_tokens <= self._max_kv_tokens, sequence.num_kv_tokens
        self._waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Start every request, in order, whose slot and keys and values are free."""
        admitted = []
        while self._waiting and self._has_room(self._waiting[0]):
            sequence = self._waiting.popleft()
            self._num_kv_tokens += sequence.num_kv_tokens
            self._running.append(sequence)
            admitted.append(sequence)
        return admitted

    def remove(self, sequence: Sequence) -> None:
        """Free what a request holds, wherever it is; one that is gone already is no error."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._num_kv_tokens -= sequence.num_kv_tokens
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def plan(self) -> Step:
        """What the next step computes for the running requests."""
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
