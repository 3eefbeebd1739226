"""LMDeploy TurboMind behind names of ours. The only file that knows LMDeploy (0.18).

It is used as a library at its deepest door that takes token ids and pixels,
`TurboMindInstance.async_stream_infer`; its HTTP app, media loader, chat templates and detokeniser are
never used. Where its own server behaves otherwise than this file, tests/lmdeploy/test_differences.py names
the difference.
"""

import hashlib
import itertools
import json
import logging
import math
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from lmdeploy.messages import EngineOutput, GenerationConfig, ResponseType, TurbomindEngineConfig
from lmdeploy.turbomind import TurboMind, _turbomind
from lmdeploy.turbomind.tokenizer_info import TokenizerInfo

from server.checkpoint import Checkpoint
from server.core import GenerateRequest, Guide, SamplingParams, TokenLogprobs
from server.engine.lmdeploy_layout import check_needs_no_code, register_authors_config
from server.errors import (
    ContextLengthExceededError,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    ServerError,
)
from server.settings import TurbomindSettings

__all__ = ["Handle", "Output", "Runtime", "engine_config", "generation_config", "load_runtime"]

# Compiled grammars that are kept for the next request with the same guide.
_GRAMMAR_CACHE_BYTES = 64 << 20

Multimodal: TypeAlias = list[dict[str, Any]]

# What each status that is neither progress nor an end means to the client.
_ERRORS: Mapping[ResponseType, tuple[type[ServerError], str]] = {
    ResponseType.INPUT_LENGTH_ERROR: (
        ContextLengthExceededError,
        "The prompt does not fit the memory the engine has for one request. Shorten it.",
    ),
    ResponseType.NO_QUEUE: (EngineUnavailableError, "The engine takes no requests now."),
    ResponseType.OUT_OF_MEMORY: (
        EngineOverloadedError,
        "The engine has no memory for this request now. Try again later, or send a shorter one.",
    ),
    ResponseType.ENGINE_STOP_ERROR: (EngineUnavailableError, "The engine was stopped."),
    ResponseType.HANDLER_NOT_EXIST: (EngineError, "The engine lost the request."),
    ResponseType.SESSION_NOT_EXIST: (EngineError, "The engine does not accept the request."),
    ResponseType.SESSION_REPEAT: (EngineError, "The engine mixed up two requests."),
    ResponseType.PREFIX_CACHE_CONFLICT: (
        EngineError,
        "The engine's prefix cache does not allow it.",
    ),
    ResponseType.NOT_SUPPORTED: (EngineError, "The engine does not support the request."),
    ResponseType.INTERNAL_ENGINE_ERROR: (EngineError, "The engine failed."),
    ResponseType.CANCEL: (EngineError, "The engine cancelled the request."),
}


