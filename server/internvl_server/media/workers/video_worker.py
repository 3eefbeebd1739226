"""The program of a video worker: reads jobs from its pipe, decodes frames, until the pipe closes.

It is separate from `image_worker.py`, so that images never wait for a video, and image workers load FFmpeg
only for HEIC.
"""

import json
import sys
from typing import Any

import numpy as np

from internvl_server.errors import VideoDecodeError, VideoError
from internvl_server.media.decoding.image import VideoLimits
from internvl_server.media.decoding.video import decode_frames
from internvl_server.media.tiling import tile_image
from internvl_server.media.types import VIDEO
from internvl_server.media.workers.image_worker import WorkerMemory, serve

__all__ = ["main"]


class VideoWorker:
    """Decodes videos, one at a time, to one tile per frame."""

    def __init__(self, memory: WorkerMemory, config: dict[str, Any]) -> None:
        self._memory = memory
        self._tile_px = config["tile_px"]
        self._limits = VideoLimits(**config["limits"])

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run one job; an error about the video is an answer, too."""
        try:
            return self._prepare(job)
        except VideoError as error:
            return {"error": type(error).__name__, "message": error.message}
        except MemoryError:
            return {
                "error": VideoDecodeError.__name__,
                "message": "The video needs more memory to decode than is allowed.",
            }

    def _prepare(self, job: dict[str, Any]) -> dict[str, Any]:
        data = self._memory.read(job, VIDEO)
        tile_bytes = self._tile_px * self._tile_px * np.dtype(np.uint8).itemsize * 3
        for index, frame in enumerate(decode_frames(data, job["num_frames"], self._limits)):
            tiles = tile_image(frame, max_tiles=1, tile_px=self._tile_px)
            self._memory.write(tiles.pixels, index * tile_bytes)
        return {"size": frame.size}


def main(config: dict[str, Any]) -> None:
    """Run a video worker."""
    serve(config, VideoWorker)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
