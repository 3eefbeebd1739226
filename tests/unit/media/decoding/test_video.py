import contextlib
import io
import resource
import struct
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.errors import VideoDecodeError, VideoError, VideoTooLargeError
from internvl_server.media.decoding import video as video_module
from internvl_server.media.decoding.container import sniff_format
from internvl_server.media.decoding.frame_sampling import sample_frames
from internvl_server.media.decoding.image import VideoLimits
from internvl_server.media.decoding.video import decode_frames
from PIL import Image

from tests.unit.media.conftest import encode, make_image
from tests.video_files import CONTAINERS, audio_only, colour, video

LIMITS = VideoLimits(
    max_pixels=1_000_000, max_side_px=4096, max_aspect_ratio=200, max_duration_s=600
)


def reds(data: bytes, num_frames: int) -> list[int]:
    return [int(np.asarray(i)[-1, -1, 0]) for i in decode_frames(data, num_frames, LIMITS)]


def patched(data: bytes, name: bytes, offset: int, value: bytes) -> bytes:
    """The file with bytes replaced behind the first box, or element, of that name."""
    start = data.index(name) + len(name) + offset
    return data[:start] + value + data[start + len(value) :]


class TestFrames:
    @pytest.mark.parametrize("kind", CONTAINERS)
    @pytest.mark.parametrize("num_frames", [1, 8, 20])
    def test_sampled_frames_are_in_order(self, kind: str, num_frames: int) -> None:
        expected = [colour(index)[0] for index in sample_frames(20, num_frames)]
        shown = reds(video(kind), num_frames)
        assert np.allclose(shown, expected, atol=5)  # frames are 12 apart

    @given(
        num=st.integers(1, 40),
        gop=st.sampled_from([1, 3, 12, 60]),
        b_frames=st.integers(0, 3),
        kind=st.sampled_from(["mp4", "mkv", "webm-vp9"]),
        wanted=st.integers(1, 12),
    )
    @settings(max_examples=40, deadline=None)
    def test_seeking_finds_the_same_frames_as_decoding_all(
        self, num: int, gop: int, b_frames: int, kind: str, wanted: int
    ) -> None:
        data = video(kind, num_frames=num, gop=gop, b_frames=b_frames, size=(32, 32))
        shown = reds(data, wanted)
        expected = [colour(index)[0] for index in sample_frames(num, wanted)]
        assert np.allclose(shown, expected, atol=5)

    def test_gif_frames_are_drawn_over_each_other(self) -> None:
        """Only what changes is stored: a frame by itself would be a small square."""
        images = [Image.new("RGB", (40, 40), "blue") for _ in range(6)]
        for index, image in enumerate(images):
            image.paste("red", (0, 0, 6 * index + 4, 4))
        data = encode(images[0], "GIF", save_all=True, append_images=images[1:], duration=100)
        shown = list(decode_frames(data, 3, LIMITS))
        for frame, index in zip(shown, sample_frames(6, 3), strict=True):
            assert np.array_equal(np.asarray(frame), np.asarray(images[index]))

    @pytest.mark.parametrize(
        ("rotation", "white"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))]
    )
    def test_rotation_of_the_side_data_is_applied(
        self, rotation: int, white: tuple[int, int]
    ) -> None:
        data = video(rotation=rotation, corner=True)
        [image] = decode_frames(data, 1, LIMITS)
        assert image.size == ((64, 48) if rotation % 180 == 0 else (48, 64))
        pixels = np.asarray(image)
        corners = {(y, x): pixels[-y, -x].min() > 240 for y in (0, 1) for x in (0, 1)}
        assert [corner for corner, is_white in corners.items() if is_white] == [white]

    def test_frames_in_between_are_not_decoded_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(video_module, "MAX_DECODED_FRAMES", 40)
        assert len(reds(video(num_frames=40, gop=250, b_frames=0), 8)) == 8


def with_frame_duration(data: bytes) -> bytes:
    return patched(data, b"stts", 12, struct.pack(">I", 0x0FFFFFFF))


def with_duration(data: bytes) -> bytes:
    """A WebM header that claims 30 years, in its unit of a millisecond."""
    return patched(data, b"\x44\x89\x88", 0, struct.pack(">d", 1e12))


