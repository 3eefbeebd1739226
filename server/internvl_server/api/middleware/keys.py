"""The keys that are accepted now."""

import hmac
import logging
from collections.abc import Sequence

from internvl_server.errors import StartupError
from internvl_server.settings import ServerSettings
from internvl_server.settings.keys import Key, digest_of, parse_key, read_keys

__all__ = ["KeyRing"]

_log = logging.getLogger(__name__)


class KeyRing:
    """The keys of the settings and of the keys file. Only digests are kept.

    Args:
        settings: Name the keys and the file.

    Raises:
        StartupError: The file cannot be used.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._fixed = [
            Key(f"key-{number}", digest_of(key.get_secret_value()))
            for number, key in enumerate(settings.api_keys, 1)
        ]
        self._fixed += [parse_key(line.get_secret_value()) for line in settings.named_keys]
        self._file = settings.keys_file
        try:
            self._keys = self._read()
        except (OSError, ValueError) as err:
            raise StartupError(f"server.keys_file ({self._file}) cannot be used: {err}.") from err

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._keys)

    def find(self, text: str) -> Key | None:
        """The key that a client gave, None if it is not accepted."""
        digest = digest_of(text)
        found = None
        # Every key is compared, each in constant time, so that the time says nothing about them.
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def reload(self) -> None:
        """Read the file again. If it cannot be used the keys stay as they are, and an error is logged."""
        try:
            self._keys = self._read()
        except (OSError, ValueError) as err:
            _log.error("the keys were not replaced: %s: %s", self._file, err)
        else:
            _log.info("keys accepted: %d", len(self._keys))

    def _read(self) -> Sequence[Key]:
        return [*self._fixed, *(read_keys(self._file) if self._file else ())]
