"""Log probabilities as clients read them: the true text and bytes of every token."""

from collections.abc import Callable, Sequence

from internvl_server.core import LogprobToken, TextLogprobs, TokenLogprobs

__all__ = ["LEAST_LOGPROB", "LogprobWriter"]

# JSON has no infinity; OpenAI writes this for a token that cannot be chosen.
LEAST_LOGPROB = -9999.0


class LogprobWriter:
    """Looks the tokens of log probabilities up.

    Args:
        bytes_of: UTF-8 bytes of a token id, special tokens' names included.
        num_top: Most likely tokens that were asked for at each place. The chosen token is always among
            them: where it is not one of the likeliest it takes the last one's place.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], num_top: int) -> None:
        self._bytes_of = bytes_of
        self._num_top = num_top

    def __call__(self, token_id: int, logprobs: TokenLogprobs) -> TextLogprobs:
        """Those of one place of the answer."""
        chosen = self._token(token_id, logprobs.logprob)
        return TextLogprobs(chosen, tuple(self._top(token_id, chosen, logprobs.top)))

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
