"""Synthetic pictures and videos: costly to decode as real ones, cheap to make by the thousand."""

import base64
import io
from dataclasses import dataclass
from functools import cache

import av
import numpy as np
from PIL import Image

from internvl_server.bench.datasets.base import Part

__all__ = ["MediaMaker", "SyntheticMedia"]

_SCALES = ((4, 0.5), (32, 0.3), (256, 0.2))  # cells in a row of noise, and its weight
_FRAMES_A_SECOND = 10


@dataclass(frozen=True, slots=True)
class SyntheticMedia:
    """A file whose first bytes are shared; `number` is in bytes at its end that decoders skip.

    So servers that recognise files by their bytes see different ones.
    """

    type: str
    media_type: str
    shared: str
    number: int

    @property
    def url(self) -> str:
        """The `data:` URL."""
        mark = base64.b64encode(b"free file %12d " % self.number).decode()
        if self.type == "video_url":
            mark = base64.b64encode(_free_box(self.number)).decode()
        return f"data:{self.media_type};base64,{self.shared}{mark}"


@dataclass
class MediaMaker:
    """Makes the pictures and videos of prompts.

    Attributes:
        num_images: Pictures of a prompt.
        image_sizes: Width and height in pixels, from which one is drawn for each picture.
        image_format: "JPEG" or "PNG".
        num_videos: Videos of a prompt.
        video_frames: Frames of a video.
        video_size: Width and height in pixels.
        pool: How many different files are repeated.
        repeated: Share of files that are taken from the pool, between 0 and 1; the others are new.
    """

    num_images: int = 0
    image_sizes: tuple[tuple[int, int], ...] = ((1280, 720),)
    image_format: str = "JPEG"
    num_videos: int = 0
    video_frames: int = 16
    video_size: tuple[int, int] = (640, 360)
    pool: int = 1
    repeated: float = 0.0
    _next: int = 0

    def parts(self, rng: np.random.Generator) -> tuple[Part, ...]:
        """The media of one prompt: videos, then pictures."""
        videos = [self._video(rng) for _ in range(self.num_videos)]
        return (*videos, *(self._image(rng) for _ in range(self.num_images)))

    def _image(self, rng: np.random.Generator) -> Part:
        number = self._number(rng)
        at = (
            number % len(self.image_sizes)
            if number < self.pool
            else rng.integers(len(self.image_sizes))
        )
        shared = _picture(self.image_sizes[at], self.image_format)
        return SyntheticMedia("image_url", f"image/{self.image_format.lower()}", shared, number)

    def _video(self, rng: np.random.Generator) -> Part:
        shared = _clip(self.video_size, self.video_frames)
        return SyntheticMedia("video_url", "video/mp4", shared, self._number(rng))

    def _number(self, rng: np.random.Generator) -> int:
        """Numbers below `pool` are those of files that are repeated."""
        if rng.random() < self.repeated:
            return int(rng.integers(self.pool))
        self._next += 1
        return self.pool + self._next


def _noise(size: tuple[int, int], seed: int) -> Image.Image:
    """A picture with structure at several scales."""
    rng = np.random.default_rng(seed)
    sums = np.zeros((size[1], size[0], 3), dtype=np.float32)
    for cells, weight in _SCALES:
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        sums += weight * np.asarray(small.resize(size, Image.Resampling.BILINEAR), np.float32)
    return Image.fromarray(sums.astype(np.uint8))


def _padded(data: bytes) -> str:
    """Base64 to which more base64 can be appended: the bytes are filled up to a multiple of three."""
    return base64.b64encode(data + b"\0" * (-len(data) % 3)).decode()


@cache
def _picture(size: tuple[int, int], image_format: str) -> str:
    buffer = io.BytesIO()
    _noise(size, seed=0).save(buffer, image_format)
    return _padded(buffer.getvalue())


@cache
def _clip(size: tuple[int, int], num_frames: int) -> str:
    """An MP4 whose frames are one picture that moves sideways."""
    buffer = io.BytesIO()
    picture = np.asarray(_noise(size, seed=1))
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=_FRAMES_A_SECOND)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(num_frames):
            moved = np.ascontiguousarray(np.roll(picture, 8 * number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    data = buffer.getvalue()
    fill = -(len(data) + 8) % 3  # a box of padding, so that the file stays one of whole boxes
    return base64.b64encode(data + _box(b"\0" * fill)).decode()


def _box(content: bytes) -> bytes:
    """A box that players skip."""
    return (len(content) + 8).to_bytes(4, "big") + b"free" + content


def _free_box(number: int) -> bytes:
    return _box(b"%16d" % number)
