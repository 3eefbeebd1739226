"""The asyncio side of the TurboMind engine: accepts or refuses requests and watches its progress."""

import asyncio
import ctypes
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from PIL import Image, ImageFile

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.concurrency.budget import Permit
from internvl_server.core import Constraint, GenerateRequest, PixelType
from internvl_server.engine.base import EngineHealth, EngineInfo
from internvl_server.engine.checks import RequestLimits, check_request
from internvl_server.engine.guided.compiler import GrammarCompiler, ProcessJudge
from internvl_server.engine.health import STALLED_EXIT_CODE, health_of
from internvl_server.engine.stream import Abort, Stream
from internvl_server.engine.turbomind import CAPABILITIES, PENALTIES
from internvl_server.engine.turbomind.canary import check_answers
from internvl_server.engine.turbomind.limits import MAX_LOGITS_BYTES, check_turbomind_limits
from internvl_server.engine.turbomind.logits import logits_budget, logits_bytes
from internvl_server.engine.turbomind.requests.jobs import JobPool, Work
from internvl_server.engine.turbomind.supervisor import Supervisor, end_process
from internvl_server.errors import EngineUnavailableError, StartupError
from internvl_server.settings import TurbomindSettings

if TYPE_CHECKING:
    from internvl_server.engine.turbomind.requests.outputs import SchedulerMetrics
    from internvl_server.engine.turbomind.runtime import Runtime

__all__ = ["TurbomindEngine"]

_log = logging.getLogger(__name__)

# The program that writes constraints as the tags that TurboMind compiles.
_JUDGE = "internvl_server.engine.turbomind.guided.judge"
_TRIAL = "answering trial requests"

# Cancelled native requests usually end within one forward pass.
_CLOSE_S = 10.0
# A query of its scheduler takes microseconds.
_RETURN_S = 2.0
# What else ends with the process has this long, if the engine has hung.
_EXIT_S = 5.0

T = TypeVar("T")


