"""How an answer is shown while it grows: as plain text, or as Markdown in a terminal."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from internvl_server.chat.client import Delta
from internvl_server.telemetry.terminal import without_controls

__all__ = ["MarkdownView", "PlainView", "View"]

_REFRESH_S = 0.08
# A long block takes longer to draw. Then this many times as long is left for reading what comes.
_REST = 4
# HTML is text here: a terminal cannot show it, and InternVL's answers contain <ref> and <box>.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
# Blocks before which `rich` writes an empty line even where they are the first.
_WITH_LINE = {"blockquote_open", "bullet_list_open", "ordered_list_open", "table_open"}


class View(Protocol):
    """Shows one answer, as a context."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def show(self, delta: Delta) -> None:
        """Show what has come."""


class PlainView:
    """Writes the text to standard output as it comes, without reasoning."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._last = "\n"

    def __enter__(self) -> Self:
        return self

    def show(self, delta: Delta) -> None:
        """Write the text."""
        if delta.text:
            sys.stdout.write(without_controls(delta.text) if self._is_terminal else delta.text)
            sys.stdout.flush()
            self._last = delta.text[-1]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._last != "\n" and not isinstance(error, BrokenPipeError):
            sys.stdout.write("\n")
            sys.stdout.flush()


class MarkdownView:
    """Prints the finished blocks of a growing Markdown text, and redraws the end of the last one.

    A terminal can only redraw what is on its screen, and an answer may be longer.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._waiting = console.status("")
        # Refreshed by this thread only: what two threads write at a time is written in any order.
        self._live = Live(
            self, console=console, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._next_refresh_s = 0.0
        self._reasoning = ""
        self._text = ""  # from the first line that may still change
        self._is_first = True

    def __enter__(self) -> Self:
        self._waiting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.stop()
        self._live.stop()
        self._end_reasoning()
        if self._text.strip():
            self._print(self._text)

    def show(self, delta: Delta) -> None:
        """Add what has come."""
        if not (delta.text or delta.reasoning):
            return
        self._waiting.stop()
        self._live.start()
        self._reasoning += without_controls(delta.reasoning)
        if delta.text:
            self._end_reasoning()
            self._text += without_controls(delta.text)
        if (start := time.monotonic()) >= self._next_refresh_s:
            self._print_finished()
            self._live.refresh()
            end = time.monotonic()
            self._next_refresh_s = end + max(_REFRESH_S, _REST * (end - start))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The end of what is not printed, as much as fits on the screen."""
        shown = _markdown(self._text) if self._text else Text(self._reasoning, style="dim")
        lines = console.render_lines(shown, options.update(height=None), pad=False)
        for line in lines[1 - options.size.height :]:
            yield from line
            yield Segment.line()

    def _end_reasoning(self) -> None:
        reasoning, self._reasoning = self._reasoning.strip(), ""
        if reasoning:
            self._console.print(Text(reasoning, style="dim"))
            self._console.line()

    def _print_finished(self) -> None:
        """Print all blocks but the last. Only whole lines are parsed: others may become anything."""
        *lines, last = self._text.split("\n")
        starts = _block_starts(_PARSER.parse("\n".join(lines)))
        if len(starts) > 1:
            self._text = "\n".join([*lines[starts[-1] :], last])
            self._print("\n".join(lines[: starts[-1]]))

    def _print(self, text: str) -> None:
        shown = _markdown(text)
        if not self._is_first and shown.parsed and shown.parsed[0].type not in _WITH_LINE:
            self._console.line()
        self._is_first = False
        self._console.print(shown)


def _markdown(text: str) -> Markdown:
    """A text as Markdown whose line breaks are kept, as models mean them."""
    shown = Markdown("", hyperlinks=False)
    shown.parsed = _PARSER.parse(text)
    for token in shown.parsed:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return shown


def _block_starts(tokens: Sequence[Token]) -> list[int]:
    """The first line of each block at the top level."""
    return [
        token.map[0] for token in tokens if token.level == 0 and token.map and token.nesting >= 0
    ]
