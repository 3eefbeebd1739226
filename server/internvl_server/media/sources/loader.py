"""From the URLs of images and videos to their bytes, several at the same time."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

from internvl_server.concurrency.offload import MAX_MEDIA_BYTES, offload
from internvl_server.errors import ImageTooLargeError
from internvl_server.media.encoded import EncodedMedia, Reservation
from internvl_server.media.sources.data_url import (
    check_scheme,
    decode_plain_base64,
    is_data_url,
    split_data_url,
)
from internvl_server.media.sources.fetch import MediaFetcher
from internvl_server.media.types import IMAGE, MediaError, MediaType
from internvl_server.settings import MediaSettings
from internvl_server.telemetry.record import Stage, stage

__all__ = ["RequestLoader", "attach_param", "gather"]

T = TypeVar("T")


class RequestLoader:
    """Loads the media of one request, at most `max_fetches_per_request` at a time.

    All images that it fetches are held at the same time, so they share `max_fetched_bytes`.

    Args:
        fetcher: Fetches files.
        settings: Limits.
        num_fetched: Number of images that will be fetched.
        reservation: Their memory. It is reduced to their sizes when these are known.
    """

    def __init__(
        self,
        fetcher: MediaFetcher,
        settings: MediaSettings,
        num_fetched: int,
        reservation: Reservation,
    ) -> None:
        self._fetcher = fetcher
        self._slots = asyncio.Semaphore(settings.max_fetches_per_request)
        self._max_image_bytes = settings.max_image_bytes
        self._max_video_bytes = settings.max_video_bytes
        self._max_fetched_bytes = settings.max_fetched_bytes
        self._reservation = reservation
        self._max_bytes = num_fetched * settings.max_image_bytes  # of all images that are fetched
        self._known_bytes = 0  # of those whose sizes are known

    async def load(self, url: str, *, param: str, kind: MediaType = IMAGE) -> EncodedMedia:
        """Load the file of a URL.

        Raises:
            ImageTooLargeError: The images of the request are too large together.
            InvalidRequestError, EngineOverloadedError: As `split_data_url` and `MediaFetcher.fetch`.
        """
        if is_data_url(url):
            max_bytes = self._max_image_bytes if kind is IMAGE else self._max_video_bytes
            text = split_data_url(url, max_bytes=max_bytes, param=param, kind=kind)
            decode = partial(_decode, text, max_bytes=max_bytes, param=param, kind=kind)
            return await offload(decode, size=len(text), limit=MAX_MEDIA_BYTES)
        check_scheme(url, param=param, kind=kind)
        on_size = partial(self._note_size, param) if kind is IMAGE else None
        async with self._slots:
            with stage(Stage.FETCH):
                data = await self._fetcher.fetch(url, param=param, kind=kind, on_size=on_size)
        return await offload(partial(EncodedMedia.of, data), size=len(data), limit=MAX_MEDIA_BYTES)

    def _note_size(self, param: str, num_bytes: int) -> None:
        """Give back what an image does not need, or refuse it."""
        self._known_bytes += num_bytes
        if self._known_bytes > self._max_fetched_bytes:
            raise ImageTooLargeError(
                f"The images of the request have more than {self._max_fetched_bytes} bytes "
                "together, the limit (media.max_fetched_bytes).",
                param=param,
            )
        self._max_bytes -= self._max_image_bytes - num_bytes
        self._reservation.limit_bytes(self._max_bytes)


def _decode(text: str, *, max_bytes: int, param: str, kind: MediaType) -> EncodedMedia:
    data = decode_plain_base64(text)
    if data is None:
        return EncodedMedia.of(text.encode("ascii"), is_base64=True)
    if len(data) > max_bytes:
        raise kind.over_limit(max_bytes, param)
    return EncodedMedia.of(data)


async def attach_param(result: Awaitable[T], param: str) -> T:
    """Await a result; set `param` on a media error it raises."""
    try:
        return await result
    except MediaError as error:
        error.param = param
        raise


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> tuple[T, ...]:
    """Await all results in order; the first failure cancels the others and is raised.

    A failure refers to this frame and to its callers' by its traceback. A `TaskGroup` refers to the failure
    in turn, so that the results, which may be large, would live until the next garbage collection.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return tuple(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()
