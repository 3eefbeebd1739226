"""Which CUDA the installed packages are built for, from their metadata: nothing is imported."""

import importlib.metadata
import re
from pathlib import Path

from internvl_server.engine.turbomind.machine.driver import CudaVersion

__all__ = ["SUPPORTED_VERSIONS", "lmdeploy_problem", "torch_cuda"]

# The versions the contract tests (tests/lmdeploy) pass on.
SUPPORTED_VERSIONS = ("0.18.0",)


def lmdeploy_problem() -> str:
    """Why the installed LMDeploy cannot be used, as a clause; empty if it can."""
    known = " or ".join(SUPPORTED_VERSIONS)
    try:
        version = importlib.metadata.version("lmdeploy")
    except importlib.metadata.PackageNotFoundError:
        return f"LMDeploy {known} is not installed (install internvl-server[turbomind])"
    if version.partition("+")[0] not in SUPPORTED_VERSIONS:  # +cu128 is a build of the same version
        return (
            f"LMDeploy {version} is installed, but this server is tested with {known} "
            "(install internvl-server[turbomind])"
        )
    return ""


def torch_cuda() -> CudaVersion | None:
    """The CUDA version that torch is built for; None without torch, or if it is a build for the CPU."""
    try:
        path = importlib.metadata.distribution("torch").locate_file("torch/version.py")
        text = Path(str(path)).read_text(encoding="utf-8")
    except (importlib.metadata.PackageNotFoundError, OSError):
        return None
    found = re.search(r"^cuda\b.*= *['\"](\d+)\.(\d+)", text, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else None
