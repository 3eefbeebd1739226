"""Bounds what all requests together may hold of one resource that nobody waits for.

The memory for log probabilities is one. What requests wait for is in `sharing.py`.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["Budget", "Held", "Permit"]


class Budget:
    """An amount that can be reserved and released. For use on one event loop; never waits.

    Args:
        limit: The most that may be reserved at once.
        refusal: Makes the error to raise when a reservation does not fit, from the amount in use.
    """

    def __init__(self, limit: int, refusal: Callable[[int], Exception]) -> None:
        self._limit = limit
        self._refusal = refusal
        self.in_use = 0

    def reserve(self, amount: int = 1) -> "Permit":
        """Reserve an amount until the permit is released. Zero always fits.

        Raises:
            Exception: The one that `refusal` makes: the amount does not fit now.
        """
        permit = Permit(self)
        permit.resize(amount)
        return permit

    def exchange(self, old: int, new: int) -> None:
        """Replace a reserved amount by another; permits call it.

        Raises:
            Exception: As `reserve`; nothing has changed then.
        """
        others = self.in_use - old
        if new > old and others + new > self._limit:
            raise self._refusal(self.in_use)
        self.in_use = others + new


class Held:
    """Something reserved, which is released at the end of a `with` block."""

    def release(self) -> None:
        """Give the whole amount back. Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """What is held."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release it."""
        self.release()


class Permit(Held):
    """What one owner has reserved of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.amount = 0

    def resize(self, amount: int) -> None:
        """Change the reserved amount.

        Raises:
            Exception: As `Budget.reserve`, when a larger amount does not fit; the old one stays reserved.
        """
        self._budget.exchange(self.amount, amount)
        self.amount = amount

    def release(self) -> None:
        """Give the whole amount back. Idempotent."""
        self.resize(0)
