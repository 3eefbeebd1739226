"""A real Chromium on the playground of a real server; run by scripts/test-page.

Left out where playwright is not installed. Every page must end without an error in its console, a violation
of its policy or a request to another host.
"""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from internvl_server.settings import Settings

from tests.browser.steps import Playground
from tests.live_server import LiveServer

collect_ignore_glob = [] if find_spec("playwright") else ["test_*"]

CHROMIUM = os.environ.get("INTERNVL_CHROMIUM", "/usr/bin/chromium")
# Reported before any script of the page runs.
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => {
  violations.push(`${event.effectiveDirective} ${event.blockedURI}`);
});
"""


@pytest.fixture(scope="session")
def demo() -> Iterator[LiveServer]:
    """The demo model on the CPU engine."""
    with LiveServer(Settings()) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox", "--disable-dev-shm-usage", "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream", "--host-resolver-rules=MAP playground.test 127.0.0.1",
    ]  # fmt: skip
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any, demo: LiveServer) -> Iterator[Callable[..., Playground]]:
    """Opens the page in a new context; options are those of the context."""
    opened: list[Playground] = []

    def start(url: str = "", *, allowed_errors: tuple[str, ...] = (), **options: Any) -> Playground:
        options = {"viewport": {"width": 1280, "height": 860}} | options
        context = browser.new_context(**options)
        context.add_init_script(WATCH)
        context.set_default_timeout(60_000)
        playground = Playground(context.new_page(), url or f"{demo.url}/", allowed_errors)
        opened.append(playground)
        playground.open()
        return playground

    yield start
    for playground in opened:
        playground.check()
        playground.page.context.close()


@pytest.fixture
def playground(open_page: Callable[..., Playground]) -> Playground:
    return open_page()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where the pictures of the tests are."""
    return Path(__file__).parents[1] / "data"