@dataclass(frozen=True, slots=True)
class Output:
    """New token ids of a request, and how it stands: `is_last` once the native side is done with it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    is_last: bool = False
    error: ServerError | None = None


class Runtime:
    """A loaded TurboMind.

    Args:
        turbomind: LMDeploy's engine.
        checkpoint: What it has loaded.
    """

    def __init__(self, turbomind: TurboMind, checkpoint: Checkpoint) -> None:
        self._turbomind = turbomind
        self._checkpoint = checkpoint
        self._pixel_dtype = _pixel_dtype(turbomind)
        self._session_ids = itertools.count(1)
        self._compiler: Any = None

    @property
    def is_follower(self) -> bool:
        """Whether another node takes the requests of this one."""
        return bool(self._turbomind.is_dummy)

    def new_handle(self) -> "Handle":
        """What runs one request at a time."""
        return Handle(self._turbomind.create_instance(), self._session_ids)

    def scheduler_tick(self) -> int | None:
        """How often the scheduler has run; None if this build does not say. May block while it hangs."""
        try:
            return int(self._turbomind.get_schedule_metrics().scheduler_tick)
        except AttributeError:  # the native side hands out no metrics
            return None

    def multimodal(self, request: GenerateRequest) -> Multimodal | None:
        """The images as LMDeploy takes them: pixels in the vision encoder's type, place, name. CPU-bound."""
        if request.pixel_values is None:
            return None
        pixels = torch.from_numpy(request.pixel_values).to(self._pixel_dtype)
        images: Multimodal = []
        start = 0
        for span in request.images:
            tiles = pixels[start : start + span.num_tiles]
            start += span.num_tiles
            images.append(
                {
                    "modality": "image",
                    "pixel_values": tiles,
                    "image_tokens": span.num_image_tokens,
                    "image_token_id": self._checkpoint.image_token_id,
                    "offset": span.offset,
                    # Without a name LMDeploy hashes the pixels on the event loop.
                    "fingerprint": span.fingerprint or _hash_of(tiles),
                }
            )
        return images

    def compile_guide(self, guide: Guide) -> object:
        """Make the grammar an answer is held to. CPU-bound; releases the interpreter lock.

        Raises:
            RuntimeError, ValueError: The guide is malformed or uses what is not supported.
        """
        compiler = self._compiler = self._compiler or self._new_compiler()
        if guide.kind == "json_schema":
            return compiler.compile_json_schema(guide.source)
        if guide.kind == "regex":
            return compiler.compile_regex(guide.source)
        rules = {"type": "grammar", "grammar": guide.source}
        return compiler.compile_structural_tag(
            json.dumps({"type": "structural_tag", "format": rules})
        )

    def close(self) -> None:
        """Free the model. Handles must be gone."""
        self._turbomind.close()

    def _new_compiler(self) -> Any:  # noqa: ANN401  (a native object)
        # LMDeploy's own knows one stop token, and keeps every grammar for ever.
        vocabulary = TokenizerInfo.from_huggingface(
            self._turbomind.tokenizer.model.model,
            vocab_size=self._turbomind._vocab_size,  # noqa: SLF001  (nothing public has it)
            stop_token_ids=sorted(self._checkpoint.stop_token_ids),
        )
        return _turbomind.GrammarCompiler(
            vocabulary, max_threads=1, max_memory_bytes=_GRAMMAR_CACHE_BYTES
        )


class Handle:
    """One native request object, used for one request after another.

    Args:
        instance: LMDeploy's `TurboMindInstance`.
        session_ids: Ids no two requests share.
    """

    def __init__(self, instance: Any, session_ids: Iterator[int]) -> None:  # noqa: ANN401
        self._instance = instance
        self._session_ids = session_ids
        self._session_id = 0
        # A grammar stays on the native object, and would hold the next request to it as well.
        self.is_reusable = True

    async def outputs(
        self, request: GenerateRequest, images: Multimodal | None, grammar: object | None
    ) -> AsyncGenerator[Output, None]:
        """Run a request to its end; after `cancel` the end comes soon. Leaving before waits for it."""
        if grammar is not None:
            self.is_reusable = False
            self._instance.model_inst.set_grammar(grammar)
        self._session_id = next(self._session_ids)
        num_logprobs = request.sampling.num_logprobs
        native = self._instance.async_stream_infer(
            self._session_id,
            input_ids=request.prompt_token_ids,
            multimodal=images,
            gen_config=generation_config(request),
            stream_output=True,
        )
        async with aclosing(native):
            async for output in native:
                yield _translate(output, num_logprobs)

    async def cancel(self) -> None:
        """Ask the native side to end the running request; it answers through `outputs`."""
        await self._instance.async_cancel(self._session_id)


def load_runtime(
    checkpoint: Checkpoint, settings: TurbomindSettings, *, max_num_seqs: int, max_model_len: int
) -> Runtime:
    """Load a checkpoint onto the GPUs. Takes seconds to minutes.

    Raises:
        StartupError: The checkpoint would need code of its own.
        Exception: Whatever LMDeploy raises when it cannot load it.
    """
    check_needs_no_code(checkpoint.path)
    register_authors_config()
    logging.getLogger("lmdeploy").setLevel(
        logging.WARNING
    )  # at INFO it writes lines for each request
    config = engine_config(settings, max_num_seqs=max_num_seqs, max_model_len=max_model_len)
    turbomind = TurboMind.from_pretrained(
        str(checkpoint.path), engine_config=config, trust_remote_code=False
    )
    return Runtime(turbomind, checkpoint)


