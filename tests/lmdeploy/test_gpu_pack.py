"""The folder of scripts/gpu-pack, unpacked on a machine that has only what packages.py says it must have."""

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts.gpu_pack.packages import MACHINE

pytestmark = pytest.mark.timeout(1200)  # packing reads and writes gigabytes
ROOT = Path(__file__).parents[2]
# The test reads the pack's own code and the driver's stub, and nothing of this environment.
KEPT = "PATH", "HOME", "LD_LIBRARY_PATH", "LANG"

LOADED = """
import torch, lmdeploy.turbomind, internvl_server
assert lmdeploy.turbomind.is_available(), lmdeploy.turbomind._import_error
print(lmdeploy.__file__, internvl_server.__file__)
print(*{line.split()[-1] for line in open("/proc/self/maps") if ".so" in line})
"""


def with_needs(names: tuple[str, ...]) -> Iterator[Distribution]:
    """The installed packages of these names, and what they need."""
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        if name in seen:
            continue
        seen.add(name)
        yield found
        needs = map(Requirement, found.requires or [])
        waiting += [n.name for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with links to what the machine must have. CUDA's libraries share one folder."""
    folder = tmp_path_factory.mktemp("machine") / "venv"
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for found in with_needs(MACHINE):
        for file in found.files or []:
            depth = 2 if file.parts[0] == "nvidia" else 1
            link = site.joinpath(*file.parts[:depth])
            if file.parts[0] not in ("..", "__pycache__") and not link.exists():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(found.locate_file(Path(*file.parts[:depth])))
    return folder / "bin/python"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this environment's packages and hardly compressed, to take seconds, not minutes."""
    folder = tmp_path_factory.mktemp("pack")
    options = "--installed", "--level=0", "--max-mib=128"
    subprocess.run(
        [sys.executable, "-m", "scripts.gpu_pack", folder, *options], cwd=ROOT, check=True
    )
    return folder


def run_here(pack: Path, machine: Path, *command: str) -> str:
    clean = {name: os.environ[name] for name in KEPT if name in os.environ}
    done = subprocess.run(
        [machine, pack / "run-here", machine, *command],
        env=clean, cwd=pack, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pack_brings_the_native_module_and_its_libraries(pack: Path, machine: Path) -> None:
    code, libraries = run_here(pack, machine, "-c", LOADED).splitlines()
    lmdeploy, server = map(Path, code.split())
    assert lmdeploy.is_relative_to(pack / "unpacked/site")
    assert server.is_relative_to(pack / "unpacked/tree")
    folders = {Path(library).name: Path(library).parent for library in libraries.split()}
    assert folders["libcublas.so.12"] == folders["libcublasLt.so.12"] == pack / "lib"
    assert folders["libcudart.so.12"].is_relative_to(pack / "unpacked/site")
    assert "libcublas.so.13" in folders  # of torch; what libcublas.so.12 passes its calls on to


def test_the_loading_tests_pass_in_the_unpacked_folder(pack: Path, machine: Path) -> None:
    """Without the fixtures of all tests, which import clients that are not packed."""
    options = "-W", "default", "-p", "no:cacheprovider", "--confcutdir=tests/lmdeploy"
    output = run_here(pack, machine, "-m", "pytest", *options, "tests/lmdeploy/test_loading.py")
    assert "[100%]" in output


def test_the_gpu_trial_answers_requests_with_images_there(pack: Path, machine: Path) -> None:
    """Its decode workers inherit nothing but the import path, which names the folder's packages."""
    few = "--stand-in", "--only=adapter", "--prompts=2", "--aborts=10"
    output = run_here(pack, machine, "-m", "scripts.gpu_smoke", "--random", *few)
    assert "| adapter | 13 tiles | PASSED |" in output
