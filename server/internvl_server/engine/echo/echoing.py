"""The echo engine's answer without a constraint, and the deltas of any answer."""

from collections.abc import Iterator
from itertools import count, cycle, islice

from internvl_server.core import FinishReason, GenerateRequest, TokenDelta, TokenLogprobs

__all__ = ["deltas_of", "echoed"]


def echoed(request: GenerateRequest, skipped: frozenset[int], end_ids: list[int]) -> Iterator[int]:
    """The tokens of the prompt's text, repeated until `min_tokens` is reached, and the first end id.

    Args:
        request: The request; its image tokens are left out.
        skipped: Ids that are not text.
        end_ids: Ids that may end the answer.
    """
    in_images = {span.offset + i for span in request.images for i in range(span.num_image_tokens)}
    prompt = enumerate(request.prompt_token_ids)
    text = [i for place, i in prompt if place not in in_images and i not in skipped]
    if len(text) < request.sampling.min_tokens:
        filler = text or [next(i for i in count() if i not in skipped)]
        text = list(islice(cycle(filler), request.sampling.min_tokens))
    yield from text
    yield from end_ids[:1]


def deltas_of(token_ids: Iterator[int], limit: int, num_top: int | None) -> Iterator[TokenDelta]:
    """One delta for each token, at most `limit`; one without a token for an empty answer.

    With `num_top` they have the log probabilities of certain tokens.
    """
    current = tuple(islice(token_ids, 1))
    for number in count(1):
        following = tuple(islice(token_ids, 1))
        reason: FinishReason | None = (
            "stop" if not following else "length" if number == limit else None
        )
        certain = None if num_top is None else tuple(_certain(i, num_top) for i in current)
        yield TokenDelta(current, reason, certain)
        if reason is not None:
            return
        current = following


def _certain(token_id: int, num_top: int) -> TokenLogprobs:
    """The other tokens, from id 0 on, are practically impossible."""
    ranked = [token_id, *(i for i in range(num_top) if i != token_id)][:num_top]
    return TokenLogprobs(0.0, tuple((i, float(-100 * rank)) for rank, i in enumerate(ranked)))
