"""Computes a step. Owns the model and the tensors of the running requests."""

from collections.abc import Generator, Iterable, Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from internvl_server.core import ImageSpan, TokenLogprobs
from internvl_server.engine.cpu.model.decoder import Segment
from internvl_server.engine.cpu.model.internvl import InternVL
from internvl_server.engine.cpu.model.kv_cache import KvCache
from internvl_server.engine.cpu.sampling.logprobs import token_logprobs
from internvl_server.engine.cpu.sampling.sampler import Sampler
from internvl_server.engine.cpu.scheduler import Prefill, Sequence
from internvl_server.errors import EngineError

__all__ = ["Choice", "Runner"]


@dataclass(slots=True)
class _State:
    """Tensors of one running request.

    `encoding` is the unfinished encoding of its tiles and holds the only reference to its pixels.
    `image_embeds` is the result, (num_image_tokens, hidden_size), dropped after prefill.
    """

    kv_cache: KvCache
    sampler: Sampler
    prompt: Tensor
    last_token_id: int = -1
    encoding: Generator[None, None, Tensor] | None = None
    image_embeds: Tensor | None = None


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
    two tokens are equally likely to about six digits.
    """

    def __init__(self, model: InternVL) -> None:
        self._model = model
        self._states: dict[Sequence, _State] = {}

    @property
    def num_sequences(self) -> int:
        """Number of requests with tensors."""
        return len(self._states)

    def begin(self, sequence: Sequence) -> None:
        """Allocate a request's state and take its pixels over."""
        request = sequence.request
        decoder = self._model.decoder
        image_ids = [i for span in request.images for i in _span_range(span)]
        text_ids = _without(request.prompt_token_ids, image_ids)
        state = _State(
            kv_cache=KvCache(self._model.config.text, sequence.num_kv_tokens, decoder.dtype),
            sampler=self._new_sampler(sequence, text_ids),
            prompt=_ids(request.prompt_token_ids),
        )
        if sequence.needs_encoding and request.pixel_values:
            pixels = torch.cat([torch.from_numpy(values) for values in request.pixel_values])
            state.encoding = self._model.vision.encode(pixels)
            sequence.request = replace(request, pixel_values=())
        self._states[sequence] = state

    def _new_sampler(self, sequence: Sequence, text_ids: Iterable[int]) -> Sampler:
        request, grammar = sequence.request, sequence.grammar
        vocab_size = self._model.config.text.vocab_size
        stops = [i for i in request.stop_token_ids if 0 <= i < vocab_size]
        return Sampler(request.sampling, text_ids, stops, grammar.start(stops) if grammar else None)

    def drop(self, sequence: Sequence) -> None:
        """Free all memory of a request; does nothing if it has not begun."""
        self._states.pop(sequence, None)

    def encode(self, sequence: Sequence) -> None:
        """Encode one piece of a request's images; the last one clears `needs_encoding`."""
        state = self._states[sequence]
        assert state.encoding is not None
        try:
            next(state.encoding)
        except StopIteration as end:
            state.image_embeds = end.value
            state.encoding = None
            sequence.needs_encoding = False

    def forward(self, decode: Items[Sequence], prefill: Items[Prefill]) -> list[Choice]:
        """Compute the next token of each `decode` sequence and each `prefill` that completes a prompt."""
        rows = list(range(len(decode)))
        segments = [self._decode_segment(sequence) for sequence in decode]
        embeds = [self._embed(_ids(self._states[s].last_token_id for s in decode))]
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
                state.image_embeds = None
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
        embeds = self._embed(state.prompt[start:end])
        if state.image_embeds is not None:
            for first, last, row in _overlaps(sequence.request.images, start, end):
                embeds[first - start : last - start] = state.image_embeds[row : row + last - first]
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
        state.last_token_id = token_id
        sequence.num_generated += 1
        logprobs = None
        if log_softmax is not None:
            logprobs = token_logprobs(log_softmax, token_id, num_logprobs or 0)
        return Choice(sequence, token_id, logprobs, state.sampler.is_complete)


def _ids(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _span_range(span: ImageSpan) -> range:
    return range(span.offset, span.offset + span.num_image_tokens)


def _without(token_ids: Items[int], indices: Items[int]) -> Iterator[int]:
    """The ids at all other indices."""
    left_out = frozenset(indices)
    return (token_id for i, token_id in enumerate(token_ids) if i not in left_out)


def _overlaps(spans: Items[ImageSpan], start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Find the image tokens between the prompt positions `start` and `end`.

    Yields:
        First and one past the last token, and the row of the first in the request's image
        embeddings.
    """
    row = 0
    for span in spans:
        first = max(span.offset, start)
        last = min(span.offset + span.num_image_tokens, end)
        if first < last:
            yield first, last, row + first - span.offset
        row += span.num_image_tokens
