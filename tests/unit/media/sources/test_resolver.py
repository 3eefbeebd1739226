"""Name servers that do not answer hold up only the names of their own domain."""

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from internvl_server.media.sources.resolver import Resolver

WAIT_S = 0.05


class NameServers:
    """Answers at once, but hangs until `release` for names that begin with `slow`."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, **_: object) -> list[Any]:
        self.asked.append(host)
        if host.startswith("slow") and self.release.wait(120):
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> NameServers:
    servers = NameServers()
    monkeypatch.setattr(socket, "getaddrinfo", servers.getaddrinfo)
    return servers


@pytest.fixture
async def resolver(servers: NameServers) -> AsyncIterator[Resolver]:
    resolver = Resolver(max_fetches=8)
    yield resolver
    servers.release.set()
    resolver.close()


async def give_up(resolver: Resolver, host: str) -> None:
    """Ask for a name that has no thread."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(resolver.look_up(host, 80), WAIT_S)


async def give_up_asked(
    resolver: Resolver, servers: NameServers, hosts: list[str], number: int
) -> None:
    """Ask for names, until threads have asked for so many of them."""
    tasks = [asyncio.create_task(resolver.look_up(host, 80)) for host in hosts]
    async with asyncio.timeout(60):
        while len(servers.asked) < number:
            await asyncio.sleep(0.005)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_hosts_whose_name_servers_hang_leave_threads_to_others(
    resolver: Resolver, servers: NameServers
) -> None:
    slow = [f"slow{i}.of.domain-{i % 3}.example" for i in range(40)]
    hosts = [host.removesuffix(".example") for host in slow]
    await give_up_asked(resolver, servers, hosts, 3 * 2)
    assert len(servers.asked) == 3 * 2, "of each domain, no more than its places"
    [address] = await asyncio.wait_for(resolver.look_up("fast.example", 80), 60)
    assert str(address) == "8.8.8.8"


async def test_a_domain_recovers_with_its_name_servers(
    resolver: Resolver, servers: NameServers, caplog: pytest.LogCaptureFixture
) -> None:
    await give_up_asked(resolver, servers, ["slow.example.org", "slow2.example.org"], 2)
    await give_up(resolver, "fast.example.org")
    assert servers.asked == ["slow.example.org", "slow2.example.org"]
    servers.release.set()
    assert await asyncio.wait_for(resolver.look_up("fast.example.org", 80), 60)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_look_up_that_nobody_waits_for_is_not_begun(
    resolver: Resolver, servers: NameServers
) -> None:
    all_threads = [f"slow.domain{number}" for number in range(32)]
    await give_up_asked(resolver, servers, all_threads, 32)
    await give_up(resolver, "fast.domain")
    servers.release.set()
    await asyncio.wait_for(resolver.look_up("other.domain", 80), 60)
    assert "fast.domain" not in servers.asked


async def test_many_names_of_one_domain_take_turns(resolver: Resolver) -> None:
    found = await asyncio.gather(*(resolver.look_up(f"a{i}.example.com", 80) for i in range(50)))
    assert len(found) == 50
