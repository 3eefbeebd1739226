"""Options, number, addresses and small defects of pictures."""

import base64
import re
import struct
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.cases.asking import (
    CaseServer,
    Reply,
    chat,
    data_url,
    encoded,
    image_part,
    load,
    part,
    picture,
    text_part,
    turns,
)

LARGE = data_url(encoded(picture(0, (900, 600))))
VIDEO = Path(__file__).parents[1] / "data" / "example.mp4"
CLEAN_PNG, CLEAN_JPEG = encoded(picture()), encoded(picture(), "JPEG", quality=90)


def look(server: CaseServer, url: str, **options: Any) -> Reply:
    return server.answer(chat([part(url, **options), text_part("Describe the image.")]))


def num_tiles(server: CaseServer, **options: Any) -> int:
    [span] = look(server, LARGE, **options).request.images
    return span.num_tiles


def assert_same_picture(server: CaseServer, url: str, clean: bytes) -> None:
    reply, expected = look(server, url), look(server, data_url(clean))
    assert reply.request.prompt_token_ids == expected.request.prompt_token_ids
    [pixels], [wanted] = reply.request.pixel_values, expected.request.pixel_values
    assert np.array_equal(pixels, wanted)
    assert reply.text == expected.text


@pytest.mark.parametrize("limit", [1, 2, 6])
def test_max_dynamic_patch_is_max_tiles(server: CaseServer, limit: int) -> None:
    tiles = num_tiles(server, max_dynamic_patch=limit)
    assert tiles == num_tiles(server, max_tiles=limit)
    assert tiles <= limit + 1


def test_detail_medium_is_six_tiles(server: CaseServer) -> None:
    assert num_tiles(server, detail="medium") == num_tiles(server, max_tiles=6)


def test_an_address_as_a_plain_string(server: CaseServer) -> None:
    reply = server.answer(chat([{"type": "image_url", "image_url": LARGE}, text_part("x")]))
    expected = server.answer(chat([part(LARGE), text_part("x")]))
    assert reply.request.prompt_token_ids == expected.request.prompt_token_ids


@pytest.mark.parametrize("name", ["pictures_ten_low", "pictures_nine_turns"])
def test_every_picture_of_a_stored_case_is_used(server: CaseServer, name: str) -> None:
    body = load(f"requests/{name}")
    parts = [p for m in body["messages"] if isinstance(m["content"], list) for p in m["content"]]
    reply = server.answer(body)
    assert len(reply.request.images) == sum(p["type"] == "image_url" for p in parts) >= 9


@pytest.mark.parametrize("detail", ["low", "auto", "high"])
def test_the_budget_bounds_the_number_of_pictures(server: CaseServer, detail: str) -> None:
    content = [text_part("What happened?"), *(image_part(n, detail=detail) for n in range(24))]
    reply = server.answer(chat(content))
    assert len(reply.request.images) == 24


def test_sixty_four_small_pictures(server: CaseServer) -> None:
    content = [image_part(n, detail="low") for n in range(64)]
    images = server.answer(chat([*content, text_part("x")])).request.images
    assert [image.num_tiles for image in images] == [1] * 64
    assert len({image.fingerprint for image in images}) == 64


def test_a_video_as_an_image_is_played(server: CaseServer) -> None:
    url = data_url(VIDEO.read_bytes(), "video/mp4")
    reply = server.answer(chat([part(url), text_part("x")]))
    video = {"type": "video_url", "video_url": {"url": url}}
    expected = server.answer(chat([video, text_part("x")]))
    assert reply.request.prompt_token_ids == expected.request.prompt_token_ids
    assert len(reply.request.images) == 8


def test_a_chat_with_a_picture_in_each_turn(server: CaseServer) -> None:
    history = []
    for n in range(20):
        history += [
            {"role": "user", "content": [text_part(f"step {n}"), image_part(n)]},
            {"role": "assistant", "content": "ok"},
        ]
    reply = server.answer(turns([*history, {"role": "user", "content": "and now?"}]))
    assert len(reply.request.images) == 20


TEXT = base64.b64encode(CLEAN_PNG).decode()
FOLDED = re.sub("(.{76})", "\\1\n", TEXT)
URLS = {
    "line breaks": f"data:image/png;base64,{FOLDED}",
    "CRLF": "data:image/png;base64," + FOLDED.replace("\n", "\r\n"),
    "line break at the end": f"data:image/png;base64,{TEXT}\n",
    "line break after the comma": f"data:image/png;base64,\n{TEXT}",
    "blank after the comma": f"data:image/png;base64, {TEXT}",
    "indented lines": "data:image/png;base64," + FOLDED.replace("\n", "\n\t  "),
    "percent-encoding": "data:image/png;base64," + quote(TEXT, safe=""),
    "no padding": f"data:image/png;base64,{TEXT.rstrip('=')}",
    "URL-safe": "data:image/png;base64," + TEXT.replace("+", "-").replace("/", "_"),
    "URL-safe without padding": "data:image/png;base64,"
    + TEXT.rstrip("=").replace("+", "-").replace("/", "_"),
    "type image": f"data:image;base64,{TEXT}",
    "type of octets": f"data:application/octet-stream;base64,{TEXT}",
    "type of binary octets": f"data:binary/octet-stream;base64,{TEXT}",
    "another type": f"data:image/jpeg;base64,{TEXT}",
    "unusual type": f"data:image/jpg;base64,{TEXT}",
    "capitals": f"data:IMAGE/PNG;base64,{TEXT}",
    "scheme in capitals": f"DATA:image/png;BASE64,{TEXT}",
    "parameter": f"data:image/png;charset=utf-8;base64,{TEXT}",
}


