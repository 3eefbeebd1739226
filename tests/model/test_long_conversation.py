"""A conversation of 40 turns with a new picture each, answered truthfully by the bundled model."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from internvl_server.settings import Settings

from scripts.demo_model.exam.tasks import make_task
from scripts.demo_model.world.drawing import render_scene
from tests.conftest import data_url
from tests.live_server import LiveServer

pytestmark = pytest.mark.model

NUM_TURNS = 40


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(Settings()) as server:
        yield server


def test_the_newest_picture_is_described_while_earlier_ones_shrink(server: LiveServer) -> None:
    """Answers count only if they are exactly the description of the newest picture."""
    conversation: list[Any] = []
    right = num_limited = 0
    before: list[int] = []
    largest: list[int] = []
    for number in range(NUM_TURNS):
        task = make_task("describe", number, seed="conversation")
        url = data_url(render_scene(task.scenes[0]), "JPEG")
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": task.question},
        ]
        conversation.append({"role": "user", "content": parts})
        response = server.post(
            {
                "model": "internvl-demo",
                "messages": conversation,
                "temperature": 0,
                "max_tokens": 64,
            }
        )
        assert response.status_code == 200, response.text
        answer = response.json()
        text = answer["choices"][0]["message"]["content"]
        conversation.append({"role": "assistant", "content": text})
        right += text == task.answer
        details = answer["usage"]["prompt_tokens_details"]["images"]
        *earlier, newest = [image["tiles"] for image in details]
        assert newest in (1, 3, 5)
        assert newest == alone(server, parts)
        assert sum(earlier) + newest <= 64
        assert all(now <= then for now, then in zip(earlier, before, strict=True))
        num_limited += "x-warnings" in response.headers
        before = [*earlier, newest]
        largest.append(max(earlier, default=5))
    assert right >= 36
    # From the fourth turn on there is an earlier picture of 5 tiles; all 22 pictures have 64 tiles.
    assert largest[3:] == [5] * 19 + [3] * 18
    assert num_limited == 18


def alone(server: LiveServer, parts: list[Any]) -> int:
    """The number of tiles of the picture of a message when it is the only one."""
    body = {"model": "internvl-demo", "messages": [{"role": "user", "content": parts}]}
    response = httpx2.post(f"{server.url}/v1/chat/completions/input_tokens", json=body, timeout=60)
    return response.json()["images"][0]["tiles"]
