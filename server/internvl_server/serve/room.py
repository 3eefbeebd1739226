"""Which connections are closed to make room for others."""

import ipaddress
from collections.abc import Iterable, MutableMapping
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["AwaitedHeads", "close_idle"]

_IPV6_BITS_OF_SITE = 64


class AwaitedHeads:
    """The connections whose clients have not sent a whole head, by address, from the oldest on.

    Clients of IPv6 have at least 2^64 addresses, so that the network of that size counts as one.

    Args:
        limit: The most that there may be of one address.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_site: dict[str, MutableMapping[HttpToolsProtocol, None]] = {}

    def add(self, connection: HttpToolsProtocol) -> None:
        """Add a connection; the oldest of too many of its address is dropped."""
        if connection.client is None:  # a Unix socket
            return
        others = self._by_site.setdefault(_site(connection.client[0]), {})
        if len(others) >= self._limit:
            oldest = next(iter(others))
            del others[oldest]
            oldest.transport.abort()
        others[connection] = None

    def discard(self, connection: HttpToolsProtocol) -> None:
        """Remove a connection, which may have been removed before."""
        if connection.client is None:
            return
        site = _site(connection.client[0])
        others = self._by_site.get(site, {})
        others.pop(connection, None)
        if not others:
            self._by_site.pop(site, None)


def _site(address: str) -> str:
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
