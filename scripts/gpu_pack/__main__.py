"""Write a folder with which the server and its GPU trials run on a machine without network.

    scripts/gpu-pack build/gpu-pack                     # for Python 3.12
    build/gpu-pack/run-here scripts/gpu-smoke --random  # on the machine with the GPU

The machine needs x86-64 Linux, a driver for CUDA 13, and a Python with torch for CUDA 13, transformers and
what else `MACHINE` in packages.py names. The rest is in the folder: LMDeploy without its unused parts, the
server's packages, small libraries instead of cuBLAS, and this repository with the demo model. Needs pip,
gcc and binutils. Files in the folder that are up to date are kept, so an interrupted call can be repeated.
"""

import argparse
import json
import lzma
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from scripts.gpu_pack.packages import LEFT_OUT, PACKED
from scripts.gpu_pack.site import check_libraries, install, take_installed

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
NATIVE = "lmdeploy/turbomind/_turbomind.cpython-{tag}-x86_64-linux-gnu.so"


class Pack:
    """The folder, and with what each of its files was made."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self._key = key
        self._made = folder / "made.json"

    def is_current(self, name: str) -> bool:
        return (self.folder / name).exists() and self._keys().get(name) == self._key

    def write(self, name: str, write: Callable[[Path], None]) -> None:
        """Write one file under another name, then rename it: what has its name is complete."""
        partial = self.folder / f"{name}.partial"
        write(partial)
        partial.replace(self.folder / name)
        self._made.write_text(json.dumps({**self._keys(), name: self._key}))

    def _keys(self) -> dict[str, str]:
        return json.loads(self._made.read_text()) if self._made.exists() else {}


def write_pack(pack: Pack, options: argparse.Namespace) -> None:
    (pack.folder / "lib").mkdir(parents=True, exist_ok=True)
    build_shims(pack.folder / "lib")
    shutil.copy(HERE / "run-here", pack.folder)
    tag = options.python.replace(".", "")
    native = NATIVE.format(tag=tag)
    names = f"{Path(native).name}.xz", "packages.tar.xz"
    if not all(map(pack.is_current, names)):
        with tempfile.TemporaryDirectory() as scratch:
            site = Path(scratch)
            fill(site, options)
            check_libraries(site, pack.folder / "lib", tag)
            module = (site / native).rename(site / "module")
            if not pack.is_current(names[0]):
                pack.write(names[0], lambda path: compress(module, path, options.level))
            module.unlink()
            pack.write(names[1], lambda path: archive(site, path, options.level))
    (pack.folder / "tree.tar.xz").unlink(missing_ok=True)
    if not options.without_tree:
        pack.write("tree.tar.xz", lambda path: archive_tree(path, options.level))


def fill(site: Path, options: argparse.Namespace) -> None:
    if options.installed:
        take_installed(site, PACKED)
    else:
        install(site, PACKED, options.python)
    for path in (site / part for part in LEFT_OUT):
        shutil.rmtree(path, ignore_errors=True)


def build_shims(folder: Path) -> None:
    """The CUDA 12 libraries of which LMDeploy uses little: one with six functions, one with none."""
    gcc = ["gcc", "-shared", "-fPIC", "-O2"]
    shims = HERE / "shims"
    subprocess.run(
        [*gcc, "-Wl,-soname,libcublas.so.12", f"-Wl,--version-script={shims / 'libcublas.map'}",
         "-o", folder / "libcublas.so.12", shims / "libcublas.c", "-ldl"],
        check=True,
    )  # fmt: skip
    lt = folder / "libcublasLt.so.12"
    empty = ["-x", "c", "/dev/null"]
    subprocess.run([*gcc, "-Wl,-soname,libcublasLt.so.12", "-o", lt, *empty], check=True)


def compress(source: Path, target: Path, level: int) -> None:
    print(
        f"Compressing {source.stat().st_size >> 20} MiB of LMDeploy's native code ...", flush=True
    )
    with source.open("rb") as plain, lzma.open(target, "wb", preset=level) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)


def archive(folder: Path, target: Path, level: int) -> None:
    with tarfile.open(target, "w:xz", preset=level) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)


def archive_tree(target: Path, level: int) -> None:
    """The files of the repository as they are now, committed or not."""
    listing = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, check=True, capture_output=True).stdout.decode().split("\0")
    with tarfile.open(target, "w:xz", preset=level) as tar:
        for name in sorted({name for name in names if name and (ROOT / name).exists()}):
            tar.add(ROOT / name, name)


def report(folder: Path, max_mib: int) -> int:
    """Print the sizes; 1 if the folder is too large."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if "unpacked" not in path.relative_to(folder).parts]
    total = sum(path.stat().st_size for path in files)
    print("| file | MiB |\n| --- | ---: |")
    for path in files:
        print(f"| {path.relative_to(folder)} | {path.stat().st_size / 2**20:.1f} |")
    print(f"| all | {total / 2**20:.1f} |")
    is_too_large = total > max_mib << 20
    if is_too_large:
        print(f"The folder is larger than {max_mib} MiB.", file=sys.stderr)
    return int(is_too_large)


def key_of(options: argparse.Namespace) -> str:
    """A hash of all that decides what is packed, except the tree."""
    pins = [(ROOT / f"scripts/constraints/{x}.txt").read_text() for x in ("turbomind", "cuda")]
    asked = PACKED, LEFT_OUT, options.python, options.level, options.installed
    return sha256(repr((asked, pins)).encode()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="gpu-pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = ".".join(platform.python_version_tuple()[:2])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", help="the machine's version of Python (default: 3.12)")
    parser.add_argument(
        "--installed", action="store_true",
        help="copy the packages of the environment that runs this, and download nothing",
    )  # fmt: skip
    parser.add_argument("--max-mib", type=int, default=64, help="the largest size (default: 64)")
    parser.add_argument("--level", type=int, default=6, help="of compression, 0 to 9 (default: 6)")
    parser.add_argument(
        "--without-tree", action="store_true",
        help="leave the repository out, because it travels with the folder",
    )  # fmt: skip
    options = parser.parse_args()
    options.python = options.python or (here if options.installed else "3.12")
    if options.installed and options.python != here:
        parser.error(f"--installed packs for Python {here}, which runs this")
    write_pack(Pack(options.folder, key_of(options)), options)
    return report(options.folder, options.max_mib)


if __name__ == "__main__":
    sys.exit(main())
