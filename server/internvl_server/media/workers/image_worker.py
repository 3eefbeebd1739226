"""The program of an image worker: reads jobs from its pipe, decodes and tiles, until the pipe closes.

`process.py` runs it with `python -m`; it imports only decoding and tiling. The parent does not trust it,
because a crafted image may have taken it over: it inherits no environment and no sockets, and the parent
validates its answers. It is not a sandbox: the process runs as the same user and may use the network.
"""

import json
import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from internvl_server.errors import ImageDecodeError, ImageError
from internvl_server.media.decoding.image import DecodeLimits, decode_image, read_size
from internvl_server.media.sources.data_url import decode_base64
from internvl_server.media.tiling import tile_image
from internvl_server.media.types import IMAGE, MediaType

__all__ = ["Worker", "WorkerMemory", "main", "serve"]

NICENESS = 5


class Worker(Protocol):
    """Answers jobs."""

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run one job; an error about the image or video is an answer, too."""


class WorkerMemory:
    """The shared memory: the encoded image or video of a job, followed by its tiles.

    Args:
        memory: `output_offset` bytes for the encoded file, the rest for tiles.
        output_offset: Offset of the tiles.
        max_input_bytes: Most bytes of an encoded file.
    """

    def __init__(self, memory: mmap.mmap, output_offset: int, max_input_bytes: int) -> None:
        self._memory = memory
        self._max_input_bytes = max_input_bytes
        self._output = np.frombuffer(memory, dtype=np.uint8, offset=output_offset)

    def read(self, job: dict[str, Any], kind: MediaType) -> bytes:
        """The encoded file of a job."""
        data = self._memory[: job["num_bytes"]]
        return decode_base64(data, self._max_input_bytes, kind) if job["is_base64"] else data

    def write(self, pixels: npt.NDArray[np.uint8], first_byte: int = 0) -> None:
        """Write tiles for the parent."""
        self._output[first_byte : first_byte + pixels.size] = pixels.reshape(-1)


class ImageWorker:
    """Tiles images, or reads their sizes, one at a time."""

    def __init__(self, memory: WorkerMemory, config: dict[str, Any]) -> None:
        self._memory = memory
        self._tile_px = config["tile_px"]
        self._limits = DecodeLimits(**config["limits"])

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
        if job["max_tiles"] is None:
            return {"size": read_size(data, self._limits)}
        image = decode_image(data, self._limits)
        tiles = tile_image(image, max_tiles=job["max_tiles"], tile_px=self._tile_px)
        self._memory.write(tiles.pixels)
        return {"size": tiles.size, "grid": tiles.grid}


def limit_resources(max_memory_bytes: int) -> None:
    """Ignore signals, lower the priority and limit the memory of this process."""
    # The parent ends its workers, also when a supervisor signals the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))


def serve(
    config: dict[str, Any], new_worker: Callable[[WorkerMemory, dict[str, Any]], Worker]
) -> None:
    """Serve jobs until the parent closes the pipe or is gone.

    Args:
        config: Written by `WorkerProcess`; has the two file descriptors.
        new_worker: Makes the object that answers the jobs.
    """
    limit_resources(config["max_memory_bytes"])
    memory = mmap.mmap(config["memory_fd"], config["memory_bytes"])
    os.close(config["memory_fd"])
    shared = WorkerMemory(memory, config["output_offset"], config["max_input_bytes"])
    worker = new_worker(shared, config)
    with Connection(config["pipe_fd"]) as pipe:
        pipe.send_bytes(b"{}")
        while True:
            try:
                job = json.loads(pipe.recv_bytes())
            except EOFError:
                return
            pipe.send_bytes(json.dumps(worker.answer(job)).encode())


def main(config: dict[str, Any]) -> None:
    """Run an image worker."""
    serve(config, ImageWorker)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