class TurbomindEngine:
    """InternVL3 on NVIDIA GPUs by LMDeploy TurboMind; implements `internvl_server.engine.base.Engine`.

    There are `max_num_seqs` native handles; further requests wait in order. If the reader of a request
    leaves, TurboMind is told to cancel it at once, and its handle is free once TurboMind confirms that.

    Greedy decoding takes the likeliest token. A seed does not guarantee the same text beside other requests,
    because sums on a GPU depend on the batch. Whether TurboMind enforces enums of many similar values has not
    been verified on a GPU. Log probabilities are the model's own, before penalty, temperature, filters and
    grammar.

    Args:
        checkpoint: What to load; read in `start`.
        settings: GPUs, types and memory.
        max_num_seqs: Largest number of requests computed at the same time.
        max_model_len: Largest number of tokens of a request, prompt and completion together.
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
        ignored = PENALTIES if settings.ignore_penalties else frozenset()
        # Whether it takes bfloat16 or float16 is known when it has loaded the model.
        self._info = EngineInfo(
            "turbomind", max_model_len, max_num_seqs, CAPABILITIES, ignored,
            pixel_type=PixelType.BFLOAT16,
        )  # fmt: skip
        self._limits = _limits_of(checkpoint, max_model_len)
        self._logits_budget = logits_budget(MAX_LOGITS_BYTES)
        self._state = "not started"
        self._runtime: Runtime | None = None
        self._jobs: JobPool | None = None
        self._has_hung = False
        self._compiler: GrammarCompiler[object]
        self._supervisor: Supervisor

    @property
    def info(self) -> EngineInfo:
        """Facts that do not change while the engine lives."""
        return self._info

    async def start(self) -> None:
        """Load the model onto the GPUs, on a separate thread, and let it answer trial requests.

        Raises:
            StartupError: LMDeploy cannot load the checkpoint, or does not answer.
        """
        self._state = "loading"
        runtime = await _in_thread(self._load)
        self._runtime = runtime
        self._info = replace(self._info, pixel_type=runtime.pixel_type)
        self._jobs = JobPool(self._info.max_num_seqs, runtime.new_handle)
        judge = ProcessJudge(_JUDGE, self._settings.schema_policy)
        self._compiler = GrammarCompiler(judge, runtime.compile_grammar)
        self._supervisor = Supervisor(
            self._jobs, runtime.scheduler_metrics, exit_after_s=self._settings.exit_after_stall_s
        )
        self._state = _TRIAL
        await check_answers(self.generate, self._checkpoint, self._info)
        await self._jobs.settle()
        self._state = "running"

    async def close(self) -> None:
        """Abort all requests and free the model. Takes at most 22 s.

        A TurboMind that does not confirm the end of its requests, or does not return from a call, is not
        freed while it uses its memory. The process ends 5 s later then, with exit code 3.
        """
        runtime, self._runtime = self._runtime, None
        if runtime is None:
            self._state = "closed"
            return
        self._state = "closing"
        await self._compiler.close()
        is_idle = await self._jobs.close(_CLOSE_S) if self._jobs is not None else True
        has_returned = await self._supervisor.stop(_RETURN_S)
        if is_idle and has_returned and await _ends_in_time(runtime.close, _CLOSE_S):
            self._state = "closed"
        else:
            self._state, self._has_hung = "not ending", True
            _leave_to_the_end_of_the_process(runtime)

    def health(self) -> EngineHealth:
        """Ready while TurboMind runs and, if there is work, its scheduler has ticked recently."""
        if self._has_hung:
            return replace(health_of(self._state), is_alive=False)
        if self._jobs is None:
            return health_of(self._state)
        if not self._jobs.can_make_handles and self._state == "running":
            return health_of("unable to accept requests: TurboMind creates no request object")
        num_unconfirmed = self._jobs.num_unconfirmed
        is_full = num_unconfirmed == self._info.max_num_seqs
        health = health_of(
            "unable to accept requests: TurboMind does not end cancelled ones"
            if is_full
            else self._state,
            num_running=self._jobs.num_running,
            num_waiting=self._jobs.num_waiting,
            last_progress=self._jobs.last_progress,
        )
        metrics = self.scheduler_metrics
        kv_usage = None if metrics is None else metrics.cache_usage
        return replace(health, num_unconfirmed=num_unconfirmed, kv_usage=kv_usage)

    async def compile(self, constraint: Constraint) -> tuple[str, ...]:
        """Compile a constraint; see `Engine.compile`."""
        self._parts()
        return (await self._compiler.compile(constraint)).loosened

    @property
    def scheduler_metrics(self) -> "SchedulerMetrics | None":
        """What the scheduler said in the last second; None before the start, or if it says nothing."""
        return self._supervisor.metrics if self._jobs is not None else None

    def generate(self, request: GenerateRequest) -> Stream:
        """Queue a request; see `Engine.generate`. Compiles the constraint before it accepts the request."""
        return Stream(partial(self._accept, request))

    async def _accept(self, request: GenerateRequest, stream: Stream) -> Abort:
        runtime, _ = self._parts()
        check_request(request, self._limits)
        check_turbomind_limits(request, self._limits, self._checkpoint.stop_token_ids)
        constraint = request.sampling.constraint
        grammar = None
        if constraint is not None:
            grammar = (await self._compiler.compile(constraint)).grammar
        images = runtime.multimodal(request)
        _, jobs = self._parts()  # the engine may have been closed meanwhile
        if request.pixel_values:
            request = replace(request, pixel_values=())
        work = Work(request, images, grammar)
        if request.sampling.num_logprobs is None:
            return partial(jobs.abort, jobs.submit(stream, work))
        with ExitStack() as owner:
            permit = owner.enter_context(self._logits_budget.reserve(0))
            work.reserve = self._reserve_logits(request, permit)
            job = jobs.submit(stream, work)
            owner.pop_all()
        job.task.add_done_callback(lambda _: permit.release())
        return partial(jobs.abort, job)

    def _reserve_logits(self, request: GenerateRequest, permit: Permit) -> Callable[[int], None]:
        """Reserve memory for the first log probabilities; the function does so for further tokens."""
        request = replace(request, prompt_token_ids=())

        def reserve(num_tokens: int) -> None:
            permit.resize(logits_bytes(request, self._limits.vocab_size, num_tokens))

        reserve(0)
        return reserve

    def _parts(self) -> tuple["Runtime", JobPool]:
        """The loaded runtime and its jobs.

        Raises:
            EngineUnavailableError: The engine is not running.
        """
        if self._state not in ("running", _TRIAL) or self._runtime is None or self._jobs is None:
            raise EngineUnavailableError(f"The engine is {self._state}; try again later.")
        return self._runtime, self._jobs

    def _load(self) -> "Runtime":
        with _keep_pillow_limits():
            try:
                # Imported here, because it takes seconds and the server should answer /health meanwhile.
                from internvl_server.engine.turbomind.runtime import load_runtime  # noqa: PLC0415

                return load_runtime(
                    self._checkpoint,
                    self._settings,
                    max_num_seqs=self._info.max_num_seqs,
                    max_model_len=self._info.max_model_len,
                )
            except StartupError:
                raise
            except Exception as err:  # LMDeploy raises AssertionError and others
                raise StartupError(
                    f"LMDeploy cannot load the checkpoint: {type(err).__name__}: {err}"
                ) from err


def _leave_to_the_end_of_the_process(runtime: "Runtime") -> None:
    """End the process from a thread: the event loop may wait for the requests of a hung engine for ever."""
    _log.critical("the engine has hung: the process ends with exit code %d", STALLED_EXIT_CODE)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))  # its destructor would wait for ever, too
    timer = threading.Timer(_EXIT_S, end_process)
    timer.daemon = True
    timer.start()


def _limits_of(checkpoint: Checkpoint, max_model_len: int) -> RequestLimits:
    return RequestLimits(
        max_model_len=max_model_len,
        vocab_size=checkpoint.config.text.vocab_size,
        tile_px=checkpoint.tile_px,
        num_tokens_per_tile=checkpoint.num_tokens_per_tile,
    )


async def _ends_in_time(function: Callable[[], None], timeout_s: float) -> bool:
    """Run a function on a thread. Returns whether it has ended in time; it runs on if not."""
    try:
        async with asyncio.timeout(timeout_s):
            await _in_thread(function)
    except TimeoutError:
        return False
    return True


async def _in_thread(function: Callable[[], T]) -> T:
    """Run a function on a daemon thread, so that a process can end meanwhile."""
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
def _keep_pillow_limits() -> Iterator[None]:
    """Restore the Pillow settings that LMDeploy's media loader changes for the whole process on import."""
    limits = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = limits
