"""Stand-ins for the two things of LMDeploy that need a GPU: the weights and the native loop.

Everything else is the real package: its configs, tokenizer, `TurboMindInstance`, converters and native
tensor objects. One thread steps all active requests together, as TurboMind's scheduler does.
"""

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import lmdeploy.utils
import lmdeploy.vl.engine
import numpy as np
import torch
from internvl_server.engine.turbomind import engine
from lmdeploy.tokenizer import Tokenizer
from lmdeploy.turbomind import TurboMind, _turbomind, converter
from lmdeploy.turbomind import turbomind as turbomind_module
from lmdeploy.turbomind.supported_models import is_supported
from numpy.typing import NDArray

FINISH, CANCEL = 7, 8
GENERATION = 2  # `output_logits`: of the answer's tokens only
VOCABULARY = 351  # of the tiny checkpoint
NUM_LOGPROBS = 64  # of a row of logits: enough for what was chosen to be one of them
HELD_BACK = 70  # what is taken instead of a stop token that is held back


@dataclass
class Item:
    """One image as it reached `forward`."""

    token_begin: int
    token_end: int
    fingerprint: bytes
    pixels: torch.Tensor


@dataclass
class Call:
    """What one `forward` was given."""

    session_id: int
    step: int
    input_ids: list[int]
    items: list[Item]
    config: dict[str, Any]
    stream_output: bool
    enable_metrics: bool
    grammar: object | None


@dataclass
class Plan:
    """How a request is answered: its ids, then a status (`FINISH`, an error, or None: never ends)."""

    token_ids: list[int]
    status: int | None = FINISH
    tokens_per_step: int = 1
    may_have: Callable[[], float] = lambda: math.inf  # tokens that it may have made by now
    wait_steps: int = 0
    num_cached: int = 0
    logits: torch.Tensor | None = None  # a row for each id; by default `logits_at`


@dataclass(eq=False)
class Running:
    call: Call
    plan: Plan
    output_ids: NDArray[np.int32]
    state: "SharedState"
    callback: Callable[[], None]
    logits: torch.Tensor | None
    metrics: Any
    num_sent: int = 0
    is_cancelled: bool = False


class SharedState:
    """The newest state that nobody has consumed; the callback comes with the first of several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: Any = None
        self.num_prompt = 0

    def update(self, status: int, seq_len: int, callback: Callable[[], None]) -> None:
        with self._lock:
            was_consumed = self._state is None
            self._state = SimpleNamespace(status=status, seq_len=seq_len)
        if was_consumed:
            callback()

    def consume(self) -> Any:
        with self._lock:
            state, self._state = self._state, None
        assert state is not None, "consumed twice: the real one would hand out a null pointer"
        return state


class Request:
    """The native request object."""

    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        # While it is active: it has the pixels of the images.
        self._running: Callable[[], Running | None] = lambda: None
        self._grammar: object | None = None  # stays, as in the native object

    def set_grammar(self, grammar: object) -> None:
        assert isinstance(grammar, _turbomind.CompiledGrammar)
        self._grammar = grammar

    def cancel(self) -> None:
        if (running := self._running()) is not None:
            running.is_cancelled = True

    def forward(
        self, inputs: Any, mm_inputs: Any, session: Any, gen_cfg: Any, stream_output: bool,
        enable_metrics: bool, cb: Callable[[], None],
    ) -> tuple[Any, SharedState, Any]:  # fmt: skip
        prompt = torch.utils.dlpack.from_dlpack(inputs["input_ids"])
        assert prompt.dtype == torch.int32
        call = Call(
            session.id, session.step, prompt.tolist(), read_items(mm_inputs), read_config(gen_cfg),
            stream_output, enable_metrics, self._grammar,
        )  # fmt: skip
        size = len(call.input_ids) + gen_cfg.max_new_tokens + 1
        output_ids = torch.zeros(size, dtype=torch.int32)
        output_ids[: len(call.input_ids)] = prompt
        outputs = _turbomind.TensorMap()
        outputs["output_ids"] = _turbomind.from_dlpack(output_ids)
        plan = self._loop.plan(call)
        plan = replace(plan, token_ids=sampled(plan.token_ids, gen_cfg))
        if gen_cfg.output_logprobs:
            add_logprobs(outputs, plan, gen_cfg.max_new_tokens)
        logits = None
        if gen_cfg.output_logits:
            assert gen_cfg.output_logits == GENERATION
            logits = torch.full((gen_cfg.max_new_tokens + 1, VOCABULARY), math.nan).bfloat16()
            outputs["logits"] = _turbomind.from_dlpack(logits)
        state = SharedState()
        metrics = SimpleNamespace(enqueue_time=1, scheduled_time=0, cached_tokens=0)
        running = Running(call, plan, output_ids.numpy(), state, cb, logits, metrics)
        self._running = weakref.ref(running)
        self._loop.push(running)
        return outputs, state, metrics


def read_items(mm_inputs: Any) -> list[Item]:
    if mm_inputs is None:
        return []
    assert isinstance(mm_inputs, _turbomind.multimodal.InternVitInput)
    return [
        Item(
            i.token_begin,
            i.token_end,
            bytes(i.fingerprint),
            torch.utils.dlpack.from_dlpack(i.data),  # not copied, as in the native request
        )
        for i in mm_inputs.items
    ]


def read_config(config: Any) -> dict[str, Any]:
    assert isinstance(config, _turbomind.GenerationConfig)
    return {name: getattr(config, name) for name in dir(config) if not name.startswith("_")}


def sampled(token_ids: list[int], config: Any) -> list[int]:
    """A plan's ids as native sampling and stopping leave them.

    As in the native sources: of `eos_ids` those above 0 are held back while fewer than `min_new_tokens` - 1
    tokens exist; the answer ends after any of `stop_ids`.
    """
    kept: list[int] = []
    # Read once: the native object makes new lists at each access, and this runs on a server's event loop.
    held, ends, num_least = set(config.eos_ids), set(config.stop_ids[0]), config.min_new_tokens
    for token_id in token_ids[: config.max_new_tokens]:
        is_held = token_id > 0 and token_id in held
        is_early = len(kept) + 1 < num_least
        kept.append(HELD_BACK if is_held and is_early else token_id)
        if kept[-1] in ends:
            break
    return kept


def logits_at(place: int) -> torch.Tensor:
    """The row of logits behind token `place` of every answer, rounded to the model's type."""
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(place)).mul(4).bfloat16()


