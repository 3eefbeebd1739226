"""The program of one decode worker: takes jobs from its pipe, decodes and tiles, until the pipe closes.

Run by `worker_process.py` as `python -m server.media.worker CONFIG`; imports nothing of the server but
decoding and tiling. It is treated as hostile once a crafted image may have taken it over: it has no
environment, no sockets, no secrets, and what it answers is JSON that the parent checks.
"""

import json
import mmap
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from server.errors import ImageDecodeError, ImageError
from server.media.data_url import decode_base64
from server.media.decode import DecodeLimits, decode_image, read_size
from server.media.tiling import tile_image

__all__ = ["main"]

NICENESS = 5


class Worker:
    """One job at a time: the encoded image lies in shared memory, its tiles are written behind it.

    Args:
        memory: `output_offset` bytes for the encoded image, the rest for tiles.
        output_offset: Where the tiles begin.
        tile_px: Side of a tile in pixels.
        limits: What is refused by the header.
    """

    def __init__(
        self, memory: mmap.mmap, output_offset: int, tile_px: int, limits: DecodeLimits
    ) -> None:
        self._memory = memory
        self._output = np.frombuffer(memory, dtype=np.uint8, offset=output_offset)
        self._tile_px = tile_px
        self._limits = limits

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one job; an image that cannot be used is an answer too."""
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
        data = self._memory[: job["num_bytes"]]
        if job["is_base64"]:
            data = decode_base64(data)
        if job["max_tiles"] is None:
            return {"size": read_size(data, self._limits)}
        image = decode_image(data, self._limits)
        tiles = tile_image(image, max_tiles=job["max_tiles"], tile_px=self._tile_px)
        self._output[: tiles.pixels.size] = tiles.pixels.reshape(-1)
        return {"size": tiles.size, "grid": tiles.grid}


def confine(max_memory_bytes: int) -> None:
    """Give up what decoding does not need."""
    # The parent decides when a worker ends, also while a supervisor stops the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))


def main(config: dict[str, Any]) -> None:
    """Serve jobs until the parent closes the pipe or is gone.

    Args:
        config: As `WorkerProcess` writes it, with the two file descriptors.
    """
    confine(config["max_memory_bytes"])
    memory = mmap.mmap(config["memory_fd"], config["memory_bytes"])
    os.close(config["memory_fd"])
    limits = DecodeLimits(**config["limits"])
    worker = Worker(memory, config["output_offset"], config["tile_px"], limits)
    with Connection(config["pipe_fd"]) as pipe:
        pipe.send_bytes(b"{}")
        while True:
            try:
                job = json.loads(pipe.recv_bytes())
            except EOFError:
                return
            pipe.send_bytes(json.dumps(worker.answer(job)).encode())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
