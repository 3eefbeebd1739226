"""A driver with one GPU, of which nothing is used, for the code of the server that reads the real one."""

from typing import Any
from unittest import mock

from internvl_server.planner.gpus import GIB

from tests.nvidia_driver import Driver

__all__ = ["install_driver"]

_SIZES = 80 * GIB, 79 * GIB  # total and free


def install_driver() -> None:
    """For the rest of this process."""
    driver = Driver(1, sizes=_SIZES)

    def library(name: str) -> Any:
        return driver if name == "libcuda.so.1" else None

    mock.patch("internvl_server.engine.turbomind.machine.driver._library", library).start()
