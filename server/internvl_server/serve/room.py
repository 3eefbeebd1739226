"""Which connections are closed to make room for others."""

import ipaddress
import time
from collections.abc import Iterable, MutableMapping
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["AwaitedHeads", "close_idle"]

_IPV6_BITS_OF_SITE = 64
# What a client has sent at once is read after this time, however many connections come together.
_GRACE_S = 1.0


class AwaitedHeads:
    """The connections whose clients have not sent a whole head, by address, from the oldest on.

    Clients of IPv6 have at least 2^64 addresses, so that the network of that size counts as one.
    """

    def __init__(self) -> None:
        self._by_site: dict[str, MutableMapping[HttpToolsProtocol, float]] = {}

    def add(self, connection: HttpToolsProtocol) -> None:
        """Add a connection."""
        self._by_site.setdefault(_site(connection), {})[connection] = time.monotonic()

    def discard(self, connection: HttpToolsProtocol) -> None:
        """Remove a connection, which may have been removed before."""
        site = _site(connection)
        others = self._by_site.get(site, {})
        others.pop(connection, None)
        if not others:
            self._by_site.pop(site, None)

    def drop_one(self) -> bool:
        """Drop the oldest one of the address that has most. Returns whether it had waited long enough."""
        others = max(self._by_site.values(), key=len, default=None)
        if not others:
            return False
        oldest, since = next(iter(others.items()))
        if time.monotonic() - since < _GRACE_S:
            return False
        self.discard(oldest)
        oldest.transport.abort()
        return True


def _site(connection: HttpToolsProtocol) -> str:
    if connection.client is None:  # a Unix socket
        return ""
    address = connection.client[0]
    if ":" not in address:
        return address
    whole = ipaddress.IPv6Address(address)
    if whole.ipv4_mapped is not None:
        return str(whole.ipv4_mapped)
    return str(int(whole) >> _IPV6_BITS_OF_SITE)


def close_idle(connections: Iterable[object]) -> bool:
    """Close a connection that is between requests. Returns whether there was one."""
    for other in cast(Iterable[HttpToolsProtocol], connections):
        if other.timeout_keep_alive_task is not None and not other.transport.is_closing():
            other.transport.close()
            return True
    return False