def add_logprobs(outputs: Any, plan: Plan, max_new_tokens: int) -> None:
    """Of the plan's logits. Without them the chosen token is the second likeliest of three."""
    values, indexes = torch.zeros(max_new_tokens + 1, 1024), torch.zeros(max_new_tokens + 1, 1024)
    numbers = torch.zeros(max_new_tokens + 1, dtype=torch.int32)
    for place, token_id in enumerate(plan.token_ids):
        ids = torch.tensor([token_id + 1, token_id, token_id + 2])
        found = torch.tensor([-0.5, -1.5, -2.5])
        if plan.logits is not None:
            found, ids = plan.logits[place].float().log_softmax(-1).topk(NUM_LOGPROBS)
        numbers[place] = len(ids)
        indexes[place, : len(ids)], values[place, : len(ids)] = ids, found
    outputs["logprob_vals"] = _turbomind.from_dlpack(values)
    outputs["logprob_indexes"] = _turbomind.from_dlpack(indexes.to(torch.int32))
    outputs["logprob_nums"] = _turbomind.from_dlpack(numbers)


@dataclass
class Loop:
    """The native engine: steps every active request on one thread. `plan` decides the answers."""

    plan: Callable[[Call], Plan] = lambda call: Plan([65, 66, 67])
    step_s: float = 0.0005
    calls: MutableSequence[Call] = field(default_factory=list)
    num_cancelled: int = 0
    max_active: int = 0
    tick: int = 0
    has_metrics: bool = True

    def __post_init__(self) -> None:
        self._active: list[Running] = []
        self._lock = threading.Lock()
        self._pass = threading.Lock()  # held while one is made
        self._is_frozen = self._is_closed = False
        self.model_path, self.vocab_size = "", VOCABULARY  # what TurboMind loaded, and how
        self.config: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def num_active(self) -> int:
        with self._lock:
            return len(self._active)

    def push(self, running: Running) -> None:
        with self._lock:
            assert all(r.call.session_id != running.call.session_id for r in self._active)
            self.calls.append(running.call)
            self._active.append(running)
            self.max_active = max(self.max_active, len(self._active))

    def freeze(self) -> None:
        """Hang: when this returns, the last pass is over, and none follows until `thaw`."""
        with self._pass:
            self._is_frozen = True

    def thaw(self) -> None:
        self._is_frozen = False

    def close(self) -> None:
        """Also ends the thread: it would abort the process if this ended while it is in native code."""
        self._is_closed = True
        if threading.current_thread() is not self._thread:
            self._thread.join(60)

    # What `TurboMind.model_comm` offers.

    def create_request(self) -> Request:
        return Request(self)

    def get_schedule_metrics(self, rank: int) -> Any:
        assert rank == 0
        if not self.has_metrics:
            return None
        return SimpleNamespace(
            active_seqs=self.num_active, waiting_seqs=2, cache_usage=0.25, prefix_cache_hit_rate=0.5,
            scheduler_tick=self.tick,
        )  # fmt: skip

    def _run(self) -> None:
        while not self._is_closed:
            time.sleep(self.step_s)
            with self._pass:
                self._step_all()

    def _step_all(self) -> None:
        if self._is_frozen:
            return
        with self._lock:
            active = list(self._active)
        if active:
            self.tick += 1
        for running in active:
            self._step(running)

    def _end(self, running: Running, status: int, seq_len: int) -> None:
        """Room for another first, then the news: its handle is used again at once."""
        with self._lock:
            self._active.remove(running)
        running.state.update(status, seq_len, running.callback)

    def _step(self, running: Running) -> None:
        """One pass of a request. After a status that is not 0 nothing more is said of it."""
        plan = running.plan
        num_prompt = len(running.call.input_ids)
        if running.is_cancelled:
            self.num_cancelled += 1
            self._end(running, CANCEL, num_prompt + running.num_sent)
            return
        if plan.wait_steps:
            plan.wait_steps -= 1
            return
        end = running.num_sent + plan.tokens_per_step
        if end > plan.may_have():
            return
        new = plan.token_ids[running.num_sent : end]
        running.metrics.scheduled_time, running.metrics.cached_tokens = 2, plan.num_cached
        for place in range(running.num_sent, running.num_sent + len(new)):
            if running.logits is not None:
                rows = plan.logits
                running.logits[place] = logits_at(place) if rows is None else rows[place]
        start = num_prompt + running.num_sent
        running.output_ids[start : start + len(new)] = new
        running.num_sent += len(new)
        seq_len = num_prompt + running.num_sent
        if running.num_sent >= len(plan.token_ids) and plan.status is not None:
            self._end(running, plan.status, seq_len if plan.status == FINISH else 0)
        elif new:
            running.state.update(0, seq_len, running.callback)


