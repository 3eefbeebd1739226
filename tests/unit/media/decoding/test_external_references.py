"""FFmpeg must not open the file that a data reference of an MP4 names.

The file under test has no samples; its data reference, a Macintosh alias, names a file that has them.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from internvl_server.errors import VideoDecodeError
from internvl_server.media.decoding import video as video_module
from internvl_server.media.decoding.image import VideoLimits
from internvl_server.media.decoding.video import decode_frames

from tests.video_files import video

LIMITS = VideoLimits(
    max_pixels=1_000_000, max_side_px=4096, max_aspect_ratio=200, max_duration_s=600
)
DREF_PATH = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
# Options that make FFmpeg follow the reference if nothing else prevents it.
FOLLOW = {"enable_drefs": "1", "use_absolute_path": "1"}


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 0
    while start < len(data):
        (size,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8], data[start + 8 : start + size]
        start += size


def replace_box(data: bytes, path: tuple[bytes, ...], content: bytes) -> bytes:
    if not path:
        return content
    return b"".join(
        box(kind, replace_box(old, path[1:], content) if kind == path[0] else old)
        for kind, old in boxes(data)
    )


def alias(target: Path) -> bytes:
    """An `alis` entry with the absolute path of the target."""
    path = str(target).encode()
    path += b"\0" * (len(path) % 2)
    name = target.name.encode()
    record = bytes(50) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    record += bytes(4 + 16)  # levels of a relative path, reserved
    record += struct.pack(">hH", 2, len(path)) + path + struct.pack(">hH", -1, 0)
    return box(b"alis", bytes(4) + record)


@pytest.fixture
def referring_video(tmp_path: Path) -> bytes:
    target = tmp_path / "target.mp4"
    target.write_bytes(video())
    data = replace_box(video(), DREF_PATH, struct.pack(">II", 0, 1) + alias(target))
    return b"".join(box(kind, content) for kind, content in boxes(data) if kind != b"mdat")


def num_frames(data: bytes, options: dict[str, str]) -> int:
    with av.open(io.BytesIO(data), "r", format="mp4", options=options) as container:
        return sum(1 for _ in container.decode(video=0))


def test_ffmpeg_follows_the_reference_if_it_is_told_to(referring_video: bytes) -> None:
    """Without this the other tests would pass for a reference that is malformed."""
    assert num_frames(referring_video, FOLLOW) == 20


@pytest.mark.parametrize("lock", ["protocol_whitelist", "enable_drefs"])
def test_each_option_alone_prevents_it(referring_video: bytes, lock: str) -> None:
    assert num_frames(referring_video, FOLLOW | {lock: video_module.FFMPEG_OPTIONS[lock]}) == 0


def test_the_video_is_refused(referring_video: bytes) -> None:
    with pytest.raises(VideoDecodeError):
        list(decode_frames(referring_video, 4, LIMITS))
