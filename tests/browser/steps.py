"""What a user does in the playground, and what is seen there."""

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DROP = """([name, type, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type}));
  return transfer;
}"""


class Playground:
    """A page with the playground, and all that went wrong in it.

    `allowed_errors` are parts of console messages that a test brings about, such as of a status 401.
    """

    def __init__(self, page: Any, url: str, allowed_errors: tuple[str, ...] = ()) -> None:
        self.page = page
        self.url = url
        self.allowed_errors = allowed_errors
        self.problems: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.counted: list[dict[str, Any]] = []
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("request", self._note_request)

    def _note_console(self, message: Any) -> None:
        is_allowed = any(part in message.text for part in self.allowed_errors)
        if message.type in ("error", "warning") and not is_allowed:
            self.problems.append(f"console: {message.text}")

    def _note_request(self, request: Any) -> None:
        if request.url.startswith(("data:", "blob:")):
            return
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.problems.append(f"a request to {request.url}")
        if request.url.endswith("/chat/completions"):
            self.bodies.append(json.loads(request.post_data))

    def open(self) -> None:
        self.page.goto(self.url)
        self.until(
            "document.querySelector('#set-model')?.value || document.querySelector('dialog')"
        )

    def until(self, expression: str, timeout_s: float = 60) -> None:
        """Wait until an expression is true. Playwright's own way needs `eval`, which the page forbids."""
        deadline = time.monotonic() + timeout_s
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(10)

    def check(self) -> None:
        assert self.problems == []
        assert self.page.evaluate("window.violations") == []

    def attach(self, *paths: Path) -> None:
        before = self.page.locator("#attachments > li").count()
        self.page.set_input_files("#files", [str(path) for path in paths])
        self.page.locator("#attachments > li").nth(before + len(paths) - 1).wait_for()

    def set(self, name: str, value: object) -> None:
        """Fill a field of the settings."""
        self.page.fill(f"#set-{name}", str(value))

    def wait_cost(self) -> int:
        """The prompt tokens that the page expects, once they are counted."""
        self.until("document.querySelector('#cost').dataset.inputTokens")
        return int(self.page.get_attribute("#cost", "data-input-tokens"))

    def ask(self, text: str) -> str:
        """Send a message with the Enter key and return the answer once it has ended."""
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")
        return self.wait_answer()

    def wait_answer(self) -> str:
        self.page.wait_for_selector("#turns > li:last-child .turn-foot")
        return str(self.page.inner_text("#turns > li:last-child .markdown"))

    def play(self, *texts: str, path: str = "**/v1/chat/completions", finish: str = "stop") -> None:
        """Let the next requests be answered with these texts instead of by the model."""
        chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        self.play_chunks(chunks, path=path)

    def play_chunks(
        self, chunks: list[dict[str, Any]], *, path: str = "**/v1/chat/completions"
    ) -> None:
        events = [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks), "data: [DONE]\n\n"]
        self.page.route(
            path,
            lambda route: route.fulfill(
                status=200, content_type="text/event-stream", body="".join(events)
            ),
        )
