"""Whether this machine can run LMDeploy: its driver, its GPUs and the installed packages."""

from internvl_server.engine.turbomind.machine.check import (
    SUPPORTED_VERSIONS,
    check_machine,
    find_problem,
)
from internvl_server.engine.turbomind.machine.driver import count_gpus

__all__ = ["SUPPORTED_VERSIONS", "check_machine", "count_gpus", "find_problem"]
