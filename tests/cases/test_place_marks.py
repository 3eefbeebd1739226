"""`<image>` and `<IMAGE_TOKEN>` in a message's texts say where its pictures stand."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.cases.asking import (
    MODEL,
    RESPONSES,
    CaseServer,
    Reply,
    chat,
    data_url,
    encoded,
    image_part,
    load,
    picture,
    text_part,
    turns,
)

MARK = re.compile("<image>|<IMAGE_TOKEN>")
PICTURE = "<img><IMG_CONTEXT></img>"
LABEL = re.compile(r"Image-\d+: ")
TEXTS = [
    "Image-1: <image>\nImage-2: <image>\nWhat differs?",
    "Image-1: <IMAGE_TOKEN>\nImage-2: <IMAGE_TOKEN>\nWhat differs?",
    "<image>\n<image>\nWhat differs?",
    "<image><image>What differs?",
    "What differs between <image> and <image>?",
    "What differs? <image> <image>",
    "Image 1: <image> Image 2: <IMAGE_TOKEN>",
    "\u56fe1: <image>\n\u56fe2: <image>\n\u6709\u4ec0\u4e48\u4e0d\u540c?",
]


def interleaved(text: str, first: int = 0) -> list[dict[str, Any]]:
    """The parts that say the same without marks: a line ends after a picture anyway."""
    texts = [piece.removeprefix("\n") for piece in MARK.split(text)]
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(texts):
        parts += [text_part(piece)] if piece else []
        parts += [image_part(first + number)] if number < len(texts) - 1 else []
    return parts


def assert_stands_as_written(server: CaseServer, reply: Reply, text: str) -> None:
    """Each picture is where its mark was, apart from labels that the server may add."""
    prompt = server.prompt(reply.request)
    assert LABEL.sub("", MARK.sub(PICTURE, text)) in LABEL.sub("", prompt)
    assert prompt.count(PICTURE) == len(MARK.findall(text))
    if LABEL.search(text):
        assert MARK.sub(PICTURE, text) in prompt
    assert "x-warnings" not in reply.headers


def fingerprints(server: CaseServer, numbers: Sequence[int]) -> list[bytes]:
    """Those of pictures by their numbers, each sent alone."""
    alone = [server.answer(chat([image_part(n, detail="low")])) for n in numbers]
    return [reply.request.images[0].fingerprint for reply in alone]


@pytest.mark.parametrize("text", TEXTS)
def test_each_picture_stands_where_its_mark_is(server: CaseServer, text: str) -> None:
    parts = [text_part(text), image_part(0, detail="low"), image_part(1, detail="low")]
    for order in (parts, [parts[1], parts[0], parts[2]], [*parts[1:], parts[0]]):
        reply = server.answer(chat(order))
        assert_stands_as_written(server, reply, text)
        found = [span.fingerprint for span in reply.request.images]
        assert found == fingerprints(server, [0, 1])


@pytest.mark.parametrize("text", TEXTS)
def test_marks_and_parts_in_order_are_one_prompt(server: CaseServer, text: str) -> None:
    marked = server.answer(chat([text_part(text), image_part(0), image_part(1)]))
    ordered = server.answer(chat(interleaved(text)))
    if LABEL.search(text):
        assert marked.request.prompt_token_ids == ordered.request.prompt_token_ids
    assert [s.fingerprint for s in marked.request.images] == [
        s.fingerprint for s in ordered.request.images
    ]


def test_the_stored_case(server: CaseServer) -> None:
    body = load("requests/marks_two_pictures")
    reply = server.answer(body)
    assert_stands_as_written(server, reply, body["messages"][0]["content"][0]["text"])


def test_marks_in_several_texts(server: CaseServer) -> None:
    content = [
        text_part("First <image> here,"),
        image_part(0),
        text_part("then <image>."),
        image_part(1),
    ]
    prompt = server.prompt(server.answer(chat(content)).request)
    bare = LABEL.sub("", prompt)
    assert bare.index("First <img>") < bare.index("</img> here,") < bare.index("then <img>")
    assert prompt.count(PICTURE) == 2


def test_each_message_has_its_own_marks(server: CaseServer) -> None:
    history = [
        {"role": "user", "content": [image_part(0), text_part("Look: <image>!")]},
        {"role": "assistant", "content": "A disc."},
        {"role": "user", "content": [image_part(1), text_part("And this? <image>")]},
    ]
    bare = LABEL.sub("", server.prompt(server.answer(turns(history)).request))
    assert f"Look: {PICTURE}!" in bare
    assert f"And this? {PICTURE}" in bare


@pytest.mark.parametrize(
    "text", ["One <image> only.", "<image><image><image>", "<IMAGE_TOKEN> and <image> and <image>"]
)
def test_another_number_of_marks_is_text_with_a_warning(server: CaseServer, text: str) -> None:
    reply = server.answer(chat([text_part(text), image_part(0), image_part(1)]))
    prompt = server.prompt(reply.request)
    assert text in prompt
    assert prompt.count(PICTURE) == 2
    assert "<image>" in reply.warnings or "mark" in reply.warnings


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_without_pictures_marks_are_text(server: CaseServer, role: str) -> None:
    text = "An <image> tag, and <IMAGE_TOKEN>."
    history = [{"role": role, "content": text}, {"role": "user", "content": "x"}]
    assert text in server.prompt(server.answer(turns(history)).request)


def test_a_mark_in_capitals_is_text(server: CaseServer) -> None:
    reply = server.answer(chat([text_part("<IMAGE> <Image>"), image_part()]))
    assert "<IMAGE> <Image>" in server.prompt(reply.request)


@pytest.mark.parametrize("text", TEXTS)
def test_responses_write_the_same_prompt(server: CaseServer, text: str) -> None:
    images = [
        {"type": "input_image", "image_url": data_url(encoded(picture(n))), "detail": "low"}
        for n in range(2)
    ]
    content = [{"type": "input_text", "text": text}, *images]
    body = {"model": MODEL, "input": [{"role": "user", "content": content}], "temperature": 0}
    reply = server.answer(body | {"max_output_tokens": 16}, RESPONSES)
    low = [image_part(n, detail="low") for n in range(2)]
    expected = server.answer(chat([text_part(text), *low]))
    assert reply.request.prompt_token_ids == expected.request.prompt_token_ids


def test_many_frames_with_a_mark_each(server: CaseServer) -> None:
    text = "".join(f"Frame-{n + 1}: <image>\n" for n in range(32)) + "What happens?"
    frames = [image_part(n, max_dynamic_patch=1) for n in range(32)]
    prompt = server.prompt(server.answer(chat([text_part(text), *frames])).request)
    assert text.replace("<image>", PICTURE) in prompt
