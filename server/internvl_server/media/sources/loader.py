"""From the URL of an image or a video to its bytes, and many of these at the same time."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

from internvl_server.errors import ServerError
from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.media_type import IMAGE, MediaError, MediaType
from internvl_server.media.sources.data_url import is_data_url, split_data_url
from internvl_server.media.sources.fetch import MediaFetcher
from internvl_server.settings import MediaSettings

__all__ = ["RequestLoader", "attach_param", "gather"]

T = TypeVar("T")


class RequestLoader:
    """Gets what the URLs of one request lead to, `max_fetches_per_request` at a time."""

    def __init__(self, fetcher: MediaFetcher, settings: MediaSettings) -> None:
        self._fetcher = fetcher
        self._slots = asyncio.Semaphore(settings.max_fetches_per_request)
        self._max_bytes = {True: settings.max_image_bytes, False: settings.max_video_bytes}

    async def load(self, url: str, *, param: str, kind: MediaType = IMAGE) -> EncodedMedia:
        """The bytes behind a URL; raises like `split_data_url` and `MediaFetcher.fetch`."""
        if is_data_url(url):
            max_bytes = self._max_bytes[kind is IMAGE]
            return EncodedMedia(split_data_url(url, max_bytes=max_bytes, param=param, kind=kind))
        async with self._slots:
            return EncodedMedia(await self._fetcher.fetch(url, param=param, kind=kind))


async def attach_param(result: Awaitable[T], param: str) -> T:
    """The result; an error about an image or video gets its place in the request."""
    try:
        return await result
    except MediaError as error:
        error.param = param
        raise


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> tuple[T, ...]:
    """All results in order; the first failure cancels the rest and is raised by itself."""
    failure: BaseException | None = None
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks.extend(group.create_task(coroutine) for coroutine in coroutines)
    except* ServerError as failures:
        failure = failures.exceptions[0]
    if failure is not None:
        raise failure
    return tuple(task.result() for task in tasks)
