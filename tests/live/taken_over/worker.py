"""An image worker that makes the attempt that an image names."""

import json
import sys
from typing import Any

from internvl_server.media.types import IMAGE
from internvl_server.media.workers.image_worker import ImageWorker, serve

from tests.live.taken_over.attempts import Target, attempt


class TakenOver(ImageWorker):
    """Reports the outcome as an error about the image."""

    def _prepare(self, job: dict[str, Any]) -> dict[str, Any]:
        data = self._memory.read(job, IMAGE)
        if not data.startswith(b"{"):
            return super()._prepare(job)
        crafted = json.loads(data)
        outcome = attempt(crafted["attempt"], Target(**crafted["target"]))
        return {"error": "ImageDecodeError", "message": outcome}


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), TakenOver)
