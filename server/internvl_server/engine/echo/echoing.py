"""What the echo engine answers without a constraint: the text of the prompt."""

from collections.abc import Iterator
from itertools import count, cycle, islice

from internvl_server.core import FinishReason, GenerateRequest, TokenLogprobs

__all__ = ["echoed", "logprobs_of"]


def echoed(
    request: GenerateRequest, skipped: frozenset[int], end_ids: list[int], limit: int
) -> Iterator[tuple[tuple[int, ...], FinishReason | None]]:
    """The tokens of the prompt's text, one at a time, then an end; the last with the reason for the end.

    Args:
        request: The request; its text is repeated until `min_tokens` is reached.
        skipped: Ids that are not text.
        end_ids: Ids that may end the answer; the first is used.
        limit: Most tokens.
    """
    text = [i for i in _outside_of_images(request) if i not in skipped]
    if len(text) < request.sampling.min_tokens:
        filler = text or [next(i for i in count() if i not in skipped)]
        text = list(islice(cycle(filler), request.sampling.min_tokens))
    token_ids = (text + end_ids[:1])[:limit]
    yield from (((token_id,), None) for token_id in token_ids[:-1])
    yield tuple(token_ids[-1:]), "stop" if len(text) < limit else "length"


def logprobs_of(
    token_ids: tuple[int, ...], num_top: int | None
) -> tuple[TokenLogprobs, ...] | None:
    """Log probabilities of certain tokens; None where the request asks for none."""
    return None if num_top is None else tuple(_certain(i, num_top) for i in token_ids)


def _certain(token_id: int, num_top: int) -> TokenLogprobs:
    """The other tokens, from id 0 on, are practically impossible."""
    others = islice((i for i in count() if i != token_id), max(num_top - 1, 0))
    top = [(token_id, 0.0), *((i, -100.0 * rank) for rank, i in enumerate(others, start=1))]
    return TokenLogprobs(0.0, tuple(top[:num_top]))


def _outside_of_images(request: GenerateRequest) -> Iterator[int]:
    start = 0
    for span in request.images:
        yield from request.prompt_token_ids[start : span.offset]
        start = span.offset + span.num_image_tokens
    yield from request.prompt_token_ids[start:]
