"""The same without the confinement, to show that the attempts are sound."""

import json
import sys
from unittest import mock

from internvl_server.media.workers import image_worker

from tests.live.taken_over.worker import TakenOver

if __name__ == "__main__":
    mock.patch.object(image_worker, "confine", return_value="").start()
    mock.patch.object(image_worker, "protect").start()
    image_worker.serve(json.loads(sys.argv[1]), TakenOver)
