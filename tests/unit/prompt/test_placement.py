"""Marks in a text for images and videos, in both templates."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.core import (
    Conversation,
    Detail,
    ImageReference,
    Message,
    Part,
    Role,
    TextPart,
    VideoReference,
)
from internvl_server.prompt.checkpoint.template import CheckpointTemplate
from internvl_server.prompt.placement import place_media
from internvl_server.prompt.segments import Control, ImagePlaceholder
from internvl_server.prompt.template import InternVL25Template, Template

CONTROL = re.compile(r"<\|im_start\|>|<\|im_end\|>")
SOURCE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = pytest.mark.parametrize(
    "template", [InternVL25Template(), CheckpointTemplate(SOURCE, CONTROL)]
)


def image(name: str) -> ImageReference:
    return ImageReference(name, Detail.AUTO, None, "x")


def clip(name: str, num_frames: int = 2) -> VideoReference:
    return VideoReference(name, num_frames, "x")


A, B, C, V = image("a"), image("b"), image("c"), clip("v")


def said(*parts: str | Part, role: Role = "user") -> Message:
    return Message(role, tuple(TextPart(p) if isinstance(p, str) else p for p in parts))


def shown(template: Template, *messages: Message) -> str:
    """The prompt's turns after the system's; an image is its URL in braces, a frame its video's."""
    conversation, _ = place_media(Conversation((said("s", role="system"), *messages)))
    urls: list[str] = []
    for part in conversation.media_parts:
        urls += [part.url] * (part.num_frames if isinstance(part, VideoReference) else 1)
    text = ""
    for segment in template.render(conversation):
        if isinstance(segment, ImagePlaceholder):
            text += f"{{{urls[segment.index]}}}"
        else:
            text += segment.name if isinstance(segment, Control) else segment
    return text.removeprefix("<|im_start|>system\ns<|im_end|>\n")


def turn(template: Template, *parts: str | Part) -> str:
    """The text of the user's turn."""
    text = shown(template, said(*parts)).removeprefix("<|im_start|>user\n")
    return text.removesuffix("<|im_end|>\n<|im_start|>assistant\n")


def warnings(*messages: Message) -> tuple[str, ...]:
    return place_media(Conversation(messages))[1]


@TEMPLATES
@pytest.mark.parametrize("mark", ["<image>", "<IMAGE_TOKEN>", "<img><IMAGE_TOKEN></img>"])
def test_labelled_marks_are_the_prompt_of_the_images_in_order(
    template: Template, mark: str
) -> None:
    text = f"Image-1: {mark}\nImage-2: {mark}\nWhat differs?"
    expected = "Image-1: {a}\nImage-2: {b}\nWhat differs?"
    assert turn(template, A, B, "What differs?") == expected
    for parts in ((text, A, B), (A, text, B), (A, B, text)):
        assert turn(template, *parts) == expected


@TEMPLATES
@pytest.mark.parametrize(
    "text",
    [
        "<image>\n<image>\nQ",
        "<image><image>\nQ",
        "<image> <IMAGE_TOKEN>\r\nQ",
        " <image>\n<image> \nQ",
    ],
)
def test_lines_of_marks_are_like_images_in_order(template: Template, text: str) -> None:
    assert turn(template, text, A, B) == turn(template, A, B, "Q")


@TEMPLATES
def test_one_image_on_its_line(template: Template) -> None:
    assert turn(template, "<image>\nQ", A) == "{a}\nQ"
    assert turn(template, "Q\n<image>", A) == "Q\n{a}\n"
    assert turn(template, "Q:\n\n<image>\n\nWhat?", A) == "Q:\n\n{a}\n\nWhat?"


@TEMPLATES
def test_within_a_line_the_image_replaces_its_mark(template: Template) -> None:
    assert turn(template, "Is <image> in <image>?", A, B) == "Is {a} in {b}?"
    assert turn(template, "<image>What?", A) == "{a}What?"
    assert turn(template, "A. <image>\nB. <image>", A, B) == "A. {a}\nB. {b}"


@TEMPLATES
def test_marks_in_several_texts_of_a_message(template: Template) -> None:
    assert turn(template, "1) <image> ", B, "2) <image>", A) == "1) {b} 2) {a}"


@TEMPLATES
def test_each_message_is_on_its_own(template: Template) -> None:
    text = shown(
        template,
        said("Image-1: <image>\nLook.", A),
        said("ok <image>", role="assistant"),
        said("<image> and <image>", B),
    )
    assert "user\nImage-1: {a}\nLook." in text
    assert "ok <image>" in text
    assert "<image> and <image>{b}\n" in text


