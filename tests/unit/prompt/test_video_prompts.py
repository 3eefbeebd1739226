"""Frames of videos in both templates, next to text and images."""

import re

import pytest
from internvl_server.core import (
    Conversation,
    Detail,
    FrameList,
    ImageReference,
    Message,
    Part,
    Role,
    TextPart,
    VideoReference,
)
from internvl_server.prompt.checkpoint.template import CheckpointTemplate
from internvl_server.prompt.segments import Control, ImagePlaceholder
from internvl_server.prompt.template import InternVL25Template, Template

IMAGE = ImageReference("data:,", Detail.AUTO, None, "x")
CONTROL = re.compile(r"<\|im_start\|>|<\|im_end\|>")
SOURCE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = pytest.mark.parametrize(
    "template", [InternVL25Template(), CheckpointTemplate(SOURCE, CONTROL)]
)


def clip(num_frames: int) -> VideoReference:
    return VideoReference("data:,", num_frames, "x")


def frames(num_frames: int) -> FrameList:
    return FrameList((IMAGE,) * num_frames)


def said(*parts: str | Part, role: Role = "user") -> Message:
    return Message(role, tuple(TextPart(p) if isinstance(p, str) else p for p in parts))


def shown(template: Template, *messages: Message) -> str:
    """The prompt after its system turn; a placeholder is its index in braces."""
    segments = template.render(Conversation((said("s", role="system"), *messages)))
    marks = {ImagePlaceholder: lambda s: f"{{{s.index}}}", Control: lambda s: s.name}
    text = "".join(s if isinstance(s, str) else marks[type(s)](s) for s in segments)
    return text.removeprefix("<|im_start|>system\ns<|im_end|>\n")


@TEMPLATES
def test_frames_replace_the_video(template: Template) -> None:
    text = shown(template, said("Before.\n", clip(3), "After."))
    assert text == (
        "<|im_start|>user\nBefore.\nFrame1: {0}\nFrame2: {1}\nFrame3: {2}\nAfter.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@TEMPLATES
def test_a_list_of_frames_is_written_like_a_video(template: Template) -> None:
    assert shown(template, said(frames(2), "x")) == shown(template, said(clip(2), "x"))


@TEMPLATES
def test_several_videos_are_labelled_over_all_turns(template: Template) -> None:
    text = shown(template, said(clip(1)), said("ok", role="assistant"), said(frames(2), "And?"))
    assert "user\nVideo-1:\nFrame1: {0}\n<|im_end|>" in text
    assert "user\nVideo-2:\nFrame1: {1}\nFrame2: {2}\nAnd?" in text


@TEMPLATES
def test_images_keep_their_own_numbers(template: Template) -> None:
    text = shown(template, said(IMAGE, clip(2), IMAGE, "x"))
    assert "Image-1: {0}\nFrame1: {1}\nFrame2: {2}\nImage-2: {3}\nx" in text
    text = shown(template, said(IMAGE, clip(1), "x"))
    assert "user\n{0}\nFrame1: {1}\nx" in text


@TEMPLATES
def test_frame_labels_of_the_text_replace_image_labels(template: Template) -> None:
    text = shown(template, said("Frame1: ", IMAGE, "Frame2: ", IMAGE, "x"))
    assert "user\nFrame1: {0}\nFrame2: {1}\nx" in text
    text = shown(template, said("Frame-1: ", IMAGE, "Frame-2: ", IMAGE, "x"))
    assert "user\nFrame-1: {0}\nFrame-2: {1}\nx" in text


@TEMPLATES
def test_frame_labels_next_to_a_video_do_not_remove_image_labels(template: Template) -> None:
    text = shown(template, said(IMAGE, IMAGE, clip(2), "Frame2: what is it?"))
    assert "Image-1: {0}\nImage-2: {1}\nFrame1: {2}" in text
    text = shown(template, said(IMAGE, IMAGE), said("Frame1: a cat.", role="assistant"))
    assert "Image-1: {0}\nImage-2: {1}\n" in text


@TEMPLATES
def test_images_of_a_tool_are_in_its_turn(template: Template) -> None:
    answer = Message("tool", (TextPart("seen: "), IMAGE), tool_call_id="c")
    text = shown(template, said(IMAGE, "look"), answer)
    assert "Image-1: {0}\nlook" in text
    assert "seen: Image-2: {1}\n" in text


def test_media_parts_are_numbered_in_template_order() -> None:
    conversation = Conversation((said("a", clip(2), IMAGE), said(frames(3), "b", IMAGE)))
    assert [type(v) for v in conversation.media_parts] == [
        VideoReference, ImageReference, FrameList, ImageReference,
    ]  # fmt: skip
    places = [
        s for s in InternVL25Template().render(conversation) if isinstance(s, ImagePlaceholder)
    ]
    assert [place.index for place in places] == list(range(7))
