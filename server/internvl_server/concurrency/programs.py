"""What a module needs to run as a separate program that inherits nothing else of the environment."""

import os
from pathlib import Path

__all__ = ["import_environment"]

_IMPORT_ROOT = Path(__file__).resolve().parents[2]


def import_environment() -> dict[str, str]:
    """The variables with which a program imports the modules of this server and what they need.

    Packages may be found through PYTHONPATH alone. The native library of numpy starts no threads.
    """
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # noqa: TID251 - the interpreter's
    folders = [str(_IMPORT_ROOT), *filter(None, inherited)]
    return {"PYTHONPATH": os.pathsep.join(folders), "OPENBLAS_NUM_THREADS": "1"}
