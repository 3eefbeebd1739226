"""Pictures and clips in the playground: how they get there, their tiles, their cost and their boxes."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from internvl_server.media.tiling import select_grid
from PIL import Image

from tests.browser.steps import DROP, Playground
from tests.live_server import LiveServer
from tests.video_files import video

pytestmark = pytest.mark.browser

TRUTH = "There are two shapes: a red star at the top left and a red circle in the centre."


def dropped(playground: Playground, path: Path, event: str = "drop") -> None:
    """Drop or paste a file as a browser hands it to the page."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    transfer = playground.page.evaluate_handle(DROP, [path.name, "image/jpeg", encoded])
    if event == "drop":
        playground.page.dispatch_event("#turns", "drop", {"dataTransfer": transfer})
    else:
        playground.page.evaluate(
            "(data) => dispatchEvent(new ClipboardEvent('paste', {clipboardData: data}))", transfer
        )


def drawn_grid(playground: Playground, place: str) -> tuple[int, int]:
    tiles = playground.page.locator(f"{place} svg.tiles").first
    tiles.wait_for()
    return int(tiles.get_attribute("data-columns")), int(tiles.get_attribute("data-rows"))


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_is_described_and_costs_what_was_shown(
    playground: Playground, pictures: Path, event: str
) -> None:
    picture = pictures / "example.jpg"
    dropped(playground, picture, event)
    with Image.open(picture) as image:
        grid = select_grid(*image.size, max_tiles=4)
    assert drawn_grid(playground, "#attachments") == grid
    playground.set("temperature", 0)
    playground.page.fill("#message", "Describe the image.")
    playground.page.wait_for_timeout(50)  # until the page has begun to count again
    playground.until("document.querySelector('#cost').textContent.includes('218')")
    expected = playground.wait_cost()
    with playground.page.expect_response("**/v1/chat/completions"):
        playground.page.press("#message", "Enter")
    assert playground.wait_answer() == TRUTH
    usage = playground.page.inner_text("#turns .usage")
    assert usage.startswith(f"{expected} prompt tokens (192 for pictures), ")
    assert "first token after" in usage
    assert "tokens/s" in usage
    assert drawn_grid(playground, "#turns") == grid
    assert playground.page.inner_text("#turns figcaption") == "2 × 1 tiles + thumbnail, 192 tokens"


def test_several_pictures_are_sent_in_their_order(playground: Playground, pictures: Path) -> None:
    playground.attach(pictures / "example.jpg", pictures / "second.jpg")
    page = playground.page
    page.click("[aria-label='Move second.jpg forward']")
    page.select_option("[aria-label='Detail of example.jpg']", "high")
    page.set_input_files("#files", str(pictures / "example.jpg"))
    page.locator("#attachments > li").nth(2).wait_for()
    page.locator("[aria-label='Remove example.jpg']").last.click()
    playground.ask("Describe the image.")
    *images, text = playground.bodies[-1]["messages"][-1]["content"]
    sent = [image["image_url"]["url"].partition(",")[2] for image in images]
    assert [base64.b64decode(url) for url in sent] == [
        (pictures / name).read_bytes() for name in ("second.jpg", "example.jpg")
    ]
    assert [image["image_url"].get("detail") for image in images] == [None, "high"]
    assert text == {"type": "text", "text": "Describe the image."}
    grid = "document.querySelectorAll('#turns figcaption')[1].textContent"
    playground.until(f"{grid} === '3 × 2 tiles + thumbnail, 448 tokens'")
    assert page.locator("#turns figcaption").first.inner_text() == "1 tile, 64 tokens"


def test_fewer_tiles_are_drawn_when_fewer_are_asked_for(
    playground: Playground, pictures: Path
) -> None:
    playground.attach(pictures / "example.jpg")
    assert drawn_grid(playground, "#attachments") == (2, 1)
    playground.set("max_tiles", 1)
    playground.until("document.querySelector('#attachments .tiles')?.dataset.columns === '1'")
    assert playground.wait_cost() > 0
    playground.page.uncheck("[name=tiles]")
    playground.page.wait_for_selector("#attachments svg.tiles", state="detached")


def test_a_clip_that_the_browser_never_loads_is_sent(
    playground: Playground, tmp_path: Path
) -> None:
    """As on a phone that saves power: the message must not wait for it for ever."""
    page = playground.page
    page.clock.install()
    page.evaluate("Object.defineProperty(HTMLMediaElement.prototype, 'src', {set() {}})")
    clip = tmp_path / "clip.webm"
    clip.write_bytes(video("webm-vp8", num_frames=20, size=(160, 96)))
    playground.play("ok")
    page.set_input_files("#files", [str(clip)])
    page.fill("#message", "Hello")
    page.press("#message", "Enter")
    assert playground.bodies == []
    page.clock.run_for(60_000)
    playground.wait_answer()
    kinds = [part["type"] for part in playground.bodies[-1]["messages"][-1]["content"]]
    assert kinds == ["video_url", "text"]


