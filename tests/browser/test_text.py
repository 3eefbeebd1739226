"""How texts look in the playground: wide tables, formulas, lists of tasks, and texts from right to left."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.steps import Playground

pytestmark = pytest.mark.browser

TABLE = f"| {' | '.join(['Refrigerator'] * 12)} |\n|{' --: |' * 12}\n| {' | '.join(['x'] * 12)} |"
FORMULAS = r"""Inline \(x_1 * y_2 * z\) and $$a_b \\ c_d$$.

\[
x
= \frac{a_1}{b_2}
\]

Prices of $5 and $6, and `\(code\)`."""


def test_words_of_a_wide_table_are_not_broken(open_page: Callable[..., Playground]) -> None:
    """The table is scrolled in its own box."""
    playground = open_page(viewport={"width": 360, "height": 640})
    playground.play(TABLE)
    playground.ask("Hello")
    heights = playground.page.evaluate(
        "[...document.querySelectorAll('#turns tr')].map((row) => row.clientHeight)"
    )
    assert heights[0] == heights[1]
    assert playground.page.evaluate(
        "document.querySelector('.table-box').scrollWidth > document.querySelector('.table-box').clientWidth"
    )
    assert playground.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_formulas_keep_their_backslashes(playground: Playground) -> None:
    playground.play(FORMULAS)
    playground.ask("Hello")
    markdown = playground.page.locator("#turns .markdown")
    formulas = [r"\(x_1 * y_2 * z\)", r"$$a_b \\ c_d$$", r"\(code\)"]
    assert markdown.locator("code").all_inner_texts() == formulas
    assert markdown.locator("pre").inner_text().split() == [
        r"\[", "x", "=", r"\frac{a_1}{b_2}", r"\]",
    ]  # fmt: skip
    assert "Prices of $5 and $6, and" in markdown.inner_text()


def test_done_tasks_are_told_from_open_ones(playground: Playground) -> None:
    playground.play("- [x] one\n- [ ] two\n")
    playground.ask("Hello")
    items = playground.page.locator("#turns .markdown li").all_inner_texts()
    assert items == ["☑ one", "☐ two"]


def test_each_paragraph_has_the_direction_of_its_script(playground: Playground) -> None:
    playground.play("مرحبا بالعالم\n\nHello\n\n- عنصر\n\n```\ncode\n```")
    page = playground.page
    page.fill("#message", "שלום")
    direction = "(selector) => getComputedStyle(document.querySelector(selector)).direction"
    assert page.evaluate(direction, "#message") == "rtl"
    playground.ask("שלום")
    places = [".said", ".markdown p", ".markdown p + p", ".markdown ul", ".markdown pre"]
    found = [page.evaluate(direction, f"#turns {place}") for place in places]
    assert found == ["rtl", "rtl", "ltr", "rtl", "ltr"]


def test_headings_for_screen_readers_do_not_lengthen_the_page(playground: Playground) -> None:
    playground.play("line\n\n" * 60)
    for text in ("Hello", "And then?"):
        playground.ask(text)
    playground.page.evaluate("document.querySelector('#turns').lastChild.scrollIntoView()")
    assert (
        playground.page.evaluate("document.querySelector('.bar').getBoundingClientRect().top") == 0
    )
    playground.page.evaluate("document.querySelector('#scroll').scrollTop = 0")
    columns = "(name) => document.querySelector('.columns')[name]"
    heights = [playground.page.evaluate(columns, f"{kind}Height") for kind in ("scroll", "client")]
    assert heights[0] == heights[1]


@pytest.mark.parametrize("size", [(800, 500), (500, 800), (1200, 120)])
def test_labels_of_boxes_are_inside_the_picture(
    playground: Playground, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Also those of boxes at an edge, and the boxes are where the model says, however a photo lies."""
    exif = Image.Exif()
    exif[0x112] = 6  # turned by a quarter
    Image.new("RGB", size).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", size).save(tmp_path / "straight.jpg")
    playground.attach(tmp_path / "turned.jpg", tmp_path / "straight.jpg")
    playground.play(
        "<ref>a name of some length</ref><box>[[900, 10, 980, 400]]</box> <ref>another</ref>"
        "<box>[[20, 30, 60, 300]]</box> <ref>third</ref><box>[[500, 900, 500, 1000]]</box>"
    )
    playground.ask("Where?")
    for choice in ("0", "1"):
        playground.page.select_option(".grounded select", choice)
        playground.until("document.querySelector('.grounded img').complete")
        check_boxes(playground)


MEASURE = """() => {
  const [picture, ...frames] = document.querySelectorAll(".grounded img, .grounded .box");
  const edges = (element) => {
    const { left, right, top } = element.getBoundingClientRect();
    const own = picture.getBoundingClientRect();
    return [(left - own.left) / own.width, (right - own.left) / own.width, (top - own.top) / own.height];
  };
  const border = 3 / picture.clientWidth;
  return frames.map((frame) => [frame.dataset.box, edges(frame), edges(frame.firstChild), border]);
}"""


def check_boxes(playground: Playground) -> None:
    """Everything in parts of the picture, and measured at once: the page may scroll meanwhile."""
    frames = playground.page.evaluate(MEASURE)
    assert len(frames) == 3
    for text, box, label, border in frames:
        x1, y1, *_ = map(int, text.split(","))
        assert (box[0], box[2]) == pytest.approx((x1 / 1000, y1 / 1000), abs=0.01)
        assert label[0] >= -border
        assert label[1] <= 1 + border
        assert label[2] >= -border
