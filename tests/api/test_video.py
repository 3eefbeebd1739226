"""Videos, lists of frames and images in tool messages over HTTP, with the real SDK and the echo engine."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.settings import ModelSettings

from tests.live_server import LiveServer
from tests.unit.media.decoding.test_video import HOSTILE
from tests.video_files import CONTAINERS, audio_only, referring_video, video, video_url

MODEL = "tiny"
PER_TILE = 4


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Any) -> Any:
    from tests.live_server import start_echo_server

    assert load_checkpoint(ModelSettings(path=str(tiny_checkpoint))).num_tokens_per_tile == PER_TILE
    with start_echo_server(tiny_checkpoint) as running:
        yield running


def asked(server: LiveServer, *parts: dict[str, Any]) -> Any:
    content: Any = [*parts, {"type": "text", "text": "What happens?"}]
    messages: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": content}]
    return server.client().chat.completions.create(model=MODEL, messages=messages)


def part(data: bytes, media_type: str = "video/mp4", **more: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": video_url(data, media_type)} | more}


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def image_tokens(answer: Any) -> int:
    return int(answer.usage.prompt_tokens_details.image_tokens)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_frame_is_a_tile(server: LiveServer, kind: str) -> None:
    media_type = {"gif": "image/gif", "mov": "video/quicktime"}.get(kind, "video/x")
    answer = asked(server, part(video(kind), media_type))
    assert image_tokens(answer) == 8 * PER_TILE
    assert answer.usage.prompt_tokens_details.images == [{"tiles": 1, "tokens": PER_TILE}] * 8
    frames = "".join(f"Frame{n}: \n" for n in range(1, 9))
    assert (
        answer.choices[0].message.content == f"system\ns\nuser\n{frames}What happens?\nassistant\n"
    )


def test_number_of_frames_is_that_of_the_request(server: LiveServer) -> None:
    assert image_tokens(asked(server, part(video(), num_frames=3))) == 3 * PER_TILE


def test_video_frames_and_images_are_in_order(
    server: LiveServer, picture_url: Callable[..., str]
) -> None:
    images = [image_part(picture_url(colour=colour)) for colour in ("red", "blue")]
    frames = {"type": "video", "video": [picture_url(), picture_url()]}
    answer = asked(server, images[0], part(video(), num_frames=2), images[1], frames)
    assert image_tokens(answer) == 6 * PER_TILE
    assert answer.choices[0].message.content == (
        "system\ns\nuser\nImage-1: \nVideo-1:\nFrame1: \nFrame2: \n"
        "Image-2: \nVideo-2:\nFrame1: \nFrame2: \nWhat happens?\nassistant\n"
    )


def test_frame_labels_next_to_images_stay_alone(
    server: LiveServer, picture_url: Callable[..., str]
) -> None:
    texts = [{"type": "text", "text": f"Frame{n}: "} for n in (1, 2)]
    image = image_part(picture_url())
    answer = asked(server, texts[0], image, texts[1], image)
    assert "user\nFrame1: \nFrame2: \nWhat" in answer.choices[0].message.content


def test_a_tool_answers_with_an_image(server: LiveServer, picture_url: Callable[..., str]) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages: Any = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "Look."},
        {"role": "assistant", "tool_calls": [call]},
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [{"type": "text", "text": "seen:"}, image_part(picture_url())],
        },
    ]
    answer = server.client().chat.completions.create(model=MODEL, messages=messages)
    assert image_tokens(answer) == PER_TILE
    assert "seen:\n\n</tool_response>" in (answer.choices[0].message.content or "")


def test_tokens_are_counted_beforehand(server: LiveServer, picture_url: Callable[..., str]) -> None:
    content = [part(video(), num_frames=5), {"type": "video", "video": [picture_url()] * 2}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    counted = server.client().post("/chat/completions/input_tokens", cast_to=object, body=body)
    answer = server.client().chat.completions.create(**body)
    assert isinstance(counted, dict)
    assert counted["input_tokens"] == answer.usage.prompt_tokens


@pytest.mark.parametrize(
    ("content", "param", "code"),
    [
        (part(b"no video"), "video_url", "invalid_video"),
        (part(audio_only()), "video_url", "invalid_video"),
        (part(HOSTILE["playlist"]()), "video_url", "invalid_video"),
        (part(video()[:-9]), "video_url", "invalid_video"),
        (part(video(), "text/plain"), "video_url", "invalid_video_url"),
        (
            {"type": "video_url", "video_url": {"url": "file:///x"}},
            "video_url",
            "invalid_video_url",
        ),
        (
            {"type": "video_url", "video_url": {"url": "http://127.0.0.1/x"}},
            "video_url",
            "video_url_blocked",
        ),
        ({"type": "video_url", "video_url": {}}, "video_url.url", "missing_required_parameter"),
        (part(video(), num_frames=0), "video_url.num_frames", "invalid_value"),
        (part(video(), num_frames=33), "video_url.num_frames", "invalid_value"),
        ({"type": "video", "video": []}, "video", "invalid_value"),
        ({"type": "video", "video": [7]}, "video[0]", "invalid_value"),
        ({"type": "video", "video": ["data:image/png;base64,AAAA"]}, "video[0]", "invalid_image"),
        ({"type": "video", "video": ["x"] * 33}, "video", "invalid_value"),
        ({"type": "video", "video": ["x"] * 513}, "video", "invalid_request"),
    ],
)
def test_refusals_name_the_part(
    server: LiveServer, content: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        asked(server, {"type": "text", "text": "a"}, content)
    assert caught.value.param == f"messages[1].content[1].{param}"
    assert caught.value.code == code


def test_limits_are_those_of_the_settings(start_server: Callable[..., LiveServer]) -> None:
    media = {
        "max_videos": 1,
        "default_video_frames": 2,
        "max_video_frames": 4,
        "max_video_bytes": 3000,
        "max_tiles_per_request": 6,
    }
    server = start_server(media=media)
    small = part(video(num_frames=3, size=(16, 16)))
    assert image_tokens(asked(server, small)) == 2 * PER_TILE
    for parts, code in (
        ([small, small], "invalid_request"),
        ([part(video("gif", size=(400, 400)))], "video_too_large"),
        ([part(video(), num_frames=5)], "invalid_value"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            asked(server, *parts)
        assert caught.value.code == code


def test_a_video_cannot_refer_to_another_file(server: LiveServer, tmp_path: Path) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        asked(server, part(referring_video(tmp_path / "target.mp4")))
    assert caught.value.code == "invalid_video"


def test_images_share_the_tiles_that_frames_leave(
    start_server: Callable[..., LiveServer], picture_url: Callable[..., str]
) -> None:
    server = start_server(media={"max_tiles_per_request": 8})
    wide = {"type": "image_url", "image_url": {"url": picture_url(1344, 336), "max_tiles": 12}}
    assert image_tokens(asked(server, wide)) == 5 * PER_TILE
    assert image_tokens(asked(server, part(video(), num_frames=5), wide)) == 8 * PER_TILE
    with pytest.raises(openai.BadRequestError, match="images and frames"):
        asked(server, part(video(), num_frames=8), wide)


def test_a_bare_url_is_refused(server: LiveServer) -> None:
    picture = base64.b64encode(b"GIF89a").decode()
    with pytest.raises(openai.BadRequestError) as caught:
        asked(
            server, {"type": "video_url", "video_url": {"url": f"data:image/png;base64,{picture}"}}
        )
    assert caught.value.code == "invalid_video_url"
