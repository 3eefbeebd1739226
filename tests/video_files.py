"""Real video files for tests, made with PyAV: frames of one colour each, which tells them apart."""

import base64
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

CONTAINERS = {
    "mp4": ("mp4", "libx264", "yuv420p"),
    "mp4-mpeg4": ("mp4", "mpeg4", "yuv420p"),
    "mov": ("mov", "libx264", "yuv420p"),
    "webm-vp8": ("webm", "libvpx", "yuv420p"),
    "webm-vp9": ("webm", "libvpx-vp9", "yuv420p"),
    "mkv": ("matroska", "libx264", "yuv420p"),
    "gif": ("gif", "", ""),
}


def colour(index: int) -> tuple[int, int, int]:
    """The colour of a frame: neighbours differ in red by 12."""
    return (index * 12 % 256, 90, 255 - index * 12 % 256)


def video(
    kind: str = "mp4",
    *,
    num_frames: int = 20,
    size: tuple[int, int] = (64, 48),
    gop: int = 12,
    b_frames: int = 2,
    rotation: int = 0,
    corner: bool = False,
    rate: int = 10,
) -> bytes:
    """A video file whose frames have the colours of `colour`.

    Args:
        kind: One of CONTAINERS.
        num_frames: At least 1.
        size: Width and height in pixels.
        gop: Frames from key frame to key frame.
        b_frames: Most frames in a row that refer forward.
        rotation: Degrees counterclockwise a player turns the frames by.
        corner: Whether the upper left quarter is white.
        rate: Frames a second.
    """
    container_format, codec, pixel_format = CONTAINERS[kind]
    file = io.BytesIO()
    if kind == "gif":
        pictures = [Image.new("RGB", size, colour(index)) for index in range(num_frames)]
        pictures[0].save(
            file, "GIF", save_all=True, append_images=pictures[1:], duration=1000 // rate
        )
        return file.getvalue()
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.gop_size = gop
        stream.bit_rate = 4_000_000
        if codec == "libx264":
            stream.codec_context.max_b_frames = b_frames
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(num_frames):
            pixels = np.full((size[1], size[0], 3), colour(index), np.uint8)
            if corner:
                pixels[: size[1] // 2, : size[0] // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pixel_format)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def audio_only() -> bytes:
    """An MP4 file with half a second of silence and no picture."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 4000), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def video_url(data: bytes, media_type: str = "video/mp4") -> str:
    """A file as a `data:` URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


_DATA_REFERENCES = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")


def referring_video(target: Path) -> bytes:
    """An MP4 file without samples, whose data reference names a file that has them; writes that file."""
    data = video()
    target.write_bytes(data)
    data = _replace_box(data, _DATA_REFERENCES, struct.pack(">II", 0, 1) + _alias(target))
    return b"".join(_box(kind, content) for kind, content in _boxes(data) if kind != b"mdat")


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 0
    while start < len(data):
        (size,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8], data[start + 8 : start + size]
        start += size


def _replace_box(data: bytes, path: tuple[bytes, ...], content: bytes) -> bytes:
    if not path:
        return content
    return b"".join(
        _box(kind, _replace_box(old, path[1:], content) if kind == path[0] else old)
        for kind, old in _boxes(data)
    )


def _alias(target: Path) -> bytes:
    """An `alis` entry with the absolute path of the target."""
    path = str(target).encode()
    path += b"\0" * (len(path) % 2)
    name = target.name.encode()
    record = bytes(50) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    record += bytes(4 + 16)  # levels of a relative path, reserved
    record += struct.pack(">hH", 2, len(path)) + path + struct.pack(">hH", -1, 0)
    return _box(b"alis", bytes(4) + record)
