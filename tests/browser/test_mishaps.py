"""What goes wrong in the playground: two tabs, a full disk, reloads and failures during an answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser.steps import Playground
from tests.browser.test_answers import begin_long_answer
from tests.browser.test_keeping import copied
from tests.live_server import LiveServer
from tests.video_files import video

pytestmark = pytest.mark.browser

FAILURE = {"error": {"message": "The engine failed.", "code": "engine_error", "type": "x"}}
TEXT = {"choices": [{"index": 0, "delta": {"content": "I am the small"}}]}


def titles(playground: Playground) -> list[str]:
    return list(playground.page.locator("#conversations .open").all_inner_texts())


def second_tab(playground: Playground) -> Playground:
    """Another tab of the same browser, with the newest conversation open."""
    other = Playground(playground.page.context.new_page(), playground.url)
    other.open()
    other.page.locator("#conversations .open").first.click()
    other.page.wait_for_selector("#turns .turn-foot")
    return other


def test_two_tabs_do_not_overwrite_each_other(playground: Playground) -> None:
    playground.play("ok")
    playground.ask("first")
    other = second_tab(playground)
    other.play("ok")
    other.ask("from the other tab")
    playground.ask("from this tab")
    assert "goes on as a copy" in playground.page.inner_text("#notice")
    playground.until("document.querySelectorAll('#conversations > li').length === 2")
    other.ask("again from the other tab")
    other.until("document.querySelectorAll('#conversations > li').length === 2")
    kept = [said(playground, index) for index in range(2)]
    assert sorted(kept) == [
        ["first", "from the other tab", "again from the other tab"],
        ["first", "from this tab"],
    ]
    other.check()


def said(playground: Playground, index: int) -> list[str]:
    """The user's messages of a conversation of the list, after the page was loaded anew."""
    playground.open()
    playground.page.locator("#conversations .open").nth(index).click()
    playground.page.wait_for_selector(f"#conversations > li:nth-child({index + 1}) [aria-current]")
    return list(playground.page.locator("#turns .said").all_inner_texts())


def test_a_deleted_conversation_does_not_come_back(
    playground: Playground, demo: LiveServer
) -> None:
    page = playground.page
    page.on("dialog", lambda dialog: dialog.accept())
    begin_long_answer(playground)
    page.click("[aria-label='Delete Who are you?']")
    demo.wait_idle()
    page.unroute("**/v1/chat/completions")
    playground.play("ok")
    playground.ask("Another")
    assert titles(playground) == ["Another"]
    playground.open()
    page.wait_for_selector("#conversations .open")
    assert titles(playground) == ["Another"]


def test_a_full_disk_is_named(playground: Playground, pictures: Path) -> None:
    page = playground.page
    session = page.context.new_cdp_session(page)
    session.send(
        "Storage.overrideQuotaForOrigin", {"origin": playground.url.rstrip("/"), "quotaSize": 1}
    )
    playground.play("ok")
    playground.attach(pictures / "example.jpg")
    assert playground.ask("Hello") == "ok"
    page.wait_for_selector("#notice >> text=There is no room left")


def test_a_conversation_is_kept_again_once_there_is_room(playground: Playground) -> None:
    page = playground.page
    playground.play("ok")
    playground.ask("first")
    page.evaluate("void (window.put = IDBObjectStore.prototype.put)")
    full = "() => { throw new DOMException('', 'QuotaExceededError'); }"
    page.evaluate(f"void (IDBObjectStore.prototype.put = {full})")
    playground.ask("second")
    page.wait_for_selector("#notice >> text=There is no room left")
    page.evaluate("void (IDBObjectStore.prototype.put = window.put)")
    playground.ask("third")
    assert said(playground, 0) == ["first", "second", "third"]
    assert titles(playground) == ["first"]


def test_a_reload_keeps_what_has_come_of_an_answer(
    playground: Playground, demo: LiveServer
) -> None:
    begin_long_answer(playground)
    playground.open()
    playground.page.wait_for_selector("#turns .turn-foot")
    assert "Stopped" in playground.page.inner_text("#turns .usage")
    assert len(playground.page.inner_text("#turns .markdown")) > 40
    assert playground.page.is_visible("text=Continue")
    demo.wait_idle()


def test_an_answer_that_failed_is_continued(playground: Playground) -> None:
    playground.play_chunks([TEXT, FAILURE])
    playground.ask("Who are you?")
    playground.page.unroute("**/v1/chat/completions")
    playground.set("max_tokens", 2)
    playground.page.click("text=Continue")
    playground.until("document.querySelector('#turns .usage')?.textContent.includes('Cut off')")
    assert playground.page.inner_text("#turns .markdown").startswith("I am the small")
    assert playground.page.locator(".failure").count() == 0


def test_pictures_that_are_still_read_are_sent(playground: Playground, tmp_path: Path) -> None:
    """However fast the user is."""
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        Image.new("RGB", (1200, 900)).save(path)
    playground.play("ok")
    playground.page.fill("#message", "Hello")
    playground.page.set_input_files("#files", [str(path) for path in paths])
    playground.page.press("#message", "Enter")
    playground.wait_answer()
    kinds = [part["type"] for part in playground.bodies[-1]["messages"][-1]["content"]]
    assert kinds == ["image_url"] * 4 + ["text"]
    assert len(playground.bodies) == 1


def test_frames_follow_the_last_of_quick_changes(playground: Playground, tmp_path: Path) -> None:
    clip = tmp_path / "clip.webm"
    clip.write_bytes(video("webm-vp8", num_frames=20, size=(160, 96)))
    playground.attach(clip)
    for number in (16, 1, 12, 3):
        playground.set("num_frames", number)
    playground.set("num_frames", 1000)  # is not valid, and stands for the default
    playground.until("document.querySelectorAll('#attachments .strip img').length === 8")
    playground.set("num_frames", 3)
    playground.until(
        "document.querySelector('#attachments figcaption').textContent === '3 frames, 192 tokens'"
    )
    assert playground.page.locator("#attachments .strip img").count() == 3


