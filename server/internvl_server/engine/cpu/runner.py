"""Computes a step. Owns the model and the tensors of the running requests."""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from internvl_server.core import ImageSpan, PixelType, PixelValues, TokenLogprobs
from internvl_server.engine.cpu.model.decoder import Segment
from internvl_server.engine.cpu.model.internvl import InternVL
from internvl_server.engine.cpu.model.kv_cache import KvCache
from internvl_server.engine.cpu.reuse.features import FeatureCache
from internvl_server.engine.cpu.reuse.prefixes import Prefix, PrefixCache, TokenIds
from internvl_server.engine.cpu.sampling.logprobs import token_logprobs
from internvl_server.engine.cpu.sampling.sampler import Sampler
from internvl_server.engine.cpu.scheduler import Prefill, Sequence
from internvl_server.errors import EngineError

__all__ = ["Choice", "Runner"]


@dataclass(slots=True)
class _State:
    """Tensors of one running request.

    `images` are its prompt's, each with a fingerprint. `encoding` is the unfinished encoding of those that
    were not reused, and holds the only reference to their pixels. `features` has the embeddings of each
    image by its offset, (num_image_tokens, hidden_size), until the prompt is computed.
    """

    kv_cache: KvCache
    sampler: Sampler
    prompt: TokenIds
    images: tuple[ImageSpan, ...] = ()
    generated: list[int] = field(default_factory=list)
    encoding: Generator[None, None, None] | None = None
    features: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """The next token of a sequence, or the error that prevented it.

    `is_complete` means that the grammar allows no further token.
    """

    sequence: Sequence
    token_id: int = -1
    logprobs: TokenLogprobs | None = None
    is_complete: bool = False
    error: Exception | None = None


