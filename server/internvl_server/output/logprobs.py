"""Converts log probabilities for clients: each token with its text and bytes."""

from collections.abc import Callable, Sequence

from internvl_server.core import LogprobToken, TextLogprobs, TokenLogprobs

__all__ = ["IN_REASONING", "LEAST_LOGPROB", "LogprobWriter"]

# JSON has no infinity; OpenAI writes this for a token that cannot be chosen.
LEAST_LOGPROB = -9999.0

IN_REASONING = -1
"""The offset of tokens that are before the text."""


class LogprobWriter:
    """Looks up the text of the tokens that log probabilities belong to.

    Args:
        bytes_of: UTF-8 bytes of a token id, special tokens' names included.
        num_top: Number of most likely tokens requested for each position. The chosen token is always among
            them: if it is not one of the most likely, it replaces the last one.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], num_top: int) -> None:
        self._bytes_of = bytes_of
        self._num_top = num_top

    def __call__(self, token_id: int, logprobs: TokenLogprobs, offset: int = 0) -> TextLogprobs:
        """The log probabilities of one position, at an offset of the answer's text or `IN_REASONING`."""
        chosen = self._token(token_id, logprobs.logprob)
        top = tuple(self._top(token_id, chosen, logprobs.top))
        return TextLogprobs(chosen, top, offset == IN_REASONING, offset)

    def _top(
        self, token_id: int, chosen: LogprobToken, top: Sequence[tuple[int, float]]
    ) -> list[LogprobToken]:
        likeliest = top[: self._num_top]
        tokens = [self._token(*pair) for pair in likeliest]
        if self._num_top and all(i != token_id for i, _ in likeliest):
            tokens[self._num_top - 1 :] = [chosen]
        return tokens

    def _token(self, token_id: int, logprob: float) -> LogprobToken:
        data = self._bytes_of(token_id)
        return LogprobToken(data.decode("utf-8", "replace"), data, max(logprob, LEAST_LOGPROB))
