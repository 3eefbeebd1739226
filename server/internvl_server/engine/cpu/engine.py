"""The asyncio side of the CPU engine: accepts or refuses requests and delivers their tokens."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.core import (
    Constraint,
    GenerateRequest,
    PixelType,
    SamplingParams,
    TokenDelta,
)
from internvl_server.core.vocabulary import Vocabulary
from internvl_server.engine.base import Capability, EngineHealth, EngineInfo
from internvl_server.engine.checks import RequestLimits, check_request
from internvl_server.engine.cpu import CAPABILITIES
from internvl_server.engine.cpu.model.kv_cache import kv_bytes_per_token
from internvl_server.engine.cpu.model.support import check_supported
from internvl_server.engine.cpu.model.weights import load_model
from internvl_server.engine.cpu.processor import choose_dtype
from internvl_server.engine.cpu.reuse.features import FeatureCache
from internvl_server.engine.cpu.reuse.prefixes import PrefixCache
from internvl_server.engine.cpu.runner import Runner
from internvl_server.engine.cpu.scheduler import Prefill, Scheduler, Sequence
from internvl_server.engine.cpu.worker import Event, Worker
from internvl_server.engine.guided.compiler import Compiled, GrammarCompiler, ProcessJudge
from internvl_server.engine.guided.matcher import JUDGE, CompiledGrammar, GrammarVocabulary
from internvl_server.engine.health import health_of
from internvl_server.engine.stream import Abort, Stream
from internvl_server.errors import (
    EngineError,
    EngineUnavailableError,
    StartupError,
    UnsupportedParameterError,
)
from internvl_server.settings import CpuSettings

__all__ = ["CpuEngine"]

_log = logging.getLogger(__name__)

# Below this size one thread is faster than several: a step takes less time than waking other threads.
_MAX_SINGLE_THREAD_PARAMETERS = 50_000_000
_CLOSE_S = 10.0


class CpuEngine:
    """InternVL3 on this machine's cores; implements `internvl_server.engine.base.Engine`.

    In float32, greedy and seeded text do not depend on other requests in the batch, up to the rounding
    that `Runner` describes. In bfloat16, rounding is coarse enough to change text.

    Args:
        checkpoint: What to load; read in `start`.
        settings: Types, threads and memory.
        tokens: The tokenizer's vocabulary; guided decoding needs its bytes.
        max_num_seqs: Largest number of requests computed at the same time.
        max_model_len: Largest number of tokens of a request, prompt and completion together; lower in
            `info` if `kv_cache_bytes` has no room for as many.

    Raises:
        StartupError: The engine does not support the checkpoint.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: CpuSettings,
        tokens: Vocabulary,
        *,
        max_num_seqs: int,
        max_model_len: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._settings = settings
        self._tokens = tokens
        self._dtype = choose_dtype(settings)
        check_supported(checkpoint.config, max_model_len=max_model_len)
        self._max_kv_tokens = settings.kv_cache_bytes // kv_bytes_per_token(
            checkpoint.config.text, self._dtype
        )
        # A request larger than the whole KV cache would wait forever, so the cache limits the context.
        max_model_len = min(max_model_len, self._max_kv_tokens)
        self._info = EngineInfo(
            "cpu",
            max_model_len,
            max_num_seqs,
            _capabilities(tokens),
            default_max_tokens=settings.default_max_tokens,
            pixel_type=PixelType.BFLOAT16 if self._dtype == torch.bfloat16 else PixelType.FLOAT32,
        )
        self._streams: dict[Sequence, Stream] = {}
        self._worker: Worker | None = None
        self._state = "not started"
        self._has_crashed = False
        self._scheduler: Scheduler
        self._loop: asyncio.AbstractEventLoop
        self._limits: RequestLimits
        self._compiler: GrammarCompiler[CompiledGrammar] | None = None

    @property
    def info(self) -> EngineInfo:
        """Facts that do not change while the engine lives."""
        return self._info

    async def start(self) -> None:
        """Load the model and compute one token with it, on the engine's thread.

        Raises:
            StartupError: The weights cannot be loaded, or there is too little memory.
        """
        self._state = "loading"
        self._loop = asyncio.get_running_loop()
        self._prepare()
        self._worker = Worker(
            load=self._load,
            scheduler=self._scheduler,
            on_events=partial(self._call_on_loop, self._deliver),
            on_crash=partial(self._call_on_loop, self._crash),
            reports_cached_tokens=self._settings.report_cached_tokens,
        )
        self._worker.start()
        try:
            await asyncio.wrap_future(self._worker.loaded)
        except (MemoryError, RuntimeError) as err:
            raise StartupError(f"The model could not be loaded: {err}") from err
        if self._tokens.token_bytes is not None:
            vocab_size = self._checkpoint.config.text.vocab_size
            vocabulary = await asyncio.to_thread(GrammarVocabulary, self._tokens, vocab_size)
            self._compiler = GrammarCompiler(ProcessJudge(JUDGE), vocabulary.compile)
        self._state = "running"

    async def close(self) -> None:
        """End the thread after its current step, fail the remaining requests and free the model.

        Waits 10 s for the step.
        """
        worker, self._worker = self._worker, None
        self._state = "closed"
        if worker is None:
            return
        if self._compiler is not None:
            await self._compiler.close()
        if not await asyncio.to_thread(worker.stop, _CLOSE_S):
            _log.critical("the engine's thread does not end: a step of it has hung")
        self._fail_all()

    def health(self) -> EngineHealth:
        """Ready while the thread runs and, if there is work, has finished a step recently."""
        worker = self._worker
        if worker is None:
            return health_of(self._state)
        health = health_of(
            self._state,
            num_running=worker.num_running,
            num_waiting=worker.num_waiting,
            last_progress=worker.last_progress,
        )
        return replace(
            health,
            kv_usage=self._scheduler.num_kv_tokens / self._max_kv_tokens,
            is_alive=health.is_alive and not self._has_crashed,
        )

    async def compile(self, constraint: Constraint) -> tuple[str, ...]:
        """Compile a constraint; see `Engine.compile`."""
        self._running_worker()
        return (await self._compiled(constraint)).loosened

    def generate(self, request: GenerateRequest) -> Stream:
        """Queue a request; see `Engine.generate`."""
        return Stream(partial(self._submit, request))

    def _prepare(self) -> None:
        """Set the request limits and the scheduler from the config; nothing is loaded yet."""
        self._limits = RequestLimits(
            max_model_len=self._info.max_model_len,
            vocab_size=self._checkpoint.config.text.vocab_size,
            tile_px=self._checkpoint.tile_px,
            num_tokens_per_tile=self._checkpoint.num_tokens_per_tile,
        )
        self._scheduler = Scheduler(
            max_num_seqs=self._info.max_num_seqs,
            max_kv_tokens=self._max_kv_tokens,
            prefill_chunk_tokens=self._settings.prefill_chunk_tokens,
        )

    def _load(self) -> Runner:
        model = load_model(
            self._checkpoint,
            self._dtype,
            max_model_len=self._info.max_model_len,
            is_int8=self._settings.quantization == "int8",
        )
        num_threads = self._settings.num_threads
        if num_threads or model.num_parameters < _MAX_SINGLE_THREAD_PARAMETERS:
            torch.set_num_threads(num_threads or 1)
        prefixes = PrefixCache() if self._settings.enable_prefix_caching else None
        runner = Runner(model, FeatureCache(self._settings.feature_cache_bytes), prefixes)
        _warm_up(runner)
        return runner

    async def _submit(self, request: GenerateRequest, stream: Stream) -> Abort:
        self._running_worker()
        check_request(request, self._limits)
        constraint = request.sampling.constraint
        grammar = None if constraint is None else (await self._compiled(constraint)).grammar
        worker = self._running_worker()
        num_tokens = len(request.prompt_token_ids) + request.max_tokens
        sequence = Sequence(
            request,
            num_kv_tokens=min(num_tokens, self._info.max_model_len),
            needs_encoding=bool(request.images),
            grammar=grammar,
        )
        self._streams[sequence] = stream
        worker.add(sequence)
        return partial(self._abort, sequence)

    def _running_worker(self) -> Worker:
        if self._worker is None or self._state != "running":
            raise EngineUnavailableError(f"The engine is {self._state}; try again later.")
        return self._worker

    async def _compiled(self, constraint: Constraint) -> Compiled[CompiledGrammar]:
        if self._compiler is None:
            raise UnsupportedParameterError(
                "This checkpoint's tokenizer is not byte-level, which guided decoding requires.",
                param=constraint.param,
            )
        return await self._compiler.compile(constraint)

    def _abort(self, sequence: Sequence) -> None:
        """Free a request whose reader left before its end."""
        if self._streams.pop(sequence, None) is not None and self._worker is not None:
            self._worker.abort(sequence)

    def _call_on_loop(self, function: Callable[..., None], *args: object) -> None:
        # The loop is closed already if a process ends without closing its engine.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def _deliver(self, events: list[Event]) -> None:
        """Pass the events of a step to their streams. An aborted request no longer has a stream."""
        for event in events:
            stream = self._streams.get(event.sequence)
            if stream is None:
                continue
            if isinstance(event.outcome, TokenDelta):
                stream.put(event.outcome)
                has_ended = event.outcome.finish_reason is not None
            else:
                stream.fail(event.outcome)
                has_ended = True
            if has_ended:
                self._streams.pop(event.sequence, None)  # its sink may have left

    def _crash(self) -> None:
        self._state, self._has_crashed = "down after an unexpected error", True
        self._fail_all()

    def _fail_all(self) -> None:
        """Fail every remaining request after the thread has ended, by `close` or by an error."""
        running = frozenset(self._scheduler.running)
        is_closed = self._state == "closed"
        why = "was shut down" if is_closed else "ended unexpectedly"
        streams, self._streams = self._streams, {}
        for sequence, stream in streams.items():
            kind = EngineUnavailableError if is_closed and sequence not in running else EngineError
            stream.fail(kind(f"The engine {why}."))


def _capabilities(tokens: Vocabulary) -> frozenset[Capability]:
    """All capabilities; guided decoding only if the bytes of every token are known."""
    if tokens.token_bytes is not None:
        return CAPABILITIES
    return CAPABILITIES - {Capability.GUIDED_DECODING, Capability.GUIDED_TOOL_CALLS}


def _warm_up(runner: Runner) -> None:
    """Compute one token, so that the first request does not pay for one-time work."""
    request = GenerateRequest("warm-up", (0,), 1, SamplingParams(temperature=0.0), frozenset())
    sequence = Sequence(request, num_kv_tokens=2)
    runner.begin(sequence)
    runner.forward([], [Prefill(sequence, 1)])
    runner.drop(sequence)
