"""Tiles of recent images and frames, so that the next turn of a conversation does not make them again."""

import asyncio
import copy
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from internvl_server.concurrency.sharing import SharedBudget
from internvl_server.core import ImageTiles
from internvl_server.errors import ServerError
from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.workers.pool import DecodePool

__all__ = ["CachedPool", "TileCache"]

Tiles: TypeAlias = tuple[ImageTiles, ...]
Key: TypeAlias = tuple[bytes | bool | int | str, ...]

# An entry larger than this part of the cache would evict most others.
_MAX_PART = 4
_MAX_SIZES = 4096


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[Tiles]
    num_waiting: int = 0


class TileCache:
    """Keeps the tiles that were used last, and prepares what several ask for at a time only once.

    For use on one event loop. Tiles that are dropped stay valid for the requests that have them.

    Args:
        max_bytes: Most bytes of pixels; 0 keeps none.

    Attributes:
        num_bytes: Bytes of pixels that are kept.
        num_queries: Calls of `get`.
        num_hits: Those whose tiles were kept, or were being prepared.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Key, Tiles] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}
        self.num_bytes = self.num_queries = self.num_hits = 0

    @property
    def num_entries(self) -> int:
        """Images and videos whose tiles are kept."""
        return len(self._kept)

    async def get(self, key: Key, prepare: Callable[[], Coroutine[Any, Any, Tiles]]) -> Tiles:
        """The tiles of a key.

        Args:
            key: Equal only for equal tiles.
            prepare: Makes them. It is cancelled if all that wait for it leave; its failure is raised for all
                of them, and is not kept.
        """
        self.num_queries += 1
        if (tiles := self._kept.get(key)) is not None:
            self.num_hits += 1
            self._kept.move_to_end(key)
            return tiles
        flight = self._flights.get(key)
        self.num_hits += flight is not None
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(prepare()))
            flight.task.add_done_callback(partial(self._land, key, flight))
        flight.num_waiting += 1
        try:
            return await asyncio.shield(flight.task)
        except ServerError as error:
            raise copy.copy(error) from None  # each request names its own field in it
        finally:
            flight.num_waiting -= 1
            if not flight.num_waiting and not flight.task.done():
                del self._flights[key]
                flight.task.cancel()
            del flight  # a failure refers to this frame, and the flight to its failure

    def _land(self, key: Key, flight: _Flight, task: asyncio.Task[Tiles]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if task.cancelled() or task.exception() is not None:
            return
        num_bytes = _num_bytes(task.result())
        if key in self._kept or num_bytes > self._max_bytes // _MAX_PART:
            return
        self._kept[key] = task.result()
        self.num_bytes += num_bytes
        while self.num_bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.num_bytes -= _num_bytes(dropped)


class CachedPool:
    """A `DecodePool` that does no job twice while its result is kept, and in which clients take turns.

    Args:
        pool: Decodes and tiles; others start and close it.
        tiles: The cache, which several pools may share.
        num_workers: How many jobs the pool does at the same time.
    """

    def __init__(self, pool: DecodePool, tiles: TileCache, num_workers: int) -> None:
        self._pool = pool
        self._turns = SharedBudget(num_workers, refusal="The decoders are busy. Retry later.")
        self._tiles = tiles
        self._sizes: OrderedDict[Key, tuple[int, int]] = OrderedDict()

    async def read_size(self, image: EncodedMedia) -> tuple[int, int]:
        """See `DecodePool.read_size`."""
        key = (image.digest, image.is_base64)
        size = self._sizes.get(key)
        if size is None:
            with await self._turns.reserve(1):
                size = await self._pool.read_size(image)
        self._remember(key, size)
        return size

    async def tile(self, image: EncodedMedia, *, max_tiles: int) -> ImageTiles:
        """See `DecodePool.tile`."""

        async def prepare() -> Tiles:
            with await self._turns.reserve(1, cost=max_tiles):
                return (await self._pool.tile(image, max_tiles=max_tiles),)

        [tiles] = await self._tiles.get((image.digest, image.is_base64, max_tiles), prepare)
        self._remember((image.digest, image.is_base64), tiles.size)
        return tiles

    async def frames(self, video: EncodedMedia, *, num_frames: int) -> Tiles:
        """See `DecodePool.frames`."""

        async def prepare() -> Tiles:
            with await self._turns.reserve(1, cost=num_frames):
                return await self._pool.frames(video, num_frames=num_frames)

        return await self._tiles.get((video.digest, video.is_base64, "frames", num_frames), prepare)

    def _remember(self, key: Key, size: tuple[int, int]) -> None:
        self._sizes[key] = size
        self._sizes.move_to_end(key)
        if len(self._sizes) > _MAX_SIZES:
            self._sizes.popitem(last=False)


def _num_bytes(tiles: Tiles) -> int:
    return sum(image.pixels.nbytes for image in tiles)
