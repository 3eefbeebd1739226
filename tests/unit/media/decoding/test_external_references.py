"""FFmpeg must not open the file that a data reference of an MP4 names.

The file under test has no samples; its data reference, a Macintosh alias, names a file that has them.
"""

import io
from pathlib import Path

import av
import pytest
from internvl_server.errors import VideoDecodeError
from internvl_server.media.decoding import video as video_module
from internvl_server.media.decoding.image import VideoLimits
from internvl_server.media.decoding.video import decode_frames

from tests.video_files import referring_video

LIMITS = VideoLimits(
    max_pixels=1_000_000, max_side_px=4096, max_aspect_ratio=200, max_duration_s=600
)
# Options that make FFmpeg follow the reference if nothing else prevents it.
FOLLOW = {"enable_drefs": "1", "use_absolute_path": "1"}


@pytest.fixture
def referring(tmp_path: Path) -> bytes:
    return referring_video(tmp_path / "target.mp4")


def num_frames(data: bytes, options: dict[str, str]) -> int:
    with av.open(io.BytesIO(data), "r", format="mp4", options=options) as container:
        return sum(1 for _ in container.decode(video=0))


def test_ffmpeg_follows_the_reference_if_it_is_told_to(referring: bytes) -> None:
    """Without this the other tests would pass for a reference that is malformed."""
    assert num_frames(referring, FOLLOW) == 20


@pytest.mark.parametrize("lock", ["protocol_whitelist", "enable_drefs"])
def test_each_option_alone_prevents_it(referring: bytes, lock: str) -> None:
    assert num_frames(referring, FOLLOW | {lock: video_module.FFMPEG_OPTIONS[lock]}) == 0


def test_the_video_is_refused(referring: bytes) -> None:
    with pytest.raises(VideoDecodeError):
        list(decode_frames(referring, 4, LIMITS))
