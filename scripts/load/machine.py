"""What a measurement must say about itself: when, where, and with which versions."""

import importlib.metadata
import platform
import shutil
import subprocess
import time
from pathlib import Path

__all__ = ["describe", "described"]

_PACKAGES = ("internvl-server", "lmdeploy", "torch", "transformers", "uvicorn", "uvloop", "pillow")


def describe() -> dict[str, str]:
    """Date, processor, GPUs and versions."""
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
        "processor": _processor(),
        "gpus": _gpus() or "none",
        "versions": f"Python {platform.python_version()}, {listed}",
    }


def described(facts: dict[str, str]) -> str:
    """As a list in Markdown."""
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _gpus() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)
    return "; ".join(done.stdout.splitlines()) if done.returncode == 0 else ""
