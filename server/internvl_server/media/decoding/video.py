"""Decode the sampled frames of a video from an unknown sender.

Runs in a decode worker. The file is demuxed twice: once without decoding, to learn when its frames are
shown (headers are not trusted), then for the sampled frames, from the key frame before each. An exception
of FFmpeg becomes a `VideoError` with a fixed message.
"""

import errno
import io
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from internvl_server.errors import VideoDecodeError, VideoError, VideoTooLargeError
from internvl_server.media.decoding.container import check_container, sniff_format, truncated
from internvl_server.media.decoding.frame_sampling import sample_frames
from internvl_server.media.decoding.image import VideoLimits, size_problem

__all__ = ["decode_frames"]

# FFmpeg's names of decoders; which of the three for AV1 exists depends on the build.
CODECS = ("h264", "hevc", "vp8", "vp9", "libdav1d", "libaom-av1", "av1", "mpeg4", "gif")
# Neither the protocols nor the data references of a file may lead FFmpeg to another file.
FFMPEG_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif",
    "codec_whitelist": ",".join(CODECS),
    "protocol_whitelist": "none",
    "enable_drefs": "0",
}
MAX_FRAMES_IN_FILE = 1_000_000
MAX_DECODED_FRAMES = 50_000
QUARTER_TURN = 90

_TURNS = {
    1: Image.Transpose.ROTATE_90,
    2: Image.Transpose.ROTATE_180,
    3: Image.Transpose.ROTATE_270,
}


def decode_frames(data: bytes, num_frames: int, limits: VideoLimits) -> Iterator[Image.Image]:
    """Decode the frames in the middle of `num_frames` equal segments to upright 8-bit RGB.

    Args:
        data: The video file: MP4, MOV, WebM, MKV or GIF.
        num_frames: How many; frames of a shorter video repeat.
        limits: Limits on size and duration.

    Raises:
        VideoTooLargeError: The video has more pixels, seconds or frames than the limits allow.
        VideoDecodeError: The format is not supported, or the file is truncated, corrupt or without frames.
    """
    with _as_video_errors():
        container_format = sniff_format(data)
        check_container(data, container_format)
        with _opened(data, container_format, limits) as (container, stream):
            table = _read_table(container, stream, len(data), limits)
        if container_format == "gif":  # each of its frames is drawn over the one before
            del table.key_times[1:]
        with _opened(data, container_format, limits) as (container, stream):
            reader = _FrameReader(container, stream, table.key_times)
            previous = -1
            for index in sample_frames(len(table.times), num_frames):
                if index != previous:
                    image = _to_image(reader.frame_at(table.times[index]), limits)
                previous = index
                yield image


@dataclass
class _FrameTable:
    """The times of all frames and of key frames, ascending, in units of the stream's time base."""

    times: list[int]
    key_times: list[int]


class _FrameReader:
    """Decodes frames by ascending time; skips to a later key frame if there is one before the next frame."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, key_times: list[int]
    ) -> None:
        self._container = container
        self._stream = stream
        self._key_times = key_times
        self._frames = container.decode(stream)
        self._last: VideoFrame | None = None
        self._num_decoded = 0

    def frame_at(self, time: int) -> VideoFrame:
        """The first frame at this time or later, or else the last frame."""
        key_index = bisect_right(self._key_times, time) - 1
        if key_index > 0 and (
            self._last is None or self._key_times[key_index] > _time_of(self._last)
        ):
            self._seek(self._key_times[key_index])
            if self._last is None or _time_of(self._last) > time:
                # The container's index pointed after the frame; from the start it cannot be missed.
                self._seek(self._key_times[0])
        while self._last is None or _time_of(self._last) < time:
            if not self._advance():
                break
        if self._last is None:
            raise truncated()
        return self._last

    def _seek(self, time: int) -> None:
        self._container.seek(time, stream=self._stream)
        self._frames = self._container.decode(self._stream)
        self._last = None
        self._advance()

    def _advance(self) -> bool:
        """Decode the next frame into `_last`; returns False at the end."""
        frame = next(self._frames, None)
        if frame is None:
            return False
        self._last = frame
        self._count()
        return True

    def _count(self) -> None:
        self._num_decoded += 1
        if self._num_decoded > MAX_DECODED_FRAMES:
            raise VideoTooLargeError(
                f"The video has so few key frames that more than {MAX_DECODED_FRAMES} frames would have "
                "to be decoded. Send a shorter video, or its frames as images."
            )


@contextmanager
def _as_video_errors() -> Iterator[None]:
    try:
        yield
    except (VideoError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - FFmpeg's errors are of many classes
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError from None
        raise truncated() from None


@contextmanager
def _opened(
    data: bytes, container_format: str, limits: VideoLimits
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the container and check the header of its video stream."""
    options = FFMPEG_OPTIONS | {"max_pixels": str(limits.max_pixels)}
    with av.open(io.BytesIO(data), "r", format=container_format, options=options) as container:
        stream = _video_stream(container)
        context = stream.codec_context
        context.options = {"max_pixels": str(limits.max_pixels)}
        context.thread_count = 1
        _check_size(context.width, context.height, limits)
        # A part of a longer recording may keep its times, and Matroska counts from zero.
        duration = (container.duration or 0) - max(container.start_time or 0, 0)
        _check_duration(duration, Fraction(1, av.time_base), limits)
        _check_duration(stream.duration, stream.time_base, limits)
        yield container, stream


