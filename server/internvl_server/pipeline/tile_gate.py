"""How many tiles of pictures may be in memory at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from internvl_server.errors import EngineOverloadedError

__all__ = ["TileGate"]


class TileGate:
    """Bounds the memory that pixels take while requests wait for the engine and run.

    Args:
        max_tiles: Most tiles of all requests together.
    """

    def __init__(self, max_tiles: int) -> None:
        self._max_tiles = max_tiles
        self.num_tiles = 0

    @contextmanager
    def hold(self, num_tiles: int) -> Iterator[None]:
        """Count tiles while the context lasts.

        Raises:
            EngineOverloadedError: There are too many in flight.
        """
        if self.num_tiles and self.num_tiles + num_tiles > self._max_tiles:
            raise EngineOverloadedError(
                f"The server is busy with {self.num_tiles} tiles of pictures. Try again shortly."
            )
        self.num_tiles += num_tiles
        try:
            yield
        finally:
            self.num_tiles -= num_tiles