def engine_config(
    settings: TurbomindSettings, *, max_num_seqs: int, max_model_len: int
) -> TurbomindEngineConfig:
    """The settings in LMDeploy's words."""
    return TurbomindEngineConfig(
        dtype=settings.dtype,
        model_format=settings.model_format or None,
        tp=settings.tp,
        devices=list(settings.devices) or None,
        session_len=max_model_len,
        max_batch_size=max_num_seqs,
        cache_max_entry_count=settings.cache_max_entry_count,
        quant_policy=settings.quant_policy,
        enable_prefix_caching=settings.enable_prefix_caching,
        max_prefill_token_num=settings.max_prefill_token_num,
        communicator=settings.communicator,
        nnodes=settings.nnodes,
        node_rank=settings.node_rank,
        dist_init_addr=settings.dist_init_addr or None,
        enable_metrics=True,  # `health` reads the scheduler's tick
    )


def generation_config(request: GenerateRequest) -> GenerationConfig:
    """The request's parameters in LMDeploy's words; no grammar, no stop strings."""
    sampling = request.sampling
    is_greedy = sampling.temperature == 0 or sampling.top_p == 0
    return GenerationConfig(
        max_new_tokens=request.max_tokens,
        do_sample=not is_greedy,  # read by LMDeploy's server only; the native side goes by top_k
        top_k=1 if is_greedy else sampling.top_k,
        top_p=1.0 if is_greedy else sampling.top_p,
        min_p=0.0 if is_greedy else sampling.min_p,
        temperature=1.0 if is_greedy else sampling.temperature,
        repetition_penalty=sampling.repetition_penalty,
        random_seed=_seed(sampling),
        stop_token_ids=sorted(request.stop_token_ids),
        # 0 would mean none at all: the chosen token's own comes with the likeliest one.
        logprobs=None if sampling.num_logprobs is None else max(sampling.num_logprobs, 1),
    )


def _seed(sampling: SamplingParams) -> int:
    """The native seed is unsigned; a fresh one for each request that brings none."""
    return secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64


def _translate(output: EngineOutput, num_logprobs: int | None) -> Output:
    token_ids = tuple(output.token_ids)
    if output.status in (ResponseType.SUCCESS, ResponseType.FINISH):
        logprobs = None
        if num_logprobs is not None and output.logprobs is not None:
            pairs = zip(token_ids, output.logprobs, strict=True)
            logprobs = tuple(_logprobs(token_id, row, num_logprobs) for token_id, row in pairs)
        return Output(token_ids, logprobs, is_last=output.status == ResponseType.FINISH)
    kind, message = _ERRORS[output.status]
    return Output(token_ids, is_last=True, error=kind(message))


def _logprobs(token_id: int, row: Mapping[int, float], num_top: int) -> TokenLogprobs:
    """LMDeploy's row holds the likeliest, and the chosen token wherever it ranks."""
    ranked = sorted(row.items(), key=lambda item: -item[1])
    return TokenLogprobs(row.get(token_id, -math.inf), tuple(ranked[:num_top]))


def _hash_of(pixels: torch.Tensor) -> bytes:
    return hashlib.sha256(pixels.contiguous().view(torch.uint8).numpy().data).digest()


def _pixel_dtype(turbomind: TurboMind) -> torch.dtype:
    """What the vision encoder was loaded in; a quantised text model may differ from it."""
    native = turbomind.source_model._vision_data_type  # noqa: SLF001  (nothing public has it)
    types = _turbomind.DataType
    return {types.TYPE_BF16: torch.bfloat16, types.TYPE_FP16: torch.float16}[native]
