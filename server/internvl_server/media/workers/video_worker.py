"""The program of a video worker: reads jobs from its pipe, decodes frames, until the pipe closes.

It is separate from `image_worker.py`, so that images never wait for a video, and image workers load FFmpeg
only for HEIC.
"""

import json
import sys
from typing import Any

from internvl_server.errors import VideoDecodeError, VideoError
from internvl_server.media.decoding.image import VideoLimits
from internvl_server.media.decoding.video import decode_frames
from internvl_server.media.types import VIDEO
from internvl_server.media.workers.image_worker import WorkerMemory, import_all, serve

__all__ = ["main"]

# What PyAV imports only when a video needs it, which a confined worker cannot do any more.
IMPORTED_LATE = ("av.subtitles.codeccontext", "av.subtitles.stream")


class VideoWorker:
    """Decodes videos, one at a time, to one tile per frame."""

    def __init__(self, memory: WorkerMemory, config: dict[str, Any]) -> None:
        self._memory = memory
        self._limits = VideoLimits(**config["limits"])
        import_all(IMPORTED_LATE)

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
        tile_s = 0.0
        for index, frame in enumerate(decode_frames(data, job["num_frames"], self._limits)):
            tile_s += self._memory.write(frame, (1, 1), job, index)
        return {"size": frame.size, "tile_s": tile_s}


def main(config: dict[str, Any]) -> None:
    """Run a video worker."""
    serve(config, VideoWorker)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
