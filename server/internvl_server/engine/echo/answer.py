"""A short text that a guide allows, found token by token without a model.

Where the guide leaves a choice, a fixed order decides: the end, what closes, digits, a string, letters,
and the rest. So strings and arrays are empty, numbers have one digit and optional properties are left
out, unless the guide asks for more. A choice gets dearer each time it is made again in the same situation
(the same bytes allowed) before the brackets around it have closed: then a repetition is left, and a rule
that leads back to itself, by another way where there is one. It is no search: a repetition that only a rare
character ends may run into the limit of the answer.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from internvl_server.engine.guided.matcher import GrammarMatcher

__all__ = ["ShortAnswer", "TokenCosts"]

_DIGITS = b"0123456789"
# Capitals first, as dates are written.
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_OPENING, _CLOSING = b"[{(", b"}])"
_QUOTE, _BACKSLASH = b'"\\'
# Bytes by cost, cheapest first; within one cost the earlier is taken. Inside the quotes of a string,
# outside of any brackets, and within them.
_IN_STRING = ((0, b'"'), (400, _LETTERS + _DIGITS + b" @:./-_"), (402, _OPENING + _CLOSING + b"\\"))
_ON_TOP = ((400, _DIGITS + b'"' + _LETTERS + b"@:./_"), (408, _OPENING + _CLOSING), (440, b"-"))
_IN_BRACKETS = (*_ON_TOP, (0, _CLOSING + b","))
_OTHER_ASCII, _OTHER = 401, 408
_ASCII = range(0x20, 0x7F)
# A cost is a multiple of this, and below it the place among equals.
_UNIT = 1 << 9
_LONGER = 1 << 30
_AVOIDED = 1 << 40


class TokenCosts:
    """How gladly each token is said, by its bytes alone.

    Args:
        token_bytes: By id.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self.token_bytes: Final = token_bytes
        orders = (_IN_STRING, _ON_TOP, _IN_BRACKETS)
        self._costs = [_token_costs(token_bytes, _byte_costs(order)) for order in orders]
        single = [token_id for token_id, data in enumerate(token_bytes) if len(data) == 1]
        self.single_ids: Final = np.array(single, dtype=np.int64)
        words = frozenset(_DIGITS + _LETTERS)
        self.is_word: Final = np.array([not words.isdisjoint(data[:1]) for data in token_bytes])

    def of(self, depth: int, *, in_string: bool) -> NDArray[np.int64]:
        """int64, (vocab_size,), new: so deep in brackets, and within the quotes of a string or not."""
        return self._costs[0 if in_string else 2 if depth else 1].copy()


class ShortAnswer:
    """One answer, a token a step; a step may take milliseconds.

    Args:
        state: The guide at its start, without any end of its own.
        costs: Of the tokens.
        banned: Ids that are said only where the guide allows no others.
        stop_ids: Ids that end the answer; said only as those are.
        end_id: What is said at the end where text could follow, if anything.
        min_tokens: No end before so many, where text can follow.
    """

    def __init__(
        self,
        state: GrammarMatcher,
        costs: TokenCosts,
        *,
        banned: frozenset[int],
        stop_ids: frozenset[int],
        end_id: int | None,
        min_tokens: int,
    ) -> None:
        self._state = state
        self._costs = costs
        self._stop_ids = stop_ids
        self._avoided = np.array(sorted(banned | stop_ids), dtype=np.int64)
        self._end_id = end_id
        self._min_tokens = min_tokens
        self._num_said = 0
        self._depth = 0  # of brackets
        self._in_string = self._is_escaped = False
        self._forced: list[int] = []
        # By situation, how often each token was chosen in brackets that are still open.
        self._tried: dict[bytes, Counter[int]] = {}
        self._open: list[tuple[int, Counter[int], int]] = []
        self.has_ended = False

    def step(self) -> tuple[int, ...]:
        """The next token; none where the answer ends without one. `has_ended` tells whether it was the last.

        Raises:
            EngineError: The guide has become too large to go on with.
        """
        if self._may_end():
            self.has_ended = True
            return () if self._end_id is None else (self._end_id,)
        token_id = self._next()
        self._state.advance(token_id)
        self._read(self._costs.token_bytes[token_id])
        self._num_said += 1
        is_over = self._state.is_complete or token_id in self._stop_ids
        self.has_ended = is_over or (self._end_id is None and self._may_end())
        return (token_id,)

    def _may_end(self) -> bool:
        is_long_enough = self._num_said >= self._min_tokens
        return self._state.is_complete or (is_long_enough and self._state.is_fulfilled)

    def _next(self) -> int:
        if not self._forced:
            forced = self._state.forced()
            self._forced = [] if np.isin(forced, self._avoided).any() else forced
        return self._forced.pop(0) if self._forced else self._choose()

    def _choose(self) -> int:
        forbidden = self._state.forbidden
        situation = forbidden[self._costs.single_ids].tobytes()
        tried = self._tried.setdefault(situation, Counter())
        costs = self._costs.of(self._depth, in_string=self._in_string)
        # Its like get dearer too, so that a word is soon followed by what may stand between words.
        is_word = self._costs.is_word
        num_words = sum(number for token_id, number in tried.items() if is_word[token_id])
        costs += np.where(is_word, num_words, tried.total() - num_words) * _UNIT
        for token_id, number in tried.items():
            costs[token_id] += number * _UNIT
        costs[self._avoided] += _AVOIDED
        allowed = np.flatnonzero(~forbidden)
        token_id = int(allowed[costs[allowed].argmin()])
        tried[token_id] += 1
        self._open.append((self._depth, tried, token_id))
        return token_id

    def _read(self, data: bytes) -> None:
        """Follow the brackets and strings of the text."""
        for byte in data:
            if self._is_escaped:
                self._is_escaped = False
            elif byte == _BACKSLASH:
                self._is_escaped = self._in_string
            elif byte == _QUOTE:
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth = max(0, self._depth + (byte in _OPENING) - (byte in _CLOSING))
        while self._open and self._open[-1][0] > self._depth:
            _, tried, token_id = self._open.pop()
            tried[token_id] -= 1


def _byte_costs(order: Iterable[tuple[int, bytes]]) -> list[int]:
    costs = [(_OTHER_ASCII if byte in _ASCII else _OTHER) * _UNIT for byte in range(256)]
    for cost, data in order:
        for place, byte in enumerate(data):
            costs[byte] = cost * _UNIT + place
    return costs


def _token_costs(token_bytes: Iterable[bytes], byte_costs: Sequence[int]) -> NDArray[np.int64]:
    """(vocab_size,): a longer token costs more than any single byte, because it is several choices in one."""
    costs = [
        max((byte_costs[byte] for byte in data), default=0) + len(data) * _LONGER
        for data in token_bytes
    ]
    return np.array(costs, dtype=np.int64)
