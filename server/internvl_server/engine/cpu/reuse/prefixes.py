"""Keys and values of ended requests, for later prompts that begin with the same tokens and images."""

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from internvl_server.core import ImageSpan
from internvl_server.engine.cpu.model.kv_cache import KvCache

__all__ = ["Prefix", "PrefixCache", "TokenIds"]

TokenIds = npt.NDArray[np.int64]

# Every entry is compared with every prompt, which takes some microseconds.
_MAX_ENTRIES = 128


@dataclass(frozen=True, eq=False, slots=True)
class Prefix:
    """The first tokens of an ended request, those whose keys and values were computed.

    `images` are all images of its prompt; each has a fingerprint.
    """

    token_ids: TokenIds
    images: tuple[ImageSpan, ...]
    kv_cache: KvCache

    def num_common(self, token_ids: TokenIds, images: tuple[ImageSpan, ...]) -> int:
        """Number of leading tokens that a prompt has in common, images being compared by fingerprint."""
        size = min(len(self.token_ids), len(token_ids))
        differs = self.token_ids[:size] != token_ids[:size]
        common = int(differs.argmax()) if differs.any() else size
        for own, other in zip_longest(self.images, images):
            if own != other:
                return min(common, *(span.offset for span in (own, other) if span is not None))
        return common


class PrefixCache:
    """The requests that ended last, oldest first. Its user bounds it with `shrink`."""

    def __init__(self) -> None:
        self._entries: list[Prefix] = []

    @property
    def num_tokens(self) -> int:
        """Tokens of keys and values that all entries have memory for."""
        return sum(entry.kv_cache.max_tokens for entry in self._entries)

    def find(self, token_ids: TokenIds, images: tuple[ImageSpan, ...]) -> tuple[Prefix, int] | None:
        """The entry with the most leading tokens in common, and their number; it becomes the newest."""
        counts = [entry.num_common(token_ids, images) for entry in self._entries]
        most = max(counts, default=0)
        if not most:
            return None
        found = self._entries.pop(counts.index(most))
        self._entries.append(found)
        return found, most

    def add(self, prefix: Prefix) -> None:
        """Keep an entry, instead of those that are its beginning; none that is another's beginning."""
        size = len(prefix.token_ids)
        known = [entry.num_common(prefix.token_ids, prefix.images) for entry in self._entries]
        if size in known:
            return
        pairs = zip(self._entries, known, strict=True)
        self._entries = [entry for entry, common in pairs if common < len(entry.token_ids)]
        self._entries = [*self._entries, prefix][-_MAX_ENTRIES:]

    def remove(self, prefix: Prefix) -> None:
        """Forget an entry that `find` returned."""
        self._entries.remove(prefix)

    def shrink(self, max_tokens: int) -> None:
        """Forget the oldest entries until the memory of the others is for at most so many tokens."""
        while self.num_tokens > max_tokens:
            del self._entries[0]
