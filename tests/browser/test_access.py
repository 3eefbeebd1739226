"""The playground with a keyboard, for screen readers, on phones and in the dark, and its screenshots."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.steps import Playground

pytestmark = pytest.mark.browser

LOOKS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True,
        "is_mobile": True,
    },
}  # fmt: skip
IMAGES = Path(__file__).parents[2] / "server/docs/images"
MAX_IMAGE_BYTES = 200_000
ANSWER = (
    "The picture has two shapes: <ref>a red star</ref><box>[[97, 97, 208, 285]]</box> at the top left and "
    "<ref>a red circle</ref><box>[[485, 462, 582, 616]]</box> in the centre."
)


def axe_source() -> str:
    path = os.environ.get("INTERNVL_AXE")
    if path is None:
        pytest.skip("INTERNVL_AXE does not name axe-core; scripts/test-page fetches it")
    return Path(path).read_text(encoding="utf-8")


def faults(page: Any, source: str) -> list[str]:
    """Rules of axe that the page breaks seriously, each with the elements."""
    page.evaluate(source)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{rule['id']}: {[node['target'] for node in rule['nodes']]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def conversation(playground: Playground, pictures: Path) -> None:
    """A conversation with all that the page can show: tiles, boxes, code, a draft with a picture."""
    playground.attach(pictures / "example.jpg")
    playground.wait_cost()
    playground.play(ANSWER)
    playground.ask("What is in the picture, and where?")
    playground.attach(pictures / "example.jpg")
    playground.page.select_option("[aria-label='Detail of example.jpg']", "high")
    playground.page.fill("#message", "Now look closer.")
    playground.until(
        "document.querySelector('#attachments figcaption').textContent.startsWith('3 × 2')"
    )
    playground.page.wait_for_selector("#attachments svg.tiles")
    playground.page.wait_for_selector("#turns svg.tiles")
    playground.until("document.getAnimations().every((a) => !(a instanceof CSSTransition))")


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_no_serious_fault(
    open_page: Callable[..., Playground], pictures: Path, look: str, tmp_path: Path
) -> None:
    """Nor is anything wider than the page. `scripts/test-page --screenshots` replaces the documentation's."""
    source = axe_source()
    playground = open_page(**LOOKS[look])
    page = playground.page
    found = faults(page, source)
    conversation(playground, pictures)
    take_screenshot(page, look, tmp_path)
    found += faults(page, source)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    if not page.is_visible("#settings"):
        page.click("#toggle-settings")
    for summary in page.locator("#settings details:not([open]) summary").all():
        summary.click()
    playground.set("temperature", 9)
    found += faults(page, source)
    if look == "phone":
        page.keyboard.press("Escape")
        page.click("#toggle-list")
        found += faults(page, source)
        page.keyboard.press("Escape")
    for button in ("#open-key", "#open-code", "#turns .enlarge"):
        page.locator(button).first.click()
        found += faults(page, source)
        page.keyboard.press("Escape")
    assert found == []


def take_screenshot(page: Any, look: str, elsewhere: Path) -> None:
    folder = IMAGES if os.environ.get("INTERNVL_SCREENSHOTS") else elsewhere
    file = folder / f"playground-{look}.png"
    page.screenshot(path=str(file))
    assert file.stat().st_size < MAX_IMAGE_BYTES
    assert (IMAGES / file.name).stat().st_size < MAX_IMAGE_BYTES


def test_everything_is_done_with_the_keyboard(playground: Playground) -> None:
    """From the first Tab to an answer, its settings and its repetition, without a pointer."""
    page = playground.page
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.type("Who are")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("you?")
    page.keyboard.press("Enter")
    playground.wait_answer()
    assert playground.bodies[-1]["messages"][-1]["content"] == "Who are\nyou?"
    assert page.evaluate("document.activeElement.id") == "message"
    reach(page, "[aria-label='Answer again']", backwards=True)
    page.keyboard.press("Enter")
    playground.until(
        "document.querySelector('#turns .turn-foot') && document.activeElement.id === 'message'"
    )
    assert len(playground.bodies) == 2
    reach(page, "#open-key", backwards=True)
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "open-key"


def test_the_focus_stays_when_tiles_are_counted_anew(
    playground: Playground, pictures: Path
) -> None:
    playground.attach(pictures / "example.jpg")
    playground.until("document.querySelector('#attachments .tiles')?.dataset.columns === '2'")
    page = playground.page
    reach(page, "[aria-label='Detail of example.jpg']", backwards=True)
    page.keyboard.press("End")
    playground.until("document.querySelector('#attachments .tiles').dataset.columns === '3'")
    assert page.evaluate("document.activeElement.ariaLabel") == "Detail of example.jpg"
    assert page.evaluate("document.activeElement.value") == "high"


def reach(page: Any, selector: str, *, backwards: bool = False) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(80):
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Shift+Tab" if backwards else "Tab")
    pytest.fail(f"{selector} cannot be reached")


def test_every_control_has_a_visible_focus(playground: Playground) -> None:
    page = playground.page
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline, around = page.evaluate(
            """() => { const e = document.activeElement; const s = getComputedStyle(e);
            const box = getComputedStyle(e.closest('.composer') ?? e).borderColor;
            return [e.id || e.tagName, s.outlineStyle, box]; }"""
        )
        if name == "BODY":
            break
        seen.add(name)
        assert outline != "none" or (name == "message" and around == "rgb(31, 111, 139)"), name
    assert {"toggle-list", "toggle-theme", "new-chat", "message", "attach", "set-model"} <= seen


def test_screen_readers_hear_an_answer_once(playground: Playground) -> None:
    page = playground.page
    page.evaluate(
        """() => { window.heard = []; new MutationObserver((changes) => changes.forEach((change) =>
        change.addedNodes.forEach((node) => heard.push(node.textContent)))).observe(
        document.getElementById("announcer"), {childList: true}); }"""
    )
    playground.set("temperature", 0)
    answer = playground.ask("Who are you?")
    assert page.evaluate("window.heard") == [answer]
    assert page.locator("[aria-live]").count() == 1
    assert page.get_attribute("#announcer", "aria-live") == "polite"


def test_colours_follow_the_system_or_the_button(open_page: Callable[..., Playground]) -> None:
    page = open_page(color_scheme="dark").page
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.click("#toggle-theme")
    assert page.get_attribute("#toggle-theme", "aria-label") == "Colours: light"
    assert page.evaluate(background) != dark
    page.reload()
    page.wait_for_selector("[aria-label='Colours: light']")
    assert page.evaluate(background) != dark
    page.click("#toggle-theme")
    assert page.evaluate(background) == dark


def test_nothing_moves_when_less_motion_is_wanted(open_page: Callable[..., Playground]) -> None:
    page = open_page(reduced_motion="reduce").page
    times = "[...document.querySelectorAll('*')].map((e) => getComputedStyle(e).transitionDuration)"
    assert set(page.evaluate(times)) == {"0s"}


def test_nothing_is_wider_than_a_narrow_page(
    open_page: Callable[..., Playground], pictures: Path
) -> None:
    playground = open_page(viewport={"width": 320, "height": 640})
    conversation(playground, pictures)
    for width in (320, 600, 960):
        playground.page.set_viewport_size({"width": width, "height": 640})
        assert playground.page.evaluate("document.documentElement.scrollWidth") <= width