def test_a_clip_is_shown_as_the_frames_that_are_sent(
    playground: Playground, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.webm"
    clip.write_bytes(video("webm-vp8", num_frames=20, size=(160, 96)))
    playground.attach(clip)
    frames = playground.page.locator("#attachments .strip img")
    frames.nth(7).wait_for()
    assert frames.count() == 8
    playground.set("num_frames", 3)
    playground.until("document.querySelectorAll('#attachments .strip img').length === 3")
    playground.until(
        "document.querySelector('#attachments figcaption').textContent === '3 frames, 192 tokens'"
    )
    playground.ask("Describe the image.")
    body = playground.bodies[-1]
    assert body["num_frames"] == 3
    url = body["messages"][-1]["content"][0]["video_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]) == clip.read_bytes()


def test_a_photo_is_taken_with_the_camera(playground: Playground) -> None:
    playground.page.click("#photograph")
    playground.until("document.querySelector('dialog video')?.videoWidth > 0")
    playground.page.keyboard.press("Enter")
    playground.page.wait_for_selector("#attachments [alt='photo.jpg']")
    assert playground.wait_cost() > 64


def test_files_that_are_no_pictures_are_named(playground: Playground, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("text")
    playground.page.set_input_files("#files", str(other))
    playground.page.wait_for_selector("#notice")
    assert "Only pictures and clips" in playground.page.inner_text("#notice")


def test_boxes_of_an_answer_are_drawn_on_its_picture(
    playground: Playground, pictures: Path
) -> None:
    playground.attach(pictures / "second.jpg", pictures / "example.jpg")
    playground.play(
        "Here: <ref>the red star</ref><box>[[10",
        "0, 150, 210, 330], [500, 450, 590, 600]]</box> and <box>[[0, 0, 1000, 1000]]</box>",
        ", not <box>[[1, 2]]</box>.",
    )
    answer = playground.ask("Where is the star?")
    assert answer.split("\n")[0].startswith("Here: the red star and Box 2, not")
    page = playground.page
    boxes = page.locator("#turns .box")
    assert [boxes.nth(i).get_attribute("data-box") for i in range(boxes.count())] == [
        "100,150,210,330", "500,450,590,600", "0,0,1000,1000",
    ]  # fmt: skip
    picture, box = page.locator("#turns .grounded img").bounding_box(), boxes.first.bounding_box()
    assert box["x"] == pytest.approx(picture["x"] + 0.1 * picture["width"], abs=1)
    assert box["y"] == pytest.approx(picture["y"] + 0.15 * picture["height"], abs=1)
    assert box["width"] == pytest.approx(0.11 * picture["width"], abs=1)
    assert box["height"] == pytest.approx(0.18 * picture["height"], abs=1)
    labels = page.locator("#turns .box-label").all_inner_texts()
    assert labels == ["the red star", "the red star", "Box 2"]
    page.focus(".chip >> text=the red star")
    assert page.locator(".box.marked").count() == 2
    assert page.get_attribute(".grounded img", "alt").startswith(
        "example.jpg with boxes: the red star"
    )
    page.select_option(".grounded select", "0")
    assert page.get_attribute(".grounded img", "alt").startswith("second.jpg")


def test_a_box_is_not_shown_as_text_while_it_is_written(
    open_page: Callable[..., Playground], demo: LiveServer
) -> None:
    cut = open_page().page.evaluate(
        """async () => {
          const { parseGrounding } = await import("./playground/code/pictures/boxes.js");
          const whole = "a <ref>b</ref><box>[[1, 2, 3, 4]]</box> c";
          return Array.from(whole, (_, end) => parseGrounding(whole.slice(0, end), {isWhole: false}).text);
        }"""
    )
    assert {text for text in cut if "<" in text or "[[" in text} == set()
    assert cut[-1] == "a \ue0000\ue001 "


def test_each_caption_is_below_its_picture(playground: Playground, pictures: Path) -> None:
    playground.attach(pictures / "example.jpg", pictures / "example.mp4")
    playground.play("ok")
    playground.ask("x")
    gaps = playground.page.evaluate(
        "[...document.querySelectorAll('#turns .picture')].map((figure) => "
        "figure.lastChild.getBoundingClientRect().top - "
        "figure.firstChild.getBoundingClientRect().bottom)"
    )
    assert len(gaps) == 2
    assert max(gaps) < 20