def _video_stream(container: InputContainer) -> VideoStream:
    """The first video stream that is not a cover image or a thumbnail.

    Raises:
        VideoDecodeError: There is none, or its codec is not supported.
    """
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & still]
    if not streams:
        raise VideoDecodeError("The file has no video in it.")
    if streams[0].codec_context is None or streams[0].codec_context.name not in CODECS:
        raise VideoDecodeError(
            "The video's codec is not supported; use H.264, H.265, VP8, VP9, AV1, MPEG-4 or GIF."
        )
    return streams[0]


def _read_table(
    container: InputContainer, stream: VideoStream, num_bytes: int, limits: VideoLimits
) -> _FrameTable:
    """Read the times of all frames from the packets."""
    times: list[int] = []
    key_times: list[int] = []
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise truncated()
        time = packet.dts if packet.pts is None else packet.pts
        if time is None or packet.is_discard:  # the end of the stream, or outside the edit list
            continue
        times.append(time)
        if packet.is_keyframe:
            key_times.append(time)
        if len(times) > MAX_FRAMES_IN_FILE:
            raise VideoTooLargeError(f"The video has more than {MAX_FRAMES_IN_FILE} frames.")
    if any(entry.pos + entry.size > num_bytes for entry in stream.index_entries):
        raise truncated()
    if not times:
        raise VideoDecodeError("The video has no frames.")
    times.sort()
    key_times.sort()
    _check_duration(times[-1] - times[0], stream.time_base, limits)
    return _FrameTable(times, key_times)


def _check_size(width: int, height: int, limits: VideoLimits) -> None:
    if not (width and height):  # FFmpeg reports no size if it is over `max_pixels`
        raise VideoDecodeError(
            "The size of the video's frames cannot be read, or is over the limit of "
            f"{limits.max_pixels} pixels (media.max_image_pixels)."
        )
    problem = size_problem(width, height, limits)
    if problem is not None:
        raise VideoTooLargeError(f"The video {problem}")


def _check_duration(duration: int | None, time_base: Fraction | None, limits: VideoLimits) -> None:
    if duration and time_base and duration * time_base > limits.max_duration_s:
        raise VideoTooLargeError(
            f"The video is longer than {limits.max_duration_s:g} seconds, the limit "
            "(media.max_video_duration_s)."
        )


def _time_of(frame: VideoFrame) -> int:
    """When the frame is shown; -1, before all others, if the frame does not say."""
    time = frame.dts if frame.pts is None else frame.pts
    return -1 if time is None else time


def _to_image(frame: VideoFrame, limits: VideoLimits) -> Image.Image:
    """Convert a frame to upright RGB; checks its size, which may change within a video."""
    _check_size(frame.width, frame.height, limits)
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turn = _TURNS.get(round(frame.rotation / QUARTER_TURN) % 4)
    return image if turn is None else image.transpose(turn)
