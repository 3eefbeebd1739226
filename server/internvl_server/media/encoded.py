"""Encoded image and video files, as they were fetched or as the client sent them, and their memory."""

import hashlib
import sys
from dataclasses import dataclass
from typing import Self

from internvl_server.concurrency.sharing import Share, SharedBudget

__all__ = ["EncodedMedia", "MediaDemand", "Reservation"]


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """A file, or base64 text that only a decode worker should decode.

    `digest` is the SHA-256 of `data`. The same file has the same one, whether it was inline or fetched.
    """

    data: bytes
    is_base64: bool
    digest: bytes

    @classmethod
    def of(cls, data: bytes, *, is_base64: bool = False) -> Self:
        """Hash a file or a text. CPU-bound: about 1 ms per megabyte."""
        return cls(data, is_base64, hashlib.sha256(data).digest())


@dataclass(frozen=True, slots=True)
class MediaDemand:
    """What the media of a request may need: bytes of fetched images, frames, and tiles with the frames."""

    num_bytes: int
    num_frames: int
    min_tiles: int
    max_tiles: int


class Reservation:
    """The memory reserved for the media of one request: bytes of fetched images, and tiles.

    Args:
        share: What is reserved of the budget of both.
        num_frames: Tiles of frames, which are counted besides those of images.
        num_copies: How often the tiles are counted.
    """

    def __init__(self, share: Share, *, num_frames: int = 0, num_copies: int = 1) -> None:
        self._share = share
        self._num_frames = num_frames
        self._num_copies = num_copies
        self._num_bytes = share.amounts[0]

    @classmethod
    def unlimited(cls) -> Self:
        """A reservation from a budget that nothing else uses."""
        most = sys.maxsize
        return cls(SharedBudget(most, most, refusal="").reserve_now(most, most))

    def limit_bytes(self, num_bytes: int) -> None:
        """Give back all bytes but so many."""
        self._num_bytes = min(num_bytes, self._num_bytes)
        self._share.resize(self._num_bytes, self._share.amounts[1])

    def has_tiles(self, num_tiles: int) -> bool:
        """Whether so many tiles of images are reserved."""
        return self._share.amounts[1] >= self._counted(num_tiles)

    def limit_tiles(self, num_tiles: int) -> None:
        """Give back all tiles of images but so many."""
        self._share.resize(self._num_bytes, min(self._counted(num_tiles), self._share.amounts[1]))

    async def resize_tiles(self, num_tiles: int) -> None:
        """Reserve exactly so many tiles of images, before any is made.

        Raises:
            EngineOverloadedError: There is no memory for more tiles.
        """
        if self.has_tiles(num_tiles):
            self.limit_tiles(num_tiles)
            return
        # Requests that waited with a part of their tiles would wait for each other.
        self._share.resize(self._num_bytes, 0)
        await self._share.enlarge(self._num_bytes, self._counted(num_tiles))
        self.limit_bytes(self._num_bytes)  # it may have changed meanwhile

    def _counted(self, num_tiles: int) -> int:
        return min((num_tiles + self._num_frames) * self._num_copies, self._share.limits[1])