def gif(width: int, height: int) -> bytes:
    """One pixel on a canvas of any size."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"


HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "noise": lambda: bytes(range(256)) * 40,
    "playlist": lambda: b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "picture": lambda: encode(make_image(), "PNG"),
    "picture in boxes": lambda: encode(make_image(), "AVIF"),
    "audio only": audio_only,
    "header of MP4 alone": lambda: video()[:40],
    "header of WebM alone": lambda: video("webm-vp9")[:60],
    "no samples": lambda: patched(
        patched(video(), b"stsz", 8, b"\0\0\0\0"), b"stts", 4, b"\0\0\0\0"
    ),
    "unknown boxes": lambda: b"\0\0\0\x08moov" * 50_000,
    "box in box": lambda: b"".join(
        struct.pack(">I", 8 * (2000 - n)) + b"moov" for n in range(2000)
    ),
    "endless box": lambda: b"\0\0\0\x01moov" + b"\xff" * 8,
}
TOO_LARGE: dict[str, Callable[[], bytes]] = {
    "frames of years": lambda: with_frame_duration(video().replace(b"edts", b"free")),
    "duration of years": lambda: with_duration(video("webm-vp9")),
    "many pixels": lambda: video(size=(2000, 1000), num_frames=1),
    "thin": lambda: video("webm-vp8", size=(1200, 4), num_frames=1),
}


class TestHostile:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_is_refused(self, name: str) -> None:
        with pytest.raises(VideoDecodeError):
            reds(HOSTILE[name](), 8)

    @pytest.mark.parametrize("name", TOO_LARGE)
    def test_is_too_large(self, name: str) -> None:
        with pytest.raises(VideoTooLargeError):
            reds(TOO_LARGE[name](), 8)

    @pytest.mark.parametrize("side", [1500, 4097, 20_000, 65_535])
    def test_canvas_of_a_gif_is_not_allocated(self, side: int) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(VideoError):
            reds(gif(side, side), 8)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000

    def test_the_codecs_size_counts(self) -> None:
        """The container's size is not trusted: frames have the size of the codec's header."""
        start = video().index(b"avc1") + 28
        claimed = video()[:start] + struct.pack(">HH", 65535, 65535) + video()[start + 4 :]
        assert next(decode_frames(claimed, 1, LIMITS)).size == (64, 48)

    @pytest.mark.parametrize("kind", CONTAINERS)
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
    def test_truncated(self, kind: str, share: float) -> None:
        data = video(kind)
        with pytest.raises(VideoDecodeError):
            reds(data[: int(len(data) * share)], 8)

    def test_duration_is_measured_from_the_frames(self) -> None:
        limits = VideoLimits(1_000_000, 4096, 200, max_duration_s=1)
        data = video("mp4", num_frames=20, rate=5)
        short = patched(data, b"mvhd", 16, struct.pack(">I", 1))
        with pytest.raises(VideoTooLargeError, match="longer than 1 seconds"):
            list(decode_frames(short, 2, limits))

    @pytest.mark.parametrize("limit", ["MAX_FRAMES_IN_FILE", "MAX_DECODED_FRAMES"])
    def test_frames_are_counted(self, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
        monkeypatch.setattr(video_module, limit, 10)
        with pytest.raises(VideoTooLargeError):
            reds(video("gif"), 8)

    @given(st.data())
    @settings(max_examples=150, deadline=None)
    def test_damaged_files_are_decoded_or_refused(self, data: Any) -> None:
        whole = bytearray(SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))])
        for _ in range(data.draw(st.integers(1, 8))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(VideoError, MemoryError):
            assert len(reds(bytes(whole), 4)) == 4


def delayed(data: bytes, seconds: int) -> bytes:
    """The frames of a WebM file, later."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format="webm") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None:
                packet.pts = packet.dts = packet.pts + int(seconds / packet.time_base)
                packet.stream = stream
                target.mux(packet)
    return file.getvalue()


def test_a_part_of_a_long_recording_is_as_long_as_its_frames() -> None:
    data = video("webm-vp9")
    assert reds(delayed(data, 700), 8) == reds(data, 8)


@pytest.mark.parametrize("tail", [b"\0" * 40, b"what a camera appends", b"\0\0\1\0sefd"])
def test_what_follows_the_last_box_is_not_needed(tail: bytes) -> None:
    assert reds(video() + tail, 8) == reds(video(), 8)


SAMPLES = {kind: video(kind, num_frames=6, size=(16, 16)) for kind in CONTAINERS}


def test_only_the_known_formats_are_recognised() -> None:
    found = {kind: sniff_format(data) for kind, data in SAMPLES.items()}
    assert set(found.values()) == {"mp4", "matroska", "gif"}
