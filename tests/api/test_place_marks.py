"""Requests of evaluation suites: many pictures before, after and within the text, over HTTP."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest
from PIL import Image

from tests.conftest import data_url
from tests.live_server import LiveServer

MODEL = "tiny"
GRIDS = json.loads((Path(__file__).parents[1] / "data" / "tiling.json").read_text())["grids"]
SIZES = ("640x480", "800x600", "448x896", "1280x720")
LABELS = ["Image-{}: ", "Frame{}: ", "图{}："]


@pytest.fixture(scope="module")
def frames() -> list[str]:
    """32 pictures of different colours."""
    return [data_url(Image.new("RGB", (64, 48), (8 * n, 255 - 8 * n, 90))) for n in range(32)]


def image(url: str, **options: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"} | options}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def answered(echo_server: LiveServer, *parts: dict[str, Any]) -> httpx2.Response:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": list(parts)}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 1000, "temperature": 0}
    response = echo_server.post(body)
    assert response.status_code == 200, response.text
    return response


def tokens(response: httpx2.Response) -> tuple[int, list[int], str]:
    """The number of prompt tokens, the tiles of each picture, and the prompt's text."""
    answer = response.json()
    details = answer["usage"]["prompt_tokens_details"]
    said = answer["choices"][0]["message"]["content"]
    return answer["usage"]["prompt_tokens"], [i["tiles"] for i in details["images"]], said


def test_marks_are_the_pictures_in_order(echo_server: LiveServer, frames: list[str]) -> None:
    """lmms-eval sends pictures first, VLMEvalKit as the author of the prompt placed them."""
    pictures = [image(url) for url in frames]
    in_order = tokens(answered(echo_server, *pictures, text("Which one is red?")))
    assert in_order[1] == [1] * 32
    for label in ("", "Image-{}: "):
        marks = "".join(f"{label.format(n + 1)}<image>\n" for n in range(32))
        prompt = text(marks + "Which one is red?")
        for parts in ([prompt, *pictures], [*pictures, prompt]):
            response = answered(echo_server, *parts)
            assert tokens(response) == in_order
            assert "x-warnings" not in response.headers


@pytest.mark.parametrize("label", LABELS)
def test_labelled_marks_are_labelled_pictures(
    echo_server: LiveServer, frames: list[str], label: str
) -> None:
    parts, marks = [], ""
    for number, url in enumerate(frames, 1):
        parts += [text(label.format(number)), image(url)]
        marks += f"{label.format(number)}<IMAGE_TOKEN>\n"
    expected = tokens(answered(echo_server, *parts, text("Which?")))
    assert tokens(answered(echo_server, text(marks + "Which?"), *map(image, frames))) == expected
    assert expected[2].count(label.format(7)) == 1


@pytest.mark.parametrize("max_tiles", [1, 6, 12])
def test_tile_counts_are_the_references(echo_server: LiveServer, max_tiles: int) -> None:
    """The tiles of the tiny model are 56 pixels wide, an eighth of the reference's."""
    sizes = [(int(w) // 8, int(h) // 8) for w, h in (size.split("x") for size in SIZES)]
    pictures = [
        image(data_url(Image.new("RGB", size, "red")), max_tiles=max_tiles) for size in sizes
    ]
    marks = text("<image>\n" * len(sizes) + "Describe.")
    expected = [GRIDS[size][str(max_tiles)][2] for size in SIZES]
    assert tokens(answered(echo_server, *pictures, text("Describe.")))[1] == expected
    assert tokens(answered(echo_server, marks, *pictures))[1] == expected


def test_another_number_of_marks_is_named(echo_server: LiveServer, frames: list[str]) -> None:
    response = answered(echo_server, text("<image> and <image>"), image(frames[0]))
    assert unquote(response.headers["x-warnings"]).startswith("The number of image marks (<image>)")
    assert "<image> and <image>" in tokens(response)[2]
    body = {"model": MODEL, "messages": [{"role": "user", "content": "<image> <image>"}]}
    counted = httpx2.post(
        f"{echo_server.url}/v1/chat/completions/input_tokens", json=body, timeout=60
    )
    assert "(<image>) in a message is 2" in unquote(counted.headers["x-warnings"])


def test_responses(echo_server: LiveServer, frames: list[str]) -> None:
    def used(*parts: dict[str, Any]) -> tuple[int, str]:
        items = [{"role": "user", "content": list(parts)}]
        body = {"model": MODEL, "input": items, "instructions": "s"}
        response = httpx2.post(f"{echo_server.url}/v1/responses", json=body, timeout=60)
        assert response.status_code == 200, response.text
        answer = response.json()
        return answer["usage"]["input_tokens"], answer["output"][0]["content"][0]["text"]

    pictures = [{"type": "input_image", "image_url": url, "detail": "low"} for url in frames[:3]]
    marks = "Image-1: <image>\nImage-2: <image>\nImage-3: <image>\nWhich?"
    in_order = used(*pictures, {"type": "input_text", "text": "Which?"})
    assert used({"type": "input_text", "text": marks}, *pictures) == in_order


def test_videos(echo_server: LiveServer, frames: list[str]) -> None:
    video = {"type": "video", "video": frames[:4]}
    expected = tokens(answered(echo_server, video, text("What happens?")))
    assert tokens(answered(echo_server, text("<video>\nWhat happens?"), video)) == expected
    both = tokens(answered(echo_server, text("<video>\n<image>\nSame?"), image(frames[0]), video))
    assert both == tokens(answered(echo_server, video, image(frames[0]), text("Same?")))
