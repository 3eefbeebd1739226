"""Images as real programs and phones write them, over HTTP with the real SDK and the echo engine."""

import base64
import io
from typing import Any

import openai
import pytest
from PIL import Image

from tests.heic_files import heic
from tests.live_server import LiveServer
from tests.video_files import video

PER_TILE = 4
PICTURE = Image.linear_gradient("L").resize((900, 600)).convert("RGB")
FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif",
           "BMP": "image/bmp", "TIFF": "image/tiff", "AVIF": "image/avif", "HEIC": "image/heic"}  # fmt: skip


def encoded(image_format: str) -> bytes:
    if image_format == "HEIC":
        return heic(PICTURE, tile=(450, 300))
    with io.BytesIO() as file:
        PICTURE.save(file, image_format)
        return file.getvalue()


def asked(server: LiveServer, image_url: Any) -> Any:
    content: Any = [{"type": "image_url", "image_url": image_url}, {"type": "text", "text": "?"}]
    answer = server.client().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": content}]
    )
    assert answer.usage is not None
    details: Any = answer.usage.prompt_tokens_details
    return details.images


def url_of(data: bytes, head: str = "data:image/jpeg;base64,") -> str:
    return head + base64.b64encode(data).decode()


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_is_read(echo_server: LiveServer, image_format: str) -> None:
    url = url_of(encoded(image_format), f"data:{FORMATS[image_format]};base64,")
    assert asked(echo_server, {"url": url, "detail": "high"}) == [{"tiles": 7, "tokens": 28}]


def test_medium_detail_has_at_most_six_tiles(echo_server: LiveServer) -> None:
    url = url_of(encoded("JPEG"))
    assert asked(echo_server, {"url": url, "detail": "medium"}) == [{"tiles": 7, "tokens": 28}]
    wide = Image.new("RGB", (4000, 400))
    with io.BytesIO() as file:
        wide.save(file, "JPEG")
        url = url_of(file.getvalue())
    assert asked(echo_server, {"url": url, "detail": "medium"}) == [{"tiles": 7, "tokens": 28}]
    assert asked(echo_server, {"url": url, "detail": "high"})[0]["tiles"] == 11


@pytest.mark.parametrize("head", ["data:image;base64,", "data:binary/octet-stream;base64,\n"])
def test_a_url_may_be_written_loosely(echo_server: LiveServer, head: str) -> None:
    text = base64.encodebytes(encoded("JPEG")).decode().replace("=", "")
    [image] = asked(echo_server, head + text)
    assert image["tokens"] == image["tiles"] * PER_TILE


def test_an_inline_image_is_refused_from_the_first_byte_too_many(start_server: Any) -> None:
    data = encoded("JPEG")
    server = start_server(media={"max_image_bytes": len(data)})
    assert asked(server, url_of(data))
    with pytest.raises(openai.BadRequestError, match="max_image_bytes") as caught:
        asked(server, url_of(data + b"\0"))
    assert caught.value.code == "image_too_large"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (" data:image/png;base64,AAAA", "blank before data:"),
        (base64.b64encode(encoded("JPEG")).decode(), "write data:image/png;base64,"),
        (url_of(encoded("JPEG")) + "====", "malformed base64"),
        (url_of(encoded("PNG")[:-1000]), "truncated"),
        (url_of(encoded("JPEG")[:-500] + b"\xff\xd9"), "truncated"),
    ],
)
def test_what_is_wrong_is_said(echo_server: LiveServer, url: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        asked(echo_server, {"url": url})
    assert caught.value.param == "messages[0].content[0].image_url"


def test_a_video_in_the_place_of_an_image_is_played(echo_server: LiveServer) -> None:
    url = url_of(video(), "data:video/mp4;base64,")
    assert asked(echo_server, {"url": url, "detail": "high"}) == [{"tiles": 1, "tokens": 4}] * 8
    content: Any = [{"type": "input_image", "image_url": url, "detail": "auto"}]
    answer = echo_server.client().responses.create(
        model="tiny", input=[{"role": "user", "content": content}]
    )
    assert "Frame8: " in answer.output_text
