"""Starts requests on TurboMind's native request objects, with a callback of this server's."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from lmdeploy.turbomind import _turbomind
from torch.utils.dlpack import from_dlpack

from internvl_server.core import GenerateRequest
from internvl_server.engine.turbomind.requests.outputs import NativeOutputs, OutputReader
from internvl_server.engine.turbomind.sampling import generation_config

__all__ = ["Handle", "Multimodal"]

Multimodal: TypeAlias = list[dict[str, Any]]


class Handle:
    """One native request object, used for one request after another.

    Args:
        instance: LMDeploy's `TurboMindInstance`.
        session_ids: Unique ids for requests.
        vocab_size: Number of logits in a row that belong to tokens.
    """

    def __init__(
        self,
        instance: Any,  # noqa: ANN401
        session_ids: Iterator[int],
        vocab_size: int,
    ) -> None:
        self._instance = instance
        self._session_ids = session_ids
        self._vocab_size = vocab_size
        # The native object keeps a grammar, which would constrain the next request as well, and the memory of
        # logits and log probabilities.
        self.is_reusable = True

    def start(
        self,
        request: GenerateRequest,
        images: Multimodal | None,
        grammar: object | None,
        signal: Callable[[], None],
    ) -> OutputReader:
        """Begin a request. It ends when the reader says so, soon after `cancel`.

        Args:
            request: The request, without pixels.
            images: Its images.
            grammar: Its compiled constraint.
            signal: Called on TurboMind's thread when there is a state to read, once for each that is read.
        """
        instance = self._instance
        model = instance.tm_model
        if grammar is not None:
            instance.model_inst.set_grammar(grammar)
        self.is_reusable = grammar is None and request.sampling.num_logprobs is None
        inputs = _turbomind.TensorMap()
        ids = torch.tensor(request.prompt_token_ids, dtype=torch.int32)
        inputs["input_ids"] = _turbomind.from_dlpack(ids)
        has_metrics = model.engine_config.enable_metrics
        outputs, state, metrics = instance.model_inst.forward(
            inputs,
            model.mm_input_converter(images),
            _turbomind.SessionParam(id=next(self._session_ids), step=0),
            instance._get_generation_config(generation_config(request)),  # noqa: SLF001  (not public)
            True,  # noqa: FBT003  (every token is reported)
            has_metrics,
            signal,
        )
        tensors = {name: from_dlpack(tensor) for name, tensor in outputs.items()}
        native = NativeOutputs(state.consume, metrics if has_metrics else None, tensors)
        return OutputReader(request, native, self._vocab_size, instance.errcode_map)

    def cancel(self) -> None:
        """Ask the native side to end the running request; its reader then reads the end."""
        self._instance.model_inst.cancel()