class Runner:
    """The model, and the state of each request between two steps.

    In float32, a batch changes the results of a request by rounding only: a matrix product of one row and of
    several rows may differ in the last bits. Greedy text is therefore the same alone and in a batch, unless
    two tokens are equally likely to about six digits. Reused keys and values change them no more than that.

    Args:
        model: The model.
        features: Keeps encoded images.
        prefixes: Keeps the keys and values of ended requests; None to drop them.
    """

    def __init__(
        self, model: InternVL, features: FeatureCache, prefixes: PrefixCache | None
    ) -> None:
        self._model = model
        self._features = features
        self._prefixes = prefixes
        self._states: dict[Sequence, _State] = {}

    @property
    def num_sequences(self) -> int:
        """Number of requests with tensors."""
        return len(self._states)

    def begin(self, sequence: Sequence, num_free_tokens: int = 0) -> None:
        """Allocate a request's state, reuse the beginning of an earlier one, and take its pixels over.

        Args:
            sequence: The request.
            num_free_tokens: Keys and values that may be kept of ended requests now.
        """
        request = sequence.request
        image_ids = [i for span in request.images for i in _span_range(span)]
        text_ids = _without(request.prompt_token_ids, image_ids)
        pairs = list(zip(request.images, request.pixel_values, strict=True))
        state = _State(
            kv_cache=self._new_cache(sequence.num_kv_tokens),
            sampler=self._new_sampler(sequence, text_ids),
            prompt=np.array(request.prompt_token_ids, dtype=np.int64),
            images=tuple(_with_fingerprint(span, values) for span, values in pairs),
        )
        sequence.num_read_tokens = self._reuse(state, num_free_tokens)
        unread = [
            (span, values)
            for span, (_, values) in zip(state.images, pairs, strict=True)
            if span.offset + span.num_image_tokens > sequence.num_read_tokens
        ]
        sequence.needs_encoding = bool(unread)
        if unread:
            state.encoding = self._encode(unread, state.features)
        sequence.request = replace(request, pixel_values=())
        self._states[sequence] = state

    def _new_cache(self, max_tokens: int) -> KvCache:
        return KvCache(self._model.config.text, max_tokens, self._model.decoder.dtype)

    def _reuse(self, state: _State, num_free_tokens: int) -> int:
        """Take over keys and values of an ended request; returns the number of tokens.

        The last token of the prompt is always computed, because its logits are needed.
        """
        if self._prefixes is None:
            return 0
        num_tokens = 0
        if found := self._prefixes.find(state.prompt[:-1], state.images):
            prefix, num_tokens = found
            # Where there is no room for both, the request takes the memory of the ended one over.
            is_last_use = prefix.kv_cache.max_tokens > num_free_tokens
            if is_last_use:
                self._prefixes.remove(prefix)
            state.kv_cache.take(prefix.kv_cache, num_tokens, is_last_use=is_last_use)
        self._prefixes.shrink(num_free_tokens)
        return num_tokens

    def _encode(
        self, images: list[tuple[ImageSpan, PixelValues]], features: dict[int, Tensor]
    ) -> Generator[None, None, None]:
        """Encode images in order, unless they are known, and drop the pixels of each."""
        while images:
            span, pixels = images.pop(0)
            found = self._features.get(span.fingerprint)
            if found is None:
                found = yield from self._model.vision.encode(_tensor(pixels))
                self._features.add(span.fingerprint, found)
            features[span.offset] = found

    def _new_sampler(self, sequence: Sequence, text_ids: Iterable[int]) -> Sampler:
        request, grammar = sequence.request, sequence.grammar
        vocab_size = self._model.config.text.vocab_size
        stops = [i for i in request.stop_token_ids if 0 <= i < vocab_size]
        return Sampler(request.sampling, text_ids, stops, grammar.start(stops) if grammar else None)

    def drop(self, sequence: Sequence) -> None:
        """Free all memory of a request; does nothing if it has not begun."""
        self._states.pop(sequence, None)

    def end(self, sequence: Sequence, num_free_tokens: int) -> None:
        """Drop a request, but keep its keys and values for later ones, at most `num_free_tokens` in all."""
        state = self._states.pop(sequence, None)
        num_tokens = sequence.num_read_tokens + max(0, sequence.num_generated - 1)
        if state is None or self._prefixes is None or not 0 < num_tokens <= num_free_tokens:
            return
        kv_cache = state.kv_cache
        if kv_cache.max_tokens > min(2 * num_tokens, num_free_tokens):
            kv_cache = self._new_cache(num_tokens)
            kv_cache.take(state.kv_cache, num_tokens, is_last_use=True)
        token_ids = np.append(state.prompt, state.generated)[:num_tokens]
        self._prefixes.add(Prefix(token_ids, state.images, kv_cache))
        self._prefixes.shrink(num_free_tokens)

    def encode(self, sequence: Sequence) -> None:
        """Encode one piece of a request's images; the last one clears `needs_encoding`."""
        state = self._states[sequence]
        assert state.encoding is not None
        try:
            next(state.encoding)
        except StopIteration:
            state.encoding = None
            sequence.needs_encoding = False

    def forward(self, decode: Items[Sequence], prefill: Items[Prefill]) -> list[Choice]:
        """Compute the next token of each `decode` sequence and each `prefill` that completes a prompt."""
        rows = list(range(len(decode)))
        segments = [self._decode_segment(sequence) for sequence in decode]
        embeds = [self._embed(_ids(self._states[s].generated[-1] for s in decode))]
        wanted = list(decode)
        num_tokens = len(decode)
        for chunk in prefill:
            sequence, state = chunk.sequence, self._states[chunk.sequence]
            segments.append(Segment(state.kv_cache, sequence.num_read_tokens, chunk.num_tokens))
            embeds.append(self._embed_prompt(chunk))
            num_tokens += chunk.num_tokens
            sequence.num_read_tokens += chunk.num_tokens
            if not sequence.num_unread_tokens:
                rows.append(num_tokens - 1)
                wanted.append(sequence)
                state.features.clear()
        logits = self._model.decoder(torch.cat(embeds), segments, _ids(rows))
        return self._choose(wanted, logits)

    def _decode_segment(self, sequence: Sequence) -> Segment:
        position = sequence.num_read_tokens + sequence.num_generated - 1
        return Segment(self._states[sequence].kv_cache, position, 1)

    def _embed(self, token_ids: Tensor) -> Tensor:
        embeds: Tensor = self._model.decoder.embed(token_ids)
        return embeds

    def _embed_prompt(self, chunk: Prefill) -> Tensor:
        """Embeddings of the prompt's next tokens, with image embeddings at the image tokens."""
        sequence, state = chunk.sequence, self._states[chunk.sequence]
        start = sequence.num_read_tokens
        end = start + chunk.num_tokens
        embeds = self._embed(torch.from_numpy(state.prompt[start:end]))
        for span in state.images:
            first = max(span.offset, start)
            last = min(span.offset + span.num_image_tokens, end)
            if first < last:
                rows = state.features[span.offset][first - span.offset : last - span.offset]
                embeds[first - start : last - start] = rows
        return embeds

    def _choose(self, sequences: Items[Sequence], logits: Tensor) -> list[Choice]:
        if not sequences:
            return []
        likeliest = logits.argmax(dim=-1).tolist()
        return [
            self._choose_one(sequence, greedy, row)
            for sequence, greedy, row in zip(sequences, likeliest, logits, strict=True)
        ]

    def _choose_one(self, sequence: Sequence, greedy: int, row: Tensor) -> Choice:
        """Choose the next token of one sequence; an error affects only this sequence."""
        state = self._states[sequence]
        num_logprobs = sequence.request.sampling.num_logprobs
        # Computed first, because the sampler changes the row.
        log_softmax = row.log_softmax(dim=-1) if num_logprobs is not None else None
        try:
            token_id = greedy if state.sampler.is_plain_greedy else state.sampler.choose(row)
        except EngineError as err:
            return Choice(sequence, error=err)
        state.generated.append(token_id)
        sequence.num_generated += 1
        logprobs = None
        if log_softmax is not None:
            logprobs = token_logprobs(log_softmax, token_id, num_logprobs or 0)
        return Choice(sequence, token_id, logprobs, state.sampler.is_complete)


def _ids(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _span_range(span: ImageSpan) -> range:
    return range(span.offset, span.offset + span.num_image_tokens)


def _with_fingerprint(span: ImageSpan, values: PixelValues) -> ImageSpan:
    """The span with a fingerprint of its pixels, if it has none."""
    if span.fingerprint:
        return span
    return replace(span, fingerprint=hashlib.sha256(np.ascontiguousarray(values).data).digest())


def _tensor(values: PixelValues) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if values.dtype == PixelType.BFLOAT16.storage else tensor


def _without(token_ids: Items[int], indices: Items[int]) -> Iterator[int]:
    """The ids at all other indices."""
    left_out = frozenset(indices)
    return (token_id for i, token_id in enumerate(token_ids) if i not in left_out)
