"""The real command line, whose workers run the program that the first argument names."""

import sys
from functools import partial
from unittest import mock

from internvl_server import cli
from internvl_server.media import preparer
from internvl_server.media.workers.process import WorkerSpec

if __name__ == "__main__":
    _, program, *arguments = sys.argv
    worker = partial(WorkerSpec, program=f"tests.live.taken_over.{program}")
    mock.patch.object(preparer, "WorkerSpec", worker).start()
    if program == "free_worker":
        mock.patch("internvl_server.serve.run.forbid_looking").start()
        mock.patch("internvl_server.cli.settings.hide_keys").start()
    sys.exit(cli.main(arguments))
