"""Whether the weight files of a checkpoint folder are whole, by their headers; reads no weight."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["INDEX_NAME", "WeightFiles", "inspect_weights"]

INDEX_NAME = "model.safetensors.index.json"

_SINGLE_NAME = "model.safetensors"
_LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
_MAX_HEADER_BYTES = 100 << 20
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The safetensors files of a checkpoint: their number, bytes, and a sentence for each problem."""

    num_files: int
    num_bytes: int
    problems: tuple[str, ...]


class _UnusableFileError(ValueError):
    """A file is not what it should be; the message is the end of a sentence."""


def inspect_weights(folder: Path) -> WeightFiles:
    """Compare the size of each safetensors file with its header, and its tensors with the index."""
    try:
        expected = _expected(folder)
    except _UnusableFileError as err:
        return WeightFiles(0, 0, (f"{INDEX_NAME} {err}",))
    paths = [folder / name for name in expected]
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    problems = tuple(_problems(folder, expected))
    return WeightFiles(len(sizes), sum(sizes), problems)


def _expected(folder: Path) -> dict[str, set[str]]:
    """The names of the tensors of each file that there should be; empty sets without an index."""
    index = folder / INDEX_NAME
    if not index.is_file():
        return {_SINGLE_NAME: set()}
    try:
        table: Mapping[str, str] = json.loads(index.read_bytes())["weight_map"]
        files: dict[str, set[str]] = {}
        for tensor, name in sorted(table.items(), key=lambda item: item[1]):
            files.setdefault(str(Path(name)), set()).add(tensor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise _UnusableFileError("is not an index of weights") from err
    return files


def _problems(folder: Path, expected: Mapping[str, set[str]]) -> Iterator[str]:
    for name, tensors in expected.items():
        try:
            found = _tensors(folder / name)
        except (_UnusableFileError, OSError) as err:
            yield f"{name} {err if isinstance(err, _UnusableFileError) else 'cannot be read'}"
            continue
        if missing := sorted(tensors - found):
            yield f"{name} lacks {len(missing)} tensors that the index names, such as {missing[0]}"


def _tensors(path: Path) -> set[str]:
    """The names of the tensors in a file.

    Raises:
        _UnusableFileError: It is missing, no safetensors file, or shorter or longer than its header says.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise _UnusableFileError("is missing")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise _UnusableFileError("is a pointer of Git LFS instead of the file (git lfs pull)")
        length = int.from_bytes(start[:_LENGTH_BYTES], "little")
        if length > min(size, _MAX_HEADER_BYTES):
            raise _UnusableFileError("is not a safetensors file, or is cut off")
        file.seek(_LENGTH_BYTES)
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as err:
        raise _UnusableFileError("has an unreadable header") from err
    if size != (whole := _LENGTH_BYTES + length + end):
        raise _UnusableFileError(f"has {size:,} bytes instead of {whole:,}")
    return set(header)
