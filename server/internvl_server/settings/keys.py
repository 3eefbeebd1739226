"""API keys as lines of text: a name, the key or its digest, and what its requests may use."""

import hashlib
import logging
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Key", "KeyLimits", "digest_of", "parse_key", "read_keys"]

_log = logging.getLogger(__name__)

MAX_KEYS = 1000  # each request is compared with all of them, which takes 0.3 ms
MAX_FILE_BYTES = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = "sha256:"
_FORM = (
    "a key is written NAME:KEY or NAME:sha256:DIGEST, where a name has up to 64 letters, digits, dots, "
    "underscores and hyphens, and a key printable ASCII characters without spaces"
)


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What the requests of one key may use. None: what the section `limits` says for every key.

    Attributes:
        max_in_flight: Most accepted requests at a time.
        share: Largest part of what all requests share, above 0 and at most 1.
    """

    max_in_flight: int | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """One accepted key. The key itself is not kept.

    Attributes:
        name: Stands for the key in logs. Two keys may have one name, while one replaces the other.
        digest: SHA-256 of the key.
        limits: What its requests may use.
    """

    name: str
    digest: bytes = field(repr=False)
    limits: KeyLimits = KeyLimits()


def digest_of(key: str) -> bytes:
    """The SHA-256 of a key, 32 bytes."""
    return hashlib.sha256(key.encode()).digest()


def parse_key(line: str) -> Key:
    """Parse `NAME:KEY` or `NAME:sha256:DIGEST`, perhaps followed by `max_in_flight=N` and `share=X`.

    Raises:
        ValueError: The line is none of this; never quotes it.
    """
    entry, *options = line.split() or [""]
    name, _, text = entry.partition(":")
    is_key = text and text.isascii() and text.isprintable()
    if not (is_key and _NAME.fullmatch(name)):
        raise ValueError(_FORM)
    return Key(name, _digest(text), _limits(options))


def _digest(text: str) -> bytes:
    if not text.startswith(_DIGEST):
        return digest_of(text)
    digits = text.removeprefix(_DIGEST)
    if not re.fullmatch("[0-9a-fA-F]{64}", digits):
        raise ValueError("a digest after sha256: has 64 hexadecimal digits")
    return bytes.fromhex(digits)


def _max_in_flight(text: str) -> int:
    number = int(text)
    if not 0 < number < 1 << 31:
        raise ValueError
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise ValueError
    return number


_OPTIONS: Mapping[str, Callable[[str], float]] = {
    "max_in_flight": _max_in_flight,
    "share": _share,
}


def _limits(options: list[str]) -> KeyLimits:
    values = {}
    for option in options:
        name, _, value = option.partition("=")
        try:
            values[name] = _OPTIONS[name](value)
        except (KeyError, ValueError):
            raise ValueError(
                "after the key may be max_in_flight=N with a positive number, and share=X with X above 0 "
                "and at most 1"
            ) from None
    return KeyLimits(**values)  # type: ignore[arg-type]


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file with one key a line. Empty lines, and those that begin with `#`, are left out.

    Raises:
        ValueError: A line is not a key, or there is none or too many; has the line's number.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if stat.S_IMODE(path.stat().st_mode) & stat.S_IROTH:
            _log.warning("every user of this machine can read %s: chmod 640 or 600", path)
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"the file has more than {MAX_FILE_BYTES} bytes")
    keys = []
    # Other encodings than UTF-8 fail where a key would: `parse_key` takes ASCII only.
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            keys.append(parse_key(line))
        except ValueError as err:
            raise ValueError(f"line {number}: {err}") from None
    if not 0 < len(keys) <= MAX_KEYS:
        raise ValueError(f"the file has {len(keys)} keys; it must have 1 to {MAX_KEYS}")
    return tuple(keys)
