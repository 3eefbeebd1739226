"""What a worker answers, which is not trusted, and how a job may end without an answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from internvl_server.errors import InvalidRequestError
from internvl_server.media.tiling import count_tiles
from internvl_server.media.types import MediaType

__all__ = [
    "JobLimitError",
    "NoFFmpegError",
    "WorkerLostError",
    "as_lost",
    "count_grid",
    "error_of",
    "read_pair",
    "tile_seconds",
]


class WorkerLostError(Exception):
    """The worker died, or answers nonsense; the message completes the sentence "The worker …"."""


class JobLimitError(Exception):
    """The job took too much processor time, and its worker is gone."""


class NoFFmpegError(Exception):
    """The job needs a worker that has FFmpeg."""


@contextmanager
def as_lost() -> Iterator[None]:
    """Turn what a dead or nonsensical worker leads to into `WorkerLostError`; not a `TimeoutError`."""
    try:
        yield
    except TimeoutError:
        raise
    except (OSError, EOFError):
        raise WorkerLostError("died") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise WorkerLostError("gave an invalid answer") from None


def error_of(kind: MediaType, answer: dict[str, Any]) -> InvalidRequestError:
    """Rebuild the error a worker reported; only three classes are accepted."""
    errors = {
        cls.__name__: cls for cls in (kind.decode_error, kind.too_large_error, kind.url_error)
    }
    return errors[answer["error"]](str(answer["message"]))


def count_grid(answer: dict[str, Any], max_tiles: int) -> int:
    """The number of tiles of the grid in an answer, thumbnail included.

    Raises:
        LookupError, TypeError, ValueError: The grid is missing, invalid or larger than `max_tiles`.
    """
    grid = read_pair(answer["grid"])
    if not 1 <= grid[0] * grid[1] <= max_tiles:
        raise ValueError
    return count_tiles(grid)


def read_pair(value: Any) -> tuple[int, int]:  # noqa: ANN401 - JSON of a process that is not trusted
    """Validate a pair of positive integers.

    Raises:
        TypeError, ValueError: The value is something else.
    """
    first, second = value
    if not (type(first) is type(second) is int and first > 0 and second > 0):
        raise ValueError
    return first, second


def tile_seconds(answer: dict[str, Any], most: float) -> float:
    """The part of a job's seconds in which its tiles were made; 0 if the worker says nothing sensible."""
    seconds = answer.get("tile_s")
    if isinstance(seconds, int | float) and 0 <= seconds <= most:
        return float(seconds)
    return 0.0