@contextmanager
def stand_ins(loop: Loop, *, close_s: float = 60.0) -> Iterator[None]:
    """LMDeploy on a machine without a GPU, with `loop` as its engine.

    Args:
        loop: It; closed in the end.
        close_s: How long ending its requests, and its return, may take before the server takes it for hung
            and ends the process, which may be that of the tests.
    """

    def init(
        self: Any, model_path: str, model_name: str | None = None, chat_template_name: str | None = None,
        engine_config: Any = None, trust_remote_code: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        assert not trust_remote_code
        assert is_supported(model_path, trust_remote_code=trust_remote_code)
        config = deepcopy(engine_config)
        turbomind_module.update_parallel_config(config)
        self.source_model, _, _ = converter.get_tm_config(
            model_path, config, trust_remote_code=trust_remote_code
        )
        self.engine_config = loop.config = config
        loop.model_path = model_path
        self._vocab_size = loop.vocab_size = self.source_model._vocab_size
        self.tokenizer = Tokenizer(model_path, trust_remote_code=trust_remote_code)
        self.session_len = config.session_len
        self.devices, self.gpu_count = config.devices, len(config.devices)
        self.model_comm, self.is_dummy, self._engine_created = loop, False, True
        self._grammar_compiler = None
        self.health_executor = None

    with ExitStack() as patches:
        for target, name, value in (
            (TurboMind, "__init__", init),
            (converter, "_get_executable_dtypes", lambda formats, device: {"bfloat16", "float16"}),
            (torch.cuda, "device_count", lambda: 8),
            (torch.cuda, "mem_get_info", lambda device=None: (80 << 30, 80 << 30)),
            (torch.cuda, "empty_cache", lambda: None),
            (lmdeploy.utils, "is_bf16_supported", lambda device_type="cuda": True),
            (lmdeploy.vl.engine, "is_bf16_supported", lambda device_type="cuda": True),
            (engine, "_CLOSE_S", close_s),
            (engine, "_RETURN_S", close_s),
        ):
            patches.enter_context(mock.patch.object(target, name, value))
        try:
            yield
        finally:
            loop.close()
