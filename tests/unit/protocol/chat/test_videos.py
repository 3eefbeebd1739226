import json
from typing import Any

import pytest
from internvl_server.core import Detail, FrameList, ImageReference, TextPart, VideoReference
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.chat.request import parse_chat_request
from internvl_server.settings import LimitSettings, MediaSettings

VIDEO_URL = "data:video/mp4;base64,AAAA"
MEDIA = MediaSettings(default_video_frames=5, max_video_frames=9)


def conversed(*messages: Any, limits: LimitSettings = LimitSettings()) -> Any:  # noqa: B008
    body = json.dumps({"model": "m", "messages": messages}).encode()
    return parse_chat_request(body, limits, media=MEDIA).conversation


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": "a"}, *parts]}


def video(**fields: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": "data:,"} | fields}


def test_parts_become_ours_with_their_paths() -> None:
    frames = {"type": "video", "video": ["data:,1", "data:,2"]}
    [message] = conversed(user(video(), video(num_frames=9), frames)).messages
    path = "messages[0].content"
    assert message.content == (
        TextPart("a"),
        VideoReference("data:,", 5, f"{path}[1].video_url"),
        VideoReference("data:,", 9, f"{path}[2].video_url"),
        FrameList(
            tuple(
                ImageReference(f"data:,{n + 1}", Detail.LOW, 1, f"{path}[3].video[{n}]")
                for n in (0, 1)
            )
        ),
    )


def test_a_tools_pictures_have_their_paths() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    picture = {"type": "image_url", "image_url": {"url": "data:,", "detail": "high"}}
    conversation = conversed(
        user(),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [picture, {"type": "text", "text": "t"}]},
    )
    path = "messages[2].content[0].image_url"
    assert conversation.messages[2].content == (
        ImageReference("data:,", Detail.HIGH, None, path),
        TextPart("t"),
    )
    assert [image.param for image in conversation.images] == [path]


def test_a_url_stands_for_its_object() -> None:
    [message] = conversed(user({"type": "image_url", "image_url": "data:,"})).messages
    path = "messages[0].content[1].image_url"
    assert message.content[1] == ImageReference("data:,", Detail.AUTO, None, path)


@pytest.mark.parametrize(
    "part",
    [
        {"video_url": "data:,", "num_frames": 9},
        {"video_url": {"url": "data:,"}, "nframes": 9, "fps": None},
        {"video_url": {"url": "data:,", "nframes": 9}, "num_frames": 9},
    ],
)
def test_options_of_a_video_beside_its_url(part: dict[str, Any]) -> None:
    [message] = conversed(user({"type": "video_url"} | part)).messages
    assert message.content[1] == VideoReference("data:,", 9, "messages[0].content[1].video_url")


def test_medium_detail() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:,", "detail": "medium"}}
    [image] = conversed(user(part)).images
    assert image.detail is Detail.MEDIUM


@pytest.mark.parametrize("part", [{"url": VIDEO_URL}, VIDEO_URL])
def test_a_video_in_the_place_of_an_image_is_a_video(part: Any) -> None:
    [message] = conversed(user({"type": "image_url", "image_url": part})).messages
    path = "messages[0].content[1].image_url"
    assert message.content[1] == VideoReference(VIDEO_URL, 5, path)


@pytest.mark.parametrize(
    ("part", "param"),
    [
        (video(num_frames=10), "video_url.num_frames"),
        (video(num_frames=0), "video_url.num_frames"),
        (video(num_frames=True), "video_url.num_frames"),
        (video(num_frames="8"), "video_url.num_frames"),
        (video(url=""), "video_url.url"),
        (video(url=None), "video_url.url"),
        (video(detail="low"), "video_url.detail"),
        ({"type": "video_url", "video_url": ["data:,"]}, "video_url"),
        ({"type": "video_url"}, "video_url"),
        ({"type": "video", "video": []}, "video"),
        ({"type": "video", "video": "data:,"}, "video"),
        ({"type": "video", "video": ["data:,", ""]}, "video[1]"),
        ({"type": "video", "video": ["data:,"] * 10}, "video"),
        ({"type": "video", "video": ["data:,"], "fps": 1}, "fps"),
    ],
)
def test_what_is_wrong_is_named(part: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        conversed(user(part))
    assert caught.value.param == f"messages[0].content[1].{param}"


def test_frames_are_counted_before_they_are_looked_at() -> None:
    with pytest.raises(InvalidRequestError, match="limit is 2") as caught:
        conversed(user({"type": "video", "video": [0] * 3}), limits=LimitSettings(max_parts=2))
    assert caught.value.param == "messages[0].content[1].video"


@pytest.mark.parametrize("role", ["system", "developer", "assistant", "tool"])
def test_every_role_may_show_videos(role: str) -> None:
    conversation = conversed(user(), {"role": role, "content": [video()]})
    [part] = conversation.messages[1].content
    assert isinstance(part, VideoReference)


def test_settings_agree_with_each_other() -> None:
    with pytest.raises(ValueError, match="default_video_frames"):
        MediaSettings(default_video_frames=9, max_video_frames=8)