def test_a_draft_returns_after_another_message_was_edited(
    playground: Playground, pictures: Path
) -> None:
    page = playground.page
    playground.play("ok")
    playground.ask("first")
    page.fill("#message", "my draft")
    playground.attach(pictures / "example.jpg")
    page.click("[aria-label='Edit this message']")
    assert page.input_value("#message") == "first"
    assert page.locator("#attachments > li").count() == 0
    page.click("#cancel-edit")
    assert page.input_value("#message") == "my draft"
    page.click("[aria-label='Edit this message']")
    playground.ask("second")
    assert page.input_value("#message") == "my draft"
    assert page.locator("#attachments > li").count() == 1


def test_code_after_a_reload_asks_the_last_question(playground: Playground) -> None:
    page = playground.page
    page.click("#open-code")
    page.wait_for_selector("#notice >> text=Write a message first.")
    playground.play("ok")
    playground.ask("Hello")
    sent = playground.bodies[-1]
    playground.open()
    page.wait_for_selector("#turns .turn-foot")
    text = copied(playground, "JavaScript")
    body = text.partition("completions.create(")[2].partition(");\nfor await")[0]
    assert json.loads(body) == sent


def test_a_key_that_no_header_can_carry_is_refused(playground: Playground) -> None:
    page = playground.page
    page.click("#open-key")
    page.fill("#key", "sk-“quoted”")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog [role=alert] >> text=A key has no spaces")
    page.fill("#key", "sk-plain")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog", state="detached")


@pytest.mark.parametrize("models", [[], ["one", "two"]])
def test_the_line_at_the_top_names_the_chosen_model(
    playground: Playground, models: list[str]
) -> None:
    page = playground.page
    data = [{"id": name, "max_model_len": 4096} for name in models]
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": data}))
    page.goto(playground.url)
    if models:
        page.select_option("#set-model", "two")
    expected = "two · context of 4,096 tokens" if models else "The server has no model."
    playground.until(
        f"document.querySelector('#model-line').textContent === {json.dumps(expected)}"
    )


def test_a_server_that_comes_later_is_asked_for_its_model(
    open_page: Callable[..., Playground],
) -> None:
    playground = open_page(allowed_errors=("net::ERR_FAILED",))
    page = playground.page
    page.evaluate("localStorage.clear()")
    page.route("**/v1/models", lambda route: route.abort())
    page.goto(playground.url)
    page.wait_for_selector("#notice >> text=The server did not answer.")
    page.unroute("**/v1/models")
    assert playground.ask("Who are you?")
    assert page.locator(".failure").count() == 0
    assert playground.bodies[-1]["model"] == page.input_value("#set-model") != ""


def test_a_date_to_try_again_is_not_taken_for_seconds(open_page: Callable[..., Playground]) -> None:
    playground = open_page(allowed_errors=("status of 503",))
    later = {"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}

    def refuse(route: Any) -> None:
        route.fulfill(status=503, headers=later, json=FAILURE)

    playground.page.route("**/v1/chat/completions", refuse)
    playground.page.fill("#message", "Hello")
    playground.page.press("#message", "Enter")
    playground.page.wait_for_selector(".failure >> text=Try again shortly.")


def test_screen_readers_hear_names_of_boxes_and_calls(playground: Playground) -> None:
    call = {"index": 0, "id": "1", "function": {"name": "weather", "arguments": "{}"}}
    text = "Here is <ref>the star</ref><box>[[1, 2, 3, 4]]</box>."
    playground.play_chunks(
        [{"choices": [{"index": 0, "delta": {"content": text, "tool_calls": [call]}}]}]
    )
    playground.ask("Where?")
    playground.until("document.querySelector('#announcer p')")
    heard = playground.page.inner_text("#announcer p")
    assert heard == "Here is the star. Tool call: weather."


def test_copying_is_confirmed(playground: Playground) -> None:
    playground.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    playground.play("ok")
    playground.ask("Hello")
    playground.page.click("[aria-label='Copy the answer']")
    playground.page.wait_for_selector("#announcer >> text=Copied.", state="attached")
    assert playground.page.evaluate("navigator.clipboard.readText()") == "ok"


REFUSE = """for (const name of ["localStorage", "sessionStorage", "indexedDB"])
Object.defineProperty(window, name, {get() { throw new DOMException("denied", "SecurityError"); }});"""


def test_it_works_in_a_browser_that_keeps_nothing(playground: Playground) -> None:
    """As with all site data blocked. Settings and the key then end with the page."""
    page = playground.page
    page.add_init_script(REFUSE)
    playground.open()
    assert "keeps no data" in page.inner_text("#storage-note")
    page.click("#toggle-theme")
    page.click("#open-key")
    page.fill("#key", "sk-plain")
    page.keyboard.press("Enter")
    playground.set("max_tokens", 3)
    with page.expect_request("**/v1/chat/completions") as request:
        playground.ask("Who are you?")
    assert request.value.headers["authorization"] == "Bearer sk-plain"
    assert titles(playground) == ["Who are you?"]


def test_a_panel_of_a_phone_does_not_lie_over_the_other(
    open_page: Callable[..., Playground],
) -> None:
    page = open_page(viewport={"width": 360, "height": 640}).page
    page.click("#toggle-list")
    page.click("#toggle-settings")
    assert page.is_visible("#settings")
    assert not page.is_visible("#list")
    assert page.get_attribute("#toggle-list", "aria-expanded") == "false"