@pytest.mark.parametrize("name", URLS)
def test_data_urls_as_programs_write_them(server: CaseServer, name: str) -> None:
    assert_same_picture(server, URLS[name], CLEAN_PNG)


@pytest.mark.parametrize("name", ["urls_newlines", "urls_trailing_newline", "urls_urlsafe"])
def test_a_stored_data_url_is_the_picture_it_means(server: CaseServer, name: str) -> None:
    [message] = load(f"requests/{name}")["messages"]
    url = message["content"][0]["image_url"]["url"]
    plain = url.partition(",")[2].replace("\n", "").replace("-", "+").replace("_", "/")
    assert_same_picture(server, url, base64.b64decode(plain))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f" data:image/png;base64,{TEXT}", "blank|space"),
        (f"\ndata:image/png;base64,{TEXT}", "blank|space|line break"),
        (TEXT, "base64"),
        (base64.b64encode(CLEAN_JPEG).decode(), "base64"),
    ],
    ids=["blank before", "line break before", "bare PNG", "bare JPEG"],
)
def test_what_is_no_address_is_named(server: CaseServer, url: str, said: str) -> None:
    error = server.refuse(chat([part(url), text_part("x")]))
    assert "data:" in error["message"]
    assert re.search(said, error["message"])
    assert len(error["message"]) < 500


def chunk(kind: bytes, data: bytes, *, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + data)
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", right if checksum is None else checksum)
    )


def with_chunk(added: bytes) -> bytes:
    """The clean PNG with a chunk after its header, which is 33 bytes."""
    return CLEAN_PNG[:33] + added + CLEAN_PNG[33:]


def with_text(*, is_compressed: bool, size: int = 3 << 20) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "prompt " * (size // 7), zip=is_compressed)
    return encoded(picture(), pnginfo=info)


DAMAGED = {
    "PNG with a large compressed text": with_text(is_compressed=True),
    "PNG with a large text": with_text(is_compressed=False, size=1 << 20),
    "PNG with a large international text": with_chunk(
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" * (1 << 19)))
    ),
    "PNG with a large profile": with_chunk(
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"\0" * (3 << 20)))
    ),
    "PNG with a broken profile": with_chunk(chunk(b"iCCP", b"icc\0\0broken")),
    "PNG with a broken compressed text": with_chunk(chunk(b"zTXt", b"key\0\0broken")),
    "PNG with a wrong checksum of a text": with_chunk(chunk(b"tEXt", b"a\0b", checksum=1)),
    "PNG with a wrong checksum of a time": with_chunk(chunk(b"tIME", bytes(7), checksum=2)),
    "PNG with an unknown chunk": with_chunk(chunk(b"abCd", b"x", checksum=3)),
    "PNG without an end": CLEAN_PNG[:-12],
    "PNG with bytes after its end": CLEAN_PNG + b"\0" * 50,
    "JPEG without an end": CLEAN_JPEG[:-2],
    "JPEG without half of its end": CLEAN_JPEG[:-1],
    "JPEG with bytes after its end": CLEAN_JPEG + b"trailing",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_pictures_that_every_program_opens(server: CaseServer, name: str) -> None:
    kind = name.partition(" ")[0]
    url = data_url(DAMAGED[name], f"image/{kind.lower()}")
    assert_same_picture(server, url, {"PNG": CLEAN_PNG, "JPEG": CLEAN_JPEG}[kind])


def test_a_stored_jpeg_without_an_end(server: CaseServer) -> None:
    [message] = load("requests/damage_jpeg_no_end")["messages"]
    url = message["content"][0]["image_url"]["url"]
    whole = base64.b64decode(url.partition(",")[2]) + b"\xff\xd9"
    assert_same_picture(server, url, whole)


@pytest.mark.parametrize(
    "data",
    [
        CLEAN_PNG[: len(CLEAN_PNG) // 2],
        CLEAN_JPEG[: len(CLEAN_JPEG) * 2 // 3],
        CLEAN_PNG[:40],
        b"GIF89a",
    ],
    ids=["PNG", "JPEG", "header only", "GIF"],
)
def test_missing_pixels_are_refused(server: CaseServer, data: bytes) -> None:
    error = server.refuse(chat([part(data_url(data)), text_part("x")]))
    assert error["param"].startswith("messages[0].content[0]")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_modes_of_pictures(server: CaseServer, mode: str) -> None:
    image = picture().convert("L").convert(mode) if mode != "CMYK" else picture().convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert look(server, data_url(encoded(image, kind))).request.images
    assert isinstance(image, Image.Image)
