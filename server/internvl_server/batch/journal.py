"""What has become of a batch's lines: on file, in the ledger and on the progress bar."""

from typing import Any

from internvl_server.batch.ledger import Ledger
from internvl_server.batch.output import OutputFile

__all__ = ["Journal"]


class Journal:
    """Takes note of one line after another.

    Args:
        ledger: Knows which lines are done.
        output: Where answers go.
        bar: A tqdm bar.
    """

    def __init__(self, ledger: Ledger, output: OutputFile, bar: Any) -> None:  # noqa: ANN401 - untyped
        self._ledger = ledger
        self._output = output
        self._bar = bar
        self._num_failed = 0

    def is_settled(self, custom_id: str) -> bool:
        """Whether nothing is left to do for a line."""
        return self._ledger.is_settled(custom_id)

    def note(self, custom_id: str, text: str, *, is_success: bool) -> None:
        """Write what there is about a line; it is on file before it counts as done."""
        self._output.write(text)
        self._ledger.settle(custom_id, is_success=is_success)
        if not is_success:
            self._num_failed += 1
            self._bar.set_postfix(failed=self._num_failed, refresh=False)
        self._bar.update()