@TEMPLATES
@pytest.mark.parametrize(
    "label",
    [
        "Image-1:", "Image 1:", "image_1 :", "Picture #1:", "Photo 1：", "图1：", "图片1:", "图 一：",
        "请看图1：", "この写真1:", "Frame1:",
    ],
)  # fmt: skip
def test_labels_of_the_text_are_not_doubled(template: Template, label: str) -> None:
    other = label.replace("1", "2").replace("一", "二")
    expected = f"{label} {{a}}\n{other} {{b}}\nQ"
    assert turn(template, f"{label} <image>\n{other} <image>\nQ", A, B) == expected
    assert turn(template, f"{label} ", A, f"{other} ", B, "Q") == expected
    assert "Image-1: {a}\nImage-2: {b}" in turn(template, A, B, f"{label.rstrip(':：')} is red?")


@pytest.mark.parametrize("num_chars", [0, 99_990, 99_999, 100_000, 250_001])
def test_labels_are_found_anywhere_in_a_long_text(num_chars: int) -> None:
    text = "\n" * num_chars + "Image 1: a"
    assert "Image-1" not in turn(InternVL25Template(), A, B, text)


@TEMPLATES
def test_figures_in_a_caption_are_no_labels(template: Template) -> None:
    assert turn(template, A, B, "Figure 1: a chart").startswith("Image-1: {a}\nImage-2: {b}\n")


@TEMPLATES
def test_videos_stand_at_their_marks(template: Template) -> None:
    frames = "Frame1: {v}\nFrame2: {v}\n"
    assert turn(template, "<video>\nQ", V) == turn(template, V, "Q") == f"{frames}Q"
    assert turn(template, "First\n<video>\nQ", V) == f"First\n{frames}Q"
    assert turn(template, "Clip: <video>\nQ", V) == f"Clip: {frames}Q"
    assert turn(template, "<video>\nand <image>", A, V) == f"{frames}and {{a}}"
    assert turn(template, "see <image>", V, A) == f"see {{a}}{frames}"


@TEMPLATES
def test_labels_of_videos_are_not_doubled(template: Template) -> None:
    other = clip("w", 1)
    text = "Video 1:\n<video>\nVideo 2:\n<video>\nSame?"
    expected = "Video 1:\nFrame1: {v}\nFrame2: {v}\nVideo 2:\nFrame1: {w}\nSame?"
    assert turn(template, text, V, other) == expected
    assert turn(template, "<video>\n<video>\nSame?", V, other).startswith("Video-1:\nFrame1: {v}")


def test_another_number_of_marks_is_text_and_a_warning() -> None:
    message = said("<image> <image>", A)
    placed, (warning,) = place_media(Conversation((message, message)))
    assert placed.messages == (message, message)
    assert warning == (
        "The number of image marks (<image>) in a message is 2, the number of its images is 1, so the marks "
        "are text."
    )
    [warning] = warnings(said("<video>"))
    assert warning.startswith(
        "The number of video marks (<video>) in a message is 1, the number of"
    )
    assert warnings(said("<image>", role="assistant"), said("<Image> <image 1>", A)) == ()


PIECES = st.lists(
    st.sampled_from(["<image>", "<IMAGE_TOKEN>", "<video>"])
    | st.text(alphabet="ab <>/\n图:-1|im_ge", max_size=8),
    max_size=12,
)


@given(pieces=PIECES, data=st.data())
def test_images_are_in_the_order_of_the_marks(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    marks = re.findall("<image>|<IMAGE_TOKEN>|<video>", text)
    media: list[Part] = []
    for number, mark in enumerate(marks):
        media.append(clip(str(number), 1) if mark == "<video>" else image(str(number)))
    # The order among images and among videos counts, not where the message has them.
    parts: list[str | Part] = [p for p in media if isinstance(p, ImageReference)]
    for video in (p for p in media if not isinstance(p, ImageReference)):
        parts.insert(data.draw(st.integers(0, len(parts))), video)
    kept = [p for p in parts if isinstance(p, VideoReference)]
    order = sorted(kept, key=lambda video: int(video.url))
    parts = [order.pop(0) if isinstance(p, VideoReference) else p for p in parts]
    parts.insert(data.draw(st.integers(0, len(parts))), text)
    placed, found = place_media(Conversation((said(*parts),)))
    assert found == ()
    assert [p.url for p in placed.media_parts if not isinstance(p, TextPart)] == [
        str(number) for number in range(len(marks))
    ]
    rest = "".join(p.text for p in placed.messages[0].content if isinstance(p, TextPart))
    assert re.sub(r"\s", "", rest) == re.sub(r"\s|<image>|<IMAGE_TOKEN>|<video>", "", text)
