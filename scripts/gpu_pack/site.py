"""Fill a folder with packages, for this Python or another, and check that it is complete."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = [ROOT / f"scripts/constraints/{name}.txt" for name in ("turbomind", "cuda")]
# pip takes wheels for exactly these; each package has one.
GLIBCS = ("2_28", "2_27", "2_24", "2_17", "2_5")
PLATFORMS = (*(f"manylinux_{glibc}_x86_64" for glibc in GLIBCS), "manylinux2014_x86_64")
# Of the system, of the driver (libcuda) and of torch (libnccl).
ON_THE_MACHINE = {
    "ld-linux-x86-64.so.2", "libc.so.6", "libcuda.so.1", "libdl.so.2", "libgcc_s.so.1", "libm.so.6",
    "libnccl.so.2", "libpthread.so.0", "librt.so.1", "libstdc++.so.6",
    "libz.so.1",
}  # fmt: skip


def install(site: Path, names: tuple[str, ...], python: str) -> None:
    """Download wheels for that Python from pip's index and unpack them."""
    print(f"Downloading {len(names)} packages for Python {python} ...", flush=True)
    options: list[str | Path] = [
        "--quiet", "--target", site, "--no-deps", "--no-compile", "--only-binary=:all:",
        "--python-version", python, "--implementation", "cp",
        *(f"--platform={platform}" for platform in PLATFORMS),
        *(f"--constraint={path}" for path in CONSTRAINTS),
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *names], check=True)


def take_installed(site: Path, names: tuple[str, ...]) -> None:
    """Copy packages of the environment that runs this."""
    for name in names:
        for file in distribution(name).files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), site / file)


def check_libraries(site: Path, shims: Path, tag: str) -> None:
    """Check that each native file is for this Python, and that all it loads is packed or known.

    Raises:
        SystemExit: with the names of those that are not.
    """
    native = [*site.rglob("*.so"), *site.rglob("*.so.*")]
    packed = {path.name for path in [*native, *shims.iterdir()]} | ON_THE_MACHINE
    foreign = [path.name for path in native if python_tag(path) not in (None, tag)]
    missing = {name for path in native for name in needed(path)} - packed
    if foreign or missing:
        sys.exit(f"Not for Python {tag}: {foreign}; needed but not packed: {sorted(missing)}")


def python_tag(library: Path) -> str | None:
    """`312` of `x.cpython-312-x86_64-linux-gnu.so`."""
    found = re.search(r"\.cpython-(\d+)", library.name)
    return found and found[1]


def needed(library: Path) -> list[str]:
    """The libraries that the loader loads with this one."""
    command = ["readelf", "--dynamic", "--wide", library]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", listing)
