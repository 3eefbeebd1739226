"""LMDeploy TurboMind 0.18 wrapped in this server's types: loads it and makes its request objects.

Only this file, `sampling.py` (parameters), `requests/` (native requests, their tokens), `layouts.py` and
`authors_config.py` use LMDeploy. It serves as a library that takes token ids and pixels; its HTTP app, media
loader, chat templates, detokenizer and asyncio code are never used. tests/lmdeploy/test_differences.py
records where LMDeploy's own server behaves differently.
"""

import hashlib
import itertools
import logging
import re
from typing import Any

import torch
from lmdeploy.messages import TurbomindEngineConfig
from lmdeploy.turbomind import TurboMind, _turbomind
from lmdeploy.turbomind.tokenizer_info import TokenizerInfo

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.core import GenerateRequest, PixelType
from internvl_server.engine.turbomind.layouts import (
    check_loadable,
    name_text_model,
    teach_layouts,
)
from internvl_server.engine.turbomind.requests.handle import Handle, Multimodal
from internvl_server.engine.turbomind.requests.outputs import SchedulerMetrics
from internvl_server.settings import TurbomindSettings

__all__ = ["Runtime", "engine_config", "load_runtime"]

# Compiled grammars are kept for later requests with the same constraint. Small ones take up to six times what
# the compiler counts.
_GRAMMAR_CACHE_BYTES = 16 << 20


class Runtime:
    """A loaded TurboMind.

    Args:
        turbomind: LMDeploy's engine.
        checkpoint: The checkpoint it has loaded.
    """

    def __init__(self, turbomind: TurboMind, checkpoint: Checkpoint) -> None:
        self._turbomind = turbomind
        self._checkpoint = checkpoint
        self.pixel_type = _pixel_type(turbomind)
        self._pixel_dtype: torch.dtype = getattr(torch, self.pixel_type)
        self._session_ids = itertools.count(1)
        self._compiler = self._new_compiler()  # takes a second, which no request should wait for

    def new_handle(self) -> Handle:
        """Create a handle, which runs one request at a time."""
        return Handle(
            self._turbomind.create_instance(),
            self._session_ids,
            self._turbomind._vocab_size,  # noqa: SLF001  (not public)
        )

    def scheduler_metrics(self) -> SchedulerMetrics | None:
        """What the scheduler says; None if this build does not report it. May block while it hangs."""
        try:
            found = self._turbomind.get_schedule_metrics()
        except AttributeError:  # the native side reports no metrics
            return None
        return SchedulerMetrics(
            tick=int(found.scheduler_tick),
            num_active=int(found.active_seqs),
            num_waiting=int(found.waiting_seqs),
            cache_usage=float(found.cache_usage),
            prefix_cache_hit_rate=float(found.prefix_cache_hit_rate),
        )

    def multimodal(self, request: GenerateRequest) -> Multimodal | None:
        """The images as LMDeploy expects them. TurboMind does not copy the arrays, but keeps them alive."""
        images: Multimodal = []
        for span, values in zip(request.images, request.pixel_values, strict=True):
            assert values.dtype == self.pixel_type.storage, values.dtype
            images.append(
                {
                    "modality": "image",
                    "pixel_values": torch.from_numpy(values).view(self._pixel_dtype),
                    "image_tokens": span.num_image_tokens,
                    "image_token_id": self._checkpoint.image_token_id,
                    "offset": span.offset,
                    # Without a fingerprint LMDeploy hashes the pixels.
                    "fingerprint": span.fingerprint or hashlib.sha256(values.data).digest(),
                }
            )
        return images or None

    def compile_grammar(self, tag: str) -> object:
        """Compile the structural tag of a constraint. CPU-bound; releases the GIL.

        Raises:
            ValueError: The compiler does not take it, though the package xgrammar did.
        """
        compiler = self._compiler
        try:
            return compiler.compile_structural_tag(tag)
        except RuntimeError as err:  # all that the native compiler raises
            place = r"^\[[\d:]+\] \S+:\d+: "  # time, file and line of its source
            raise ValueError(re.sub(place, "", str(err))) from err

    def close(self) -> None:
        """Free the model. Handles must be gone."""
        self._turbomind.close()

    def _new_compiler(self) -> Any:  # noqa: ANN401  (a native object)
        # LMDeploy's own compiler knows only one stop token, and never drops a grammar.
        vocabulary = TokenizerInfo.from_huggingface(
            self._turbomind.tokenizer.model.model,
            vocab_size=self._turbomind._vocab_size,  # noqa: SLF001  (not public)
            stop_token_ids=sorted(self._checkpoint.stop_token_ids),
        )
        return _turbomind.GrammarCompiler(
            vocabulary, max_threads=1, max_memory_bytes=_GRAMMAR_CACHE_BYTES
        )


def load_runtime(
    checkpoint: Checkpoint, settings: TurbomindSettings, *, max_num_seqs: int, max_model_len: int
) -> Runtime:
    """Load a checkpoint onto the GPUs. Takes seconds to minutes.

    Raises:
        StartupError: The checkpoint's tokenizer exists only as Python code, or it has other weights.
        Exception: LMDeploy cannot load it.
    """
    check_loadable(checkpoint)
    teach_layouts()
    # At INFO it logs every request.
    logging.getLogger("lmdeploy").setLevel(logging.WARNING)
    config = engine_config(settings, max_num_seqs=max_num_seqs, max_model_len=max_model_len)
    config.hf_overrides = name_text_model(checkpoint, config.hf_overrides) or None
    turbomind = TurboMind.from_pretrained(
        str(checkpoint.path), engine_config=config, trust_remote_code=False
    )
    # What is left for torch here, converting pixels and logits, is small and runs on many threads already.
    torch.set_num_threads(1)
    return Runtime(turbomind, checkpoint)


def engine_config(
    settings: TurbomindSettings, *, max_num_seqs: int, max_model_len: int
) -> TurbomindEngineConfig:
    """Convert the settings to LMDeploy's config."""
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
        cache_prompt=settings.cache_prompt,
        cache_prompt_boundary_skip=settings.cache_prompt_boundary_skip,
        cache_generation=settings.cache_generation,
        num_tokens_per_iter=settings.num_tokens_per_iter,
        max_prefill_iters=settings.max_prefill_iters,
        gemm_input_dtype=settings.gemm_input_dtype or None,
        hf_overrides=settings.hf_overrides or None,
        enable_metrics=settings.report_cached_tokens,  # of requests; the scheduler always has its own
    )


def _pixel_type(turbomind: TurboMind) -> PixelType:
    """The type of the vision encoder, which may differ from that of a quantized text model."""
    native = turbomind.source_model._vision_data_type  # noqa: SLF001  (not public)
    types = _turbomind.DataType
    return {types.TYPE_BF16: PixelType.BFLOAT16, types.TYPE_FP16: PixelType.FLOAT16}[native]
