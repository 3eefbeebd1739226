"""The images and videos of one request: their numbers, and their order."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar

from internvl_server.core import FrameList, ImageReference, MediaPart, VideoReference
from internvl_server.errors import Field, InvalidRequestError
from internvl_server.media.sources.data_url import is_data_url
from internvl_server.media.sources.loader import gather
from internvl_server.settings import MediaSettings

__all__ = ["check_numbers", "in_order", "min_tiles", "num_fetched", "num_images"]

T = TypeVar("T")
Video: TypeAlias = VideoReference | FrameList


def check_numbers(media_parts: Sequence[MediaPart], settings: MediaSettings) -> None:
    """Refuse too many images, videos or frames, whatever the model's context is.

    Raises:
        InvalidRequestError: There are more than `settings` allow.
    """
    images = num_images(media_parts)
    for count, label, limit in (
        (images, "images", "max_images"),
        (len(media_parts) - images, "videos", "max_videos"),
        (min_tiles(media_parts), "images and frames", "max_tiles_per_request"),
    ):
        max_count = getattr(settings, limit)
        if count > max_count:
            raise InvalidRequestError(
                f"The request has {count} {label}; at most {max_count} are allowed "
                f"(media.{limit}).",
                param=Field.PROMPT,
            )


def num_images(media_parts: Sequence[MediaPart]) -> int:
    """Number of images that are no frames."""
    return sum(isinstance(part, ImageReference) for part in media_parts)


def num_fetched(media_parts: Sequence[MediaPart]) -> int:
    """Number of images and frames that are fetched, without videos."""
    images = [part for part in media_parts if isinstance(part, ImageReference)]
    images += [frame for p in media_parts if isinstance(p, FrameList) for frame in p.frames]
    return sum(not is_data_url(image.url) for image in images)


def min_tiles(media_parts: Sequence[MediaPart]) -> int:
    """One tile per image and per frame."""
    return sum(1 if isinstance(p, ImageReference) else p.num_frames for p in media_parts)


async def in_order(
    media_parts: Sequence[MediaPart],
    process_images: Callable[[Sequence[ImageReference]], Coroutine[Any, Any, tuple[T, ...]]],
    process_video: Callable[[Video], Coroutine[Any, Any, tuple[T, ...]]],
) -> tuple[T, ...]:
    """Process all images together and each video by itself; results are in the order of `media_parts`."""
    images = [part for part in media_parts if isinstance(part, ImageReference)]
    videos = [part for part in media_parts if not isinstance(part, ImageReference)]
    results = await gather([process_images(images), *map(process_video, videos)])
    image_results, video_results = iter(results[0]), iter(results[1:])
    ordered: list[T] = []
    for part in media_parts:
        if isinstance(part, ImageReference):
            ordered.append(next(image_results))
        else:
            ordered += next(video_results)
    return tuple(ordered)
