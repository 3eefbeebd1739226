"""Which connections are closed to make room for others."""

import ipaddress
import time
from collections.abc import Iterable, MutableMapping
from typing import Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["AwaitedHeads", "close_idle"]

_IPV6_BITS_OF_SITE = 64
# What a client has sent at once is read after this time, however many connections come together.
_GRACE_S = 1.0


class Guest(Protocol):
    """A connection that may have to make room."""

    client: tuple[str, int] | None
    """The address and port of its client; None on a Unix socket."""

    def turn_away(self) -> None:
        """Close it, and say why."""


class AwaitedHeads:
    """The connections whose clients have not sent a whole head, from the oldest on, all and by address.

    Those that were refused, and whose clients may still read why, are among them.

    Clients of IPv6 have at least 2^64 addresses, so that the network of that size counts as one.

    Args:
        fair_share: An address with more of them than this makes room for other addresses at once.
    """

    def __init__(self, fair_share: int) -> None:
        self._fair_share = fair_share
        self._since: MutableMapping[Guest, float] = {}
        self._by_site: dict[str, MutableMapping[Guest, None]] = {}

    def add(self, connection: Guest) -> None:
        """Add a connection."""
        self._since[connection] = time.monotonic()
        self._by_site.setdefault(_site(connection), {})[connection] = None

    def discard(self, connection: Guest) -> None:
        """Remove a connection, which may have been removed before."""
        if self._since.pop(connection, None) is None:
            return
        site = _site(connection)
        del self._by_site[site][connection]
        if not self._by_site[site]:
            del self._by_site[site]

    def drop_one(self, newcomer: Guest) -> bool:
        """Drop the oldest one of the address that has most of them, or else the oldest of all.

        Returns whether one had waited long enough, or is of another address that has more than its share:
        a host that connects again and again has none that has waited.
        """
        if not self._since:
            return False
        site, others = max(self._by_site.items(), key=lambda item: len(item[1]))
        chosen = next(iter(others))
        is_greedy = len(others) > self._fair_share and site != _site(newcomer)
        if not is_greedy and not self._is_late(chosen):
            chosen = next(iter(self._since))
            if not self._is_late(chosen):
                return False
        self.discard(chosen)
        chosen.turn_away()
        return True

    def _is_late(self, connection: Guest) -> bool:
        return time.monotonic() - self._since[connection] >= _GRACE_S


def _site(connection: Guest) -> str:
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
    """Close the connection that has been between requests for longest. Returns whether there was one.

    The client of another is more likely to be sending its next request, which would be lost.
    """
    idle = [
        (other.timeout_keep_alive_task, other.transport)
        for other in cast(Iterable[HttpToolsProtocol], connections)
        if other.timeout_keep_alive_task is not None and not other.transport.is_closing()
    ]
    if not idle:
        return False
    _, transport = min(idle, key=lambda one: one[0].when())
    transport.close()
    return True
