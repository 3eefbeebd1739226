"""The engine's thread: takes requests, computes step after step and reports the tokens of each."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeAlias

import torch

from internvl_server.core import FinishReason, TokenDelta
from internvl_server.engine.cpu.runner import Choice, Runner
from internvl_server.engine.cpu.scheduler import Scheduler, Sequence, Step
from internvl_server.errors import EngineError

__all__ = ["Event", "Worker"]

_log = logging.getLogger(__name__)

_Command: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Event:
    """A new token of a sequence, or the error that ended it."""

    sequence: Sequence
    outcome: TokenDelta | EngineError


class Worker:
    """Runs a scheduler and a runner on a dedicated thread; no other thread uses them.

    Requests join and leave between two steps. A step that fails ends only the requests it
    computed; an error outside of a step ends the thread.

    Args:
        load: Loads the model; called on the thread.
        scheduler: Decides what a step computes.
        on_events: Called on the thread with all events of a step at once.
        on_crash: Called on the thread, last, if it ends by an error.
        reports_cached_tokens: Whether tokens say how much of their prompt was reused.
    """

    def __init__(
        self,
        *,
        load: Callable[[], Runner],
        scheduler: Scheduler,
        on_events: Callable[[list[Event]], None],
        on_crash: Callable[[], None],
        reports_cached_tokens: bool = True,
    ) -> None:
        self.loaded: Future[None] = Future()
        self.last_progress = time.monotonic()
        self._load = load
        self._scheduler = scheduler
        self._on_events = on_events
        self._on_crash = on_crash
        self._reports_cached_tokens = reports_cached_tokens
        self._runner: Runner
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._num_added = self._num_taken = 0
        self._is_stopping = False
        # A daemon, so that a process can end while a model is loading.
        self._thread = threading.Thread(target=self._main, name="cpu-engine", daemon=True)

    @property
    def num_running(self) -> int:
        """Requests that hold a slot."""
        return self._scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """Requests that were added but hold no slot yet."""
        return self._scheduler.num_waiting + self._num_added - self._num_taken

    def start(self) -> None:
        """Start the thread; `loaded` completes once it can compute, or with the reason why it cannot."""
        self._thread.start()

    def add(self, sequence: Sequence) -> None:
        """Queue a request; called on the event loop."""
        if not self.num_running and not self.num_waiting:
            self.last_progress = time.monotonic()
        self._num_added += 1
        self._commands.put(lambda: self._take(sequence))

    def abort(self, sequence: Sequence) -> None:
        """Free a request before the next step; called on the event loop."""
        self._commands.put(lambda: self._end(sequence))

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the current step and wait for it, which frees the model.

        Does not wait while the model is loading, because a load cannot be interrupted.

        Returns:
            Whether it has ended, or is loading.
        """
        self._commands.put(self._begin_stop)
        if not self.loaded.done():
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _main(self) -> None:
        self.loaded.set_running_or_notify_cancel()
        try:
            with torch.inference_mode():
                if not self._try_load():
                    return
                while self._take_commands():
                    self._step()
        except Exception:  # noqa: BLE001  (the engine is told)
            _log.exception("The engine thread ended.")
            self._on_crash()

    def _try_load(self) -> bool:
        try:
            self._runner = self._load()
        except Exception as err:  # noqa: BLE001  (re-raised where `loaded` is awaited)
            self.loaded.set_exception(err)
            return False
        self.loaded.set_result(None)
        return True

    def _take_commands(self) -> bool:
        """Execute all commands, waiting for one if there is nothing to compute. False: stop."""
        try:
            while not self._is_stopping:
                self._commands.get(block=not self._scheduler.has_work)()
        except Empty:
            return True
        return False

    def _begin_stop(self) -> None:
        self._is_stopping = True

    def _take(self, sequence: Sequence) -> None:
        self._scheduler.add(sequence)
        self._num_taken += 1

    def _drop(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self._runner.drop(sequence)

    def _end(self, sequence: Sequence) -> None:
        """Free a request that has not failed, and keep what later ones may reuse."""
        self._scheduler.remove(sequence)
        try:
            self._runner.end(sequence, self._scheduler.num_free_tokens)
        except (MemoryError, RuntimeError) as err:
            _log.warning("Keys and values of a request could not be kept: %s", err)

    def _begin(self, sequence: Sequence) -> None:
        self._runner.begin(sequence, self._scheduler.num_free_tokens)
        sequence.num_cached_tokens = sequence.num_read_tokens

    def _step(self) -> None:
        events: list[Event] = []
        for sequence in self._scheduler.admit():
            events += self._attempt([sequence], partial(self._begin, sequence))
        step = self._scheduler.plan()
        if step.encode is not None:
            events += self._attempt([step.encode], partial(self._runner.encode, step.encode))
        computed = [*step.decode, *(chunk.sequence for chunk in step.prefill)]
        if computed:
            events += self._attempt(computed, partial(self._forward, step))
        self.last_progress = time.monotonic()
        if events:
            self._on_events(events)

    def _attempt(
        self, sequences: Iterable[Sequence], work: Callable[[], list[Event] | None]
    ) -> list[Event]:
        """Do a piece of work; if it fails, end the sequences it was for."""
        try:
            return work() or []
        except Exception as err:  # noqa: BLE001  (reported to each request)
            return [self._fail(sequence, err) for sequence in sequences]

    def _forward(self, step: Step) -> list[Event]:
        return [
            self._advance(choice)
            if choice.error is None
            else self._fail(choice.sequence, choice.error)
            for choice in self._runner.forward(step.decode, step.prefill)
        ]

    def _advance(self, choice: Choice) -> Event:
        """The event of a new token; frees the request after its last one."""
        sequence = choice.sequence
        reason: FinishReason | None = None
        if choice.is_complete or choice.token_id in sequence.request.stop_token_ids:
            reason = "stop"
        elif sequence.num_generated == sequence.max_generated:
            reason = "length"
        if reason is not None:
            self._end(sequence)
        logprobs = None if choice.logprobs is None else (choice.logprobs,)
        delta = TokenDelta((choice.token_id,), reason, logprobs, self._num_reported(sequence))
        return Event(sequence, delta)

    def _num_reported(self, sequence: Sequence) -> int:
        return sequence.num_cached_tokens if self._reports_cached_tokens else 0

    def _fail(self, sequence: Sequence, cause: Exception) -> Event:
        self._drop(sequence)
        is_memory = isinstance(cause, MemoryError) or "can't allocate memory" in str(cause)
        reason = "ran out of memory" if is_memory else "failed"
        error = EngineError(f"The engine {reason} while computing this request.")
        error.__cause__ = cause
        return Event(sequence, error)
