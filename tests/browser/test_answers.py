"""Answers in the playground: streams, how they end, tools, errors, and what a hostile model can write."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest
from internvl_server.settings import Settings

from tests.browser.steps import Playground
from tests.live_server import LiveServer

pytestmark = pytest.mark.browser

HOSTILE = [
    '<img src=x onerror="window.hacked = 1"> <script>window.hacked = 2</script>',
    '<svg onload="window.hacked = 3"></svg> <iframe src="javascript:parent.hacked = 4"></iframe>',
    "[link](javascript:window.hacked=5) [other](data:text/html,<script>1</script>)",
    "![picture](https://evil.example/steal.png) <https://a.example> [fine](https://b.example)",
    '<a href="javascript:window.hacked=6" style="position:fixed">a</a> <style>*{display:none}</style>',
    "`<b>` **bold** <ref><img src=x onerror=window.hacked=7></ref><box>[[1,2,300,400]]</box>",
    '<form action=https://evil.example><button>b</button></form> <math><mi//xlink:href="data:x,1">',
]


def never_ending(route: Any) -> None:
    """Have the model go on although its answer has ended."""
    body = json.loads(route.request.post_data) | {"ignore_eos": True, "max_tokens": 4000}
    route.continue_(post_data=json.dumps(body))


def begin_long_answer(playground: Playground) -> None:
    playground.page.route("**/v1/chat/completions", never_ending)
    playground.page.fill("#message", "Who are you?")
    playground.page.press("#message", "Enter")
    playground.until("document.querySelector('#turns .markdown')?.textContent.length > 40")


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_a_stopped_answer_leaves_the_engine(
    playground: Playground, demo: LiveServer, way: str
) -> None:
    begin_long_answer(playground)
    assert demo.engine.health().num_running == 1
    if way == "Escape":
        playground.page.keyboard.press("Escape")
    else:
        playground.page.click("#stop")
    playground.wait_answer()
    demo.wait_idle(60)
    assert "Stopped" in playground.page.inner_text("#turns .usage")
    assert playground.page.is_visible("#send")
    assert playground.page.evaluate("document.activeElement.id") == "message"


def test_opening_another_conversation_stops_the_answer(
    playground: Playground, demo: LiveServer
) -> None:
    begin_long_answer(playground)
    playground.page.click("#new-chat")
    demo.wait_idle(60)
    assert playground.page.locator("#turns > li").count() == 0
    playground.page.click("#conversations .open")
    assert "Stopped" in playground.page.inner_text("#turns .usage")


def test_a_cut_answer_is_continued(playground: Playground) -> None:
    playground.set("temperature", 0)
    whole = playground.ask("Who are you?")
    playground.page.click("#new-chat")
    playground.set("max_tokens", 6)
    cut = playground.ask("Who are you?")
    assert whole.startswith(cut)
    assert "Cut off" in playground.page.inner_text("#turns .usage")
    playground.set("max_tokens", "")
    playground.page.click("text=Continue")
    assert playground.wait_answer() == whole
    body = playground.bodies[-1]
    assert body["messages"][-1]["role"] == "assistant"
    assert body["continue_final_message"]


def test_a_message_is_edited_and_answered_again(playground: Playground) -> None:
    playground.ask("Who are you?")
    playground.ask("And you?")
    page = playground.page
    page.locator("[aria-label='Edit this message']").first.click()
    assert page.input_value("#message") == "Who are you?"
    playground.ask("What are you?")
    assert page.locator("#turns > li").count() == 2
    assert [m["content"] for m in playground.bodies[-1]["messages"]] == ["What are you?"]
    with page.expect_request("**/v1/chat/completions"):
        page.click("[aria-label='Answer again']")
    playground.wait_answer()
    assert playground.bodies[-1] == playground.bodies[-2]


def test_settings_are_sent_and_wrong_ones_are_named(playground: Playground) -> None:
    values = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 20,
        "max_tokens": 30,
        "seed": 7,
        "min_p": 0.1,
    }
    for name, value in values.items():
        playground.set(name, value)
    playground.set("system", "You are brief.")
    playground.set("stop", "END\nSTOP")
    playground.set("temperature", 3)
    playground.page.fill("#message", "Who are you?")
    playground.page.press("#message", "Enter")
    assert playground.page.inner_text("#temperature-problem") == "Give at most 2."
    assert playground.page.evaluate("document.activeElement.id") == "set-temperature"
    assert playground.bodies == []
    playground.set("temperature", 0.5)
    playground.ask("Who are you?")
    body = playground.bodies[-1]
    assert {name: body[name] for name in values} == values
    assert body["stop"] == ["END", "STOP"]
    assert body["messages"][0] == {"role": "system", "content": "You are brief."}


def test_an_answer_follows_a_schema(playground: Playground) -> None:
    page = playground.page
    page.click("text=Format and tools")
    page.select_option("#set-format", "json_schema")
    playground.set("schema", "{")
    assert page.inner_text("#schema-problem").startswith("This is not JSON")
    playground.set("schema", json.dumps({"type": "object", "properties": {"ok": {"type": "boolean"}},
                                         "required": ["ok"], "additionalProperties": False}))  # fmt: skip
    assert set(json.loads(playground.ask("Who are you?"))) == {"ok"}


def test_tool_calls_are_shown_and_answered(playground: Playground) -> None:
    page = playground.page
    page.click("text=Format and tools")
    playground.set("tools", "{}")
    assert page.inner_text("#tools-problem").startswith("Give a list")
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Bonn"]}},
        "required": ["city"],
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    playground.set("tools", json.dumps([tool]))
    page.select_option("#set-tool_choice", "required")
    playground.set("temperature", 0)  # otherwise it sometimes calls twice
    playground.page.fill("#message", "Weather?")
    playground.page.press("#message", "Enter")
    page.wait_for_selector(".call textarea")
    assert page.inner_text(".call code") == "weather"
    page.select_option("#set-tool_choice", "none")
    page.fill(".call textarea", "sunny")
    playground.set("max_tokens", 10)
    page.click("text=Send the result")
    playground.wait_answer()
    call, result = playground.bodies[-1]["messages"][-2:]
    assert call["tool_calls"][0]["function"]["name"] == "weather"
    assert result == {
        "role": "tool",
        "tool_call_id": call["tool_calls"][0]["id"],
        "content": "sunny",
    }


def test_results_of_several_calls_are_sent_together(playground: Playground) -> None:
    names = ("one", "two")
    calls = [
        {"index": i, "id": f"call_{name}", "function": {"name": name, "arguments": "{}"}}
        for i, name in enumerate(names)
    ]
    delta = {"index": 0, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}
    playground.play_chunks([{"choices": [delta]}])
    playground.ask("Both!")
    playground.page.unroute("**/v1/chat/completions")
    for name in names:
        playground.page.fill(f"[aria-label='Result of {name}']", name.upper())
    playground.page.click("text=Send the results")
    playground.wait_answer()
    results = [(m["tool_call_id"], m["content"]) for m in playground.bodies[-1]["messages"][-2:]]
    assert results == [("call_one", "ONE"), ("call_two", "TWO")]


def test_reasoning_is_folded(playground: Playground) -> None:
    playground.play_chunks([
        {"choices": [{"index": 0, "delta": {"reasoning_content": "Let me see."}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes."}, "finish_reason": "stop"}]},
    ])  # fmt: skip
    assert playground.ask("Really?") == "Yes."
    assert not playground.page.is_visible("text=Let me see.")
    playground.page.click("summary:has-text('Reasoning')")
    assert playground.page.is_visible("text=Let me see.")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_answer_does_nothing(playground: Playground, text: str) -> None:
    playground.play(text)
    playground.ask("Hello")
    page = playground.page
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    allowed = "a, button, code, div, em, li, ol, p, pre, strong, svg.icon, svg.icon *, ul"
    inside = page.locator("#turns .markdown")
    assert inside.locator(f":scope *:not({allowed})").count() == 0
    assert inside.locator("a[href]:not([href^='https://'])").count() == 0
    for link in inside.locator("a[href]").all():
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
        assert link.get_attribute("style") is None


def test_markdown_is_rendered(playground: Playground) -> None:
    playground.play(
        "# Title\n\n- **one**\n- `two`\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n```python\nprint(1 < 2)\n```\n"
    )
    playground.ask("Hello")
    markdown = playground.page.locator("#turns .markdown")
    assert markdown.locator("h1").inner_text() == "Title"
    assert markdown.locator("li").count() == 2
    assert markdown.locator("td").all_inner_texts() == ["1", "2"]
    assert markdown.locator("pre code").inner_text() == "print(1 < 2)\n"


def test_errors_say_what_to_do(open_page: Callable[..., Playground]) -> None:
    playground = open_page(allowed_errors=("status of 429", "status of 400"))
    playground.set("max_tokens", 10_000_000)
    playground.page.fill("#message", "Who are you?")
    playground.page.press("#message", "Enter")
    failure = playground.page.locator(".failure")
    failure.wait_for()
    assert "Error 400" in failure.inner_text()
    assert "context_length_exceeded" in failure.inner_text()
    playground.set("max_tokens", "")
    error = {"error": {"message": "The server is busy.", "code": "overloaded", "type": "x"}}
    playground.page.route("**/v1/chat/completions", lambda route: route.fulfill(
        status=429, headers={"retry-after": "7"}, json=error))  # fmt: skip
    playground.page.click("[aria-label='Answer again']")
    playground.page.wait_for_selector(".failure >> text=overloaded")
    assert "Try again in 7 s." in failure.inner_text()
    chunks = [{"choices": [{"index": 0, "delta": {"content": "Half"}}]}, error]
    playground.page.unroute("**/v1/chat/completions")
    playground.play_chunks(chunks)
    playground.page.click("[aria-label='Answer again']")
    playground.page.wait_for_selector("#turns .markdown >> text=Half")
    assert "The server is busy." in failure.inner_text()
    assert failure.inner_text().startswith("Error · overloaded")


def test_warnings_of_the_server_are_shown(playground: Playground) -> None:
    playground.page.click("text=Format and tools")
    playground.page.select_option("#set-format", "json_schema")
    text = {"type": "string", "not": {"const": "x"}}
    schema = {"type": "object", "properties": {"a": text}, "required": ["a"]}
    playground.set("schema", json.dumps(schema | {"additionalProperties": False}))
    playground.set("max_tokens", 40)
    playground.page.fill("#message", "Who are you?")
    with playground.page.expect_response("**/v1/chat/completions") as response:
        playground.page.press("#message", "Enter")
    playground.wait_answer()
    warnings = response.value.headers.get("x-warnings")
    assert warnings
    assert playground.page.inner_text("#notice.note") == unquote(warnings)


def test_a_key_is_asked_for(open_page: Callable[..., Playground]) -> None:
    with LiveServer(Settings(engine={"kind": "echo"}, server={"api_keys": ["secret"]})) as server:
        playground = open_page(f"{server.url}/", allowed_errors=("status of 401",))
        page = playground.page
        page.wait_for_selector("dialog >> text=The server needs an API key.")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog >> text=The server needs an API key.")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        playground.until("document.querySelector('#set-model').value")
        assert (
            page.evaluate(
                "JSON.stringify([{...localStorage}, document.documentElement.outerHTML])"
            ).count("secret")
            == 0
        )
        assert playground.ask("Hello")
        page.click("#open-key")
        page.check("#remember-key")
        page.click("dialog >> text=Save")
        assert page.evaluate(
            "[Object.values({...sessionStorage}).includes('secret'), localStorage['internvl-playground-key']]"
        ) == [False, "secret"]
        playground.check()
        page.goto("about:blank")
