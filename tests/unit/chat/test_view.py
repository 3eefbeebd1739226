"""Answers as they grow in a terminal: what is printed for good, and what is redrawn."""

import io
import re

import pytest
from internvl_server.chat.client import Delta
from internvl_server.chat.view import MarkdownView
from rich.console import Console

ANSWER = """\
# Shapes

Two *shapes*:
one in each line.

1. a **star**
2. a circle

| shape | colour |
| --- | --- |
| star | red |
| circle | green |

```python
print("<box>")

print("star")
```

The <ref>star</ref> is at <box>[[1, 2, 3, 4]]</box>.
"""


def shown(*texts: str, height: int = 50, reasoning: str = "") -> str:
    """The text that stays in the terminal, without styles."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, height=height, legacy_windows=False)
    with MarkdownView(console) as view:
        view.show(Delta(reasoning=reasoning))
        for text in texts:
            view._next_refresh_s = 0  # however fast the answer comes
            view.show(Delta(text))
    return screen(file.getvalue())


def screen(written: str) -> str:
    """What a terminal shows after it was written to, as far as `rich` makes use of one."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece.endswith("A") and piece.startswith("\x1b"):
            row -= int(piece[2:-1] or 1)
        elif piece.endswith("K") and piece.startswith("\x1b"):
            lines[row] = ""
        elif not piece.startswith(("\x1b", "\r")):
            lines[row] += piece
    return "\n".join(line.rstrip() for line in lines).strip("\n")


@pytest.mark.parametrize("size", [5, 17, 1000])
def test_pieces_make_no_difference(size: int) -> None:
    pieces = [ANSWER[start : start + size] for start in range(0, len(ANSWER), size)]
    assert shown(*pieces) == shown(ANSWER)


def test_markdown_is_rendered() -> None:
    text = shown(ANSWER)
    assert "Two shapes:\none in each line." in text
    assert " 1 a star\n 2 a circle\n" in text
    assert re.search(r"star +red", text)
    assert 'print("<box>")' in text
    assert "**" not in text
    assert "```" not in text
    assert "The <ref>star</ref> is at <box>[[1, 2, 3, 4]]</box>." in text


def test_an_answer_longer_than_the_screen_is_printed_once() -> None:
    pieces = [f"line {number}\n" for number in range(100)]
    text = shown("```\n", *pieces, "```\n\n", "end", height=10)
    assert re.findall(r"line (\d+)", text) == [str(number) for number in range(100)]
    assert text.endswith("end")


def test_lines_are_those_of_markdown() -> None:
    text = "a\u2028b\u2028c\n\nd\n\ne\n"
    assert shown(text, "f") == shown(text[:2], text[2:], "f") == "a\u2028b\u2028c\n\nd\n\ne\nf"


def test_what_takes_long_to_draw_is_drawn_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now, drawn = 0.0, 0

    def draw() -> None:
        nonlocal now, drawn
        now, drawn = now + 1, drawn + 1

    monkeypatch.setattr("internvl_server.chat.view.time.monotonic", lambda: now)
    with MarkdownView(Console(file=io.StringIO(), force_terminal=True)) as view:
        view._live.refresh = draw  # type: ignore[method-assign]
        for _ in range(1000):
            now += 0.01
            view.show(Delta("word "))
        assert drawn == 3


def test_reasoning_is_shown_before_the_answer() -> None:
    assert shown("A star.", reasoning="It has *five* points.") == "It has *five* points.\n\nA star."


def test_a_server_cannot_control_the_terminal() -> None:
    text = shown("a\x1b]0;title\x07b\x9b2J\n\n", "c\x08\r", reasoning="d\x1b[2J")
    assert text == "d[2J\n\na]0;titleb2J\n\nc"
