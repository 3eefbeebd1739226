"""Looks up the addresses of hosts, in threads that slow name servers cannot take from each other.

A look-up of the C library cannot be stopped: its thread is taken for as long as the name servers of the
host's domain do not answer, often ten seconds, although nobody waits for it any more.
"""

import asyncio
import socket
from asyncio import Future, Semaphore
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import TypeAlias
from weakref import WeakValueDictionary

from internvl_server.media.sources.url_policy import Address

__all__ = ["Resolver"]

# Threads for each fetch that may run, and the part of those fetches that may look up names of one domain.
_THREADS_PER_FETCH = 4
_DOMAIN_SHARE = 4

_Addresses: TypeAlias = tuple[Address, ...]


class Resolver:
    """Looks up names for the whole process. Call `close` after use.

    Args:
        max_fetches: Most fetches at a time.
    """

    def __init__(self, max_fetches: int) -> None:
        self._threads = ThreadPoolExecutor(
            max_fetches * _THREADS_PER_FETCH, thread_name_prefix="resolve"
        )
        self._max_per_domain = max(1, max_fetches // _DOMAIN_SHARE)
        self._domains: WeakValueDictionary[str, Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        """Stop looking up names."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def look_up(self, host: str, port: int) -> _Addresses:
        """The addresses of a host, in the order to try them.

        If too many threads still wait for name servers of the host's domain, it waits for one of them.

        Raises:
            OSError, UnicodeError, ValueError: There are none.
        """
        domain = ".".join(host.split(".")[-2:])
        places = self._domains.get(domain)
        if places is None:
            places = self._domains[domain] = Semaphore(self._max_per_domain)
        await places.acquire()
        running = self._threads.submit(_look_up, host, port)
        found = asyncio.wrap_future(running)
        found.add_done_callback(partial(_release, places))
        try:
            return await asyncio.shield(found)
        except asyncio.CancelledError:
            running.cancel()  # unless it has begun: then it keeps its place until its end
            raise


def _release(places: Semaphore, found: "Future[_Addresses]") -> None:
    places.release()
    if not found.cancelled():
        found.exception()  # nobody may be waiting for it


def _look_up(host: str, port: int) -> _Addresses:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return tuple(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))
