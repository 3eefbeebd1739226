"""The asyncio side of TurboMind: takes or refuses requests, and knows how the engine is."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from PIL import Image, ImageFile

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.core import GenerateRequest
from internvl_server.engine.base import EngineHealth, EngineInfo, TokenStream
from internvl_server.engine.checks import RequestLimits, check_request
from internvl_server.engine.guided.compiler import GrammarCompiler
from internvl_server.engine.health import health_of
from internvl_server.engine.stream import Abort, Stream
from internvl_server.engine.turbomind import CAPABILITIES
from internvl_server.engine.turbomind.jobs import JobPool, Work
from internvl_server.engine.turbomind.limits import MAX_LOGITS_BYTES, check_turbomind_limits
from internvl_server.engine.turbomind.logits import logits_budget, logits_bytes
from internvl_server.engine.turbomind.machine import check_machine
from internvl_server.errors import EngineUnavailableError, StartupError
from internvl_server.settings import TurbomindSettings

if TYPE_CHECKING:
    from internvl_server.engine.turbomind.runtime import Runtime

__all__ = ["TurbomindEngine"]

_SAMPLE_S = 1.0
# Native requests that are told to end usually do within a pass.
_CLOSE_S = 10.0

T = TypeVar("T")


class TurbomindEngine:
    """InternVL3 on NVIDIA GPUs by LMDeploy TurboMind; implements `internvl_server.engine.base.Engine`.

    As many requests run as there are native handles (`max_num_seqs`); more wait in order. A request that
    is left is cancelled in TurboMind at once; its handle is free again when TurboMind has confirmed that.

    Guaranteed: greedy takes the likeliest token; a grammar that TurboMind's compiler is known to be looser on
    is refused. Not proven without a GPU: that its version keeps enums of many similar values. Not
    guaranteed: the same text for the same seed beside other requests, because sums on a GPU depend on
    the batch. Log probabilities are the model's own, before penalty, temperature, filters and grammar.

    Args:
        checkpoint: What to load; read in `start`.
        settings: GPUs, types and memory.
        max_num_seqs: Most requests computed at the same time.
        max_model_len: Most tokens of a request, prompt and answer together.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: TurbomindSettings,
        *,
        max_num_seqs: int,
        max_model_len: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._settings = settings
        self._info = EngineInfo("turbomind", max_model_len, max_num_seqs, CAPABILITIES)
        self._limits = _limits_of(checkpoint, max_model_len)
        self._logits_budget = logits_budget(MAX_LOGITS_BYTES)
        self._state = "not started"
        self._runtime: Runtime | None = None
        self._jobs: JobPool | None = None
        self._compiler: GrammarCompiler[object]

    @property
    def info(self) -> EngineInfo:
        """What does not change while the engine lives."""
        return self._info

    async def start(self) -> None:
        """Load the model onto the GPUs, on a thread of its own.

        Raises:
            StartupError: There is no GPU, or LMDeploy cannot load the checkpoint.
        """
        check_machine(self._settings.tp // self._settings.nnodes)
        self._state = "loading"
        runtime = await _in_thread(self._load)
        self._runtime = runtime
        if runtime.is_follower:
            self._state = f"part of the one on node 0, as node {self._settings.node_rank}"
            return
        self._jobs = JobPool(self._info.max_num_seqs, runtime.new_handle)
        self._compiler = GrammarCompiler(runtime.compile_constraint)
        self._state = "running"
        watch = partial(self._watch, runtime, self._jobs)
        threading.Thread(target=watch, name="turbomind-watch", daemon=True).start()

    async def close(self) -> None:
        """Abort what runs, wait up to 10 s for TurboMind to confirm it, and free the model."""
        runtime, self._runtime = self._runtime, None
        self._state = "closed"
        if runtime is None:
            return
        if self._jobs is not None:
            self._compiler.close()
            await self._jobs.close(_CLOSE_S)
        await _in_thread(runtime.close)

    def health(self) -> EngineHealth:
        """Ready while TurboMind runs and, when there is work, its scheduler has ticked lately."""
        if self._jobs is None:
            return health_of(self._state)
        return health_of(
            self._state,
            num_running=self._jobs.num_running,
            num_waiting=self._jobs.num_waiting,
            last_progress=self._jobs.last_progress,
        )

    def generate(self, request: GenerateRequest) -> TokenStream:
        """Queue a request; see `Engine.generate`. A grammar is compiled before the request is accepted."""
        return Stream(partial(self._accept, request))

    async def _accept(self, request: GenerateRequest, stream: Stream) -> Abort:
        runtime, _ = self._parts()
        check_request(request, self._limits)
        check_turbomind_limits(request, self._limits, self._checkpoint.stop_token_ids)
        constraint = request.sampling.constraint
        grammar = None if constraint is None else await self._compiler.compile(constraint)
        images = None
        if request.images:
            images = await asyncio.to_thread(runtime.multimodal, request)
        _, jobs = self._parts()  # it may have been closed meanwhile
        permit = self._logits_budget.reserve(logits_bytes(request, self._limits.vocab_size))
        job = jobs.submit(stream, Work(replace(request, pixel_values=None), images, grammar))
        job.task.add_done_callback(lambda _: permit.release())
        return partial(jobs.abort, job)

    def _parts(self) -> tuple["Runtime", JobPool]:
        """What a request needs.

        Raises:
            EngineUnavailableError: The engine is not running.
        """
        if self._state != "running" or self._runtime is None or self._jobs is None:
            raise EngineUnavailableError(f"The engine is {self._state}; try again later.")
        return self._runtime, self._jobs

    def _load(self) -> "Runtime":
        with _own_pillow_limits():
            try:
                # Imported here: it takes seconds, and the server's socket is open already.
                from internvl_server.engine.turbomind.runtime import load_runtime  # noqa: PLC0415

                return load_runtime(
                    self._checkpoint,
                    self._settings,
                    max_num_seqs=self._info.max_num_seqs,
                    max_model_len=self._info.max_model_len,
                )
            except StartupError:
                raise
            except Exception as err:  # LMDeploy has no errors of its own: it asserts
                raise StartupError(
                    f"LMDeploy cannot load the checkpoint: {type(err).__name__}: {err}"
                ) from err

    def _watch(self, runtime: "Runtime", jobs: JobPool) -> None:
        """Note when the scheduler ticks. On a thread: asking a scheduler that hangs may hang as well."""
        last: int | None = None
        while self._state == "running":
            tick = runtime.scheduler_tick()
            if tick is not None and tick != last:
                last, jobs.last_progress = tick, time.monotonic()
            time.sleep(_SAMPLE_S)


def _limits_of(checkpoint: Checkpoint, max_model_len: int) -> RequestLimits:
    return RequestLimits(
        max_model_len=max_model_len,
        vocab_size=checkpoint.config.text.vocab_size,
        tile_px=checkpoint.tile_px,
        num_tokens_per_tile=checkpoint.num_tokens_per_tile,
    )


async def _in_thread(function: Callable[[], T]) -> T:
    """Run it on a thread that does not keep a process alive which is told to end meanwhile."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except BaseException as err:  # noqa: BLE001  (raised where it is awaited)
            future.set_exception(err)

    threading.Thread(target=run, name=f"turbomind-{function.__name__}", daemon=True).start()
    return await asyncio.wrap_future(future)


@contextmanager
def _own_pillow_limits() -> Iterator[None]:
    """Undo what LMDeploy's media loader sets for the whole process when it is imported."""
    limits = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = limits
