"""The program of an image worker: reads jobs from its pipe, decodes and tiles, until the pipe closes.

`process.py` runs it with `python -m`; it imports only decoding and tiling. The parent does not trust it,
because a crafted image may have taken it over: it inherits no environment and no sockets, it is confined
before it gets an image (`concurrency/confinement/process.py`), and the parent validates its answers.
"""

import ctypes
import json
import math
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from PIL import Image

from internvl_server.concurrency.confinement.process import confine, limit_time, protect
from internvl_server.concurrency.priority import NICENESS, give_way
from internvl_server.core import PixelType
from internvl_server.errors import ImageDecodeError, ImageError
from internvl_server.media.decoding.heif_items import is_heic
from internvl_server.media.decoding.image import DecodeLimits, decode_image, read_size
from internvl_server.media.pixels.tiler import PixelFormat, Tiler
from internvl_server.media.sources.data_url import decode_base64
from internvl_server.media.tiling import count_tiles, select_grid
from internvl_server.media.types import IMAGE, MediaType

__all__ = ["Worker", "WorkerMemory", "import_all", "main", "serve"]

# Memory of larger images is returned to the system after the job; that of smaller ones serves the next, for
# some time: a mixture of sizes, or a large image that turns out to be broken, would keep ever more.
KEPT_PIXELS = 8_000_000
KEPT_S = 5.0
# What libraries import only when an image needs it, which a confined worker cannot do any more.
IMPORTED_LATE = (
    *(f"PIL.{name}" for name in ("ImageCms", "ImageColor", "ImageOps", "ImagePalette")),
    "PIL.MpoImagePlugin",
)
RESIZER = "cykooz_resizer"
HEIC_DECODER = "internvl_server.media.decoding.heic"


class Worker(Protocol):
    """Answers jobs."""

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run one job; an error about the image or video is an answer, too."""


class WorkerMemory:
    """The shared memory: the encoded image or video of a job, followed by its tiles.

    Args:
        memory: `output_offset` bytes for the encoded file, the rest for tiles.
        config: Says where the tiles begin, how large they are, and how large an encoded file may be.
    """

    def __init__(self, memory: mmap.mmap, config: dict[str, Any]) -> None:
        self._memory = memory
        self._max_input_bytes = config["max_input_bytes"]
        self._tile_px = config["tile_px"]
        self._output = np.frombuffer(memory, dtype=np.uint8, offset=config["output_offset"])
        self._tiler = cache(partial(Tiler, self._tile_px))
        import_all((RESIZER,))

    def read(self, job: dict[str, Any], kind: MediaType) -> bytes:
        """The encoded file of a job."""
        data = self._memory[: job["num_bytes"]]
        return decode_base64(data, self._max_input_bytes, kind) if job["is_base64"] else data

    def write(
        self, image: Image.Image, grid: tuple[int, int], job: dict[str, Any], index: int = 0
    ) -> float:
        """Write the tiles of an image, the image of that index among several that have as many tiles.

        Returns:
            The seconds that it took.
        """
        started = time.monotonic()
        pixel_format = PixelFormat(PixelType(job["pixel_type"]), job["is_fast"])
        shape = (count_tiles(grid), 3, self._tile_px, self._tile_px)
        tiles = self._output.view(pixel_format.type.storage)
        start, size = index * math.prod(shape), math.prod(shape)
        tiles = tiles[start : start + size].reshape(shape)
        self._tiler(pixel_format).write(image, grid, tiles)
        if image.width * image.height > KEPT_PIXELS:
            _free_unused()
        return time.monotonic() - started


class ImageWorker:
    """Tiles images, or reads their sizes, one at a time."""

    def __init__(self, memory: WorkerMemory, config: dict[str, Any]) -> None:
        self._memory = memory
        self._tile_px = config["tile_px"]
        self._limits = DecodeLimits(**config["limits"])
        self._has_ffmpeg = config["has_ffmpeg"]
        Image.preinit()
        import_all((*IMPORTED_LATE, HEIC_DECODER) if self._has_ffmpeg else IMPORTED_LATE)

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run one job; an error about the image is an answer, too."""
        try:
            return self._prepare(job)
        except ImageError as error:
            return {"error": type(error).__name__, "message": error.message}
        except MemoryError:
            return {
                "error": ImageDecodeError.__name__,
                "message": "The image needs more memory to decode than is allowed.",
            }

    def _prepare(self, job: dict[str, Any]) -> dict[str, Any]:
        data = self._memory.read(job, IMAGE)
        if is_heic(data) and not self._has_ffmpeg:
            return {"needs_ffmpeg": True}
        if job["max_tiles"] is None:
            return {"size": read_size(data, self._limits)}
        image = decode_image(data, self._limits)
        grid = select_grid(*image.size, max_tiles=job["max_tiles"], tile_px=self._tile_px)
        tile_s = self._memory.write(image, grid, job)
        return {"size": image.size, "grid": grid, "tile_s": tile_s}


def import_all(modules: Iterable[str]) -> None:
    """Import what will be needed. What is optional may be missing."""
    for module in modules:
        with suppress(ImportError):
            import_module(module)


def _free_unused() -> None:
    """Return the memory of freed images to the system, as far as Pillow and glibc keep it."""
    Image.core.clear_cache()  # type: ignore[attr-defined]
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _alarm() -> Callable[[], None]:
    """What has the unused memory freed after `KEPT_S`, whether jobs come until then or not.

    A signal interrupts the wait for the next job, which begins again by itself; a job is interrupted between
    two steps of Python.
    """
    is_set = False

    def free(*_: object) -> None:
        nonlocal is_set
        is_set = False
        _free_unused()

    def free_later() -> None:
        nonlocal is_set
        if not is_set:
            is_set = True
            signal.setitimer(signal.ITIMER_REAL, KEPT_S)

    signal.signal(signal.SIGALRM, free)
    return free_later


def serve(
    config: dict[str, Any], new_worker: Callable[[WorkerMemory, dict[str, Any]], Worker]
) -> None:
    """Serve jobs until the parent closes the pipe or is gone.

    Args:
        config: Written by `WorkerProcess`; has the two file descriptors.
        new_worker: Makes the object that answers the jobs, and imports all that it will need.
    """
    protect()
    give_way(NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (config["max_memory_bytes"],) * 2)
    memory = mmap.mmap(config["memory_fd"], config["memory_bytes"])
    os.close(config["memory_fd"])
    worker = new_worker(WorkerMemory(memory, config), config)
    free_later = _alarm()
    with Connection(config["pipe_fd"]) as pipe:
        pipe.send_bytes(json.dumps({"unfiltered": confine(pipe.recv_bytes())}).encode())
        while True:
            try:
                job = json.loads(pipe.recv_bytes())
            except EOFError:
                return
            limit_time(job["cpu_s"])
            answer = worker.answer(job)
            limit_time(0)
            pipe.send_bytes(json.dumps(answer).encode())
            free_later()


def main(config: dict[str, Any]) -> None:
    """Run an image worker."""
    serve(config, ImageWorker)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
