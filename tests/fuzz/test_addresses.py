"""Which addresses and URLs may be fetched, compared with tables and parsers that the server does not use."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

import httpx2
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.errors import ImageBlockedError, ImageUrlError
from internvl_server.media.sources.url_policy import UrlRules, is_public_address, parse_url

from tests.fuzz.budgets import budget

# IANA's special-purpose registries, October 2026, without what is globally reachable, and multicast.
NOT_GLOBAL = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
# Also refused here: anycast of AS112, Azure's internal host, the former 6bone, and what is not assigned.
REFUSED_TOO = [
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.175.48.0/24",
    "168.63.129.16/32",
    "2620:4f:8000::/48",
    "3ffe::/16",
    "::/3",
    "4000::/2",
    "8000::/1",
]


def networks(texts: list[str]) -> list[IPv4Network | IPv6Network]:
    return [IPv6Network(text) if ":" in text else IPv4Network(text) for text in texts]


TABLE, HOUSE = networks(NOT_GLOBAL), networks(REFUSED_TOO)
REFUSED = {
    version: [(int(n[0]), int(n[-1])) for n in [*TABLE, *HOUSE] if n.version == version]
    for version in (4, 6)
}
MAPPED, NAT64 = IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")


def reached_by(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The address that answers: an embedded IPv4 address where the network translates."""
    if isinstance(ip, IPv6Address) and (ip in MAPPED or ip in NAT64):
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip


def assert_judged_rightly(ip: IPv4Address | IPv6Address) -> None:
    reached = reached_by(ip)
    is_isatap = reached.version == 6 and (int(reached) >> 32) & 0xFDFF_FFFF == 0x5EFE
    is_refused = is_isatap or any(
        first <= int(reached) <= last for first, last in REFUSED[reached.version]
    )
    assert is_public_address(ip) == (not is_refused), ip


def edges() -> list[IPv4Address | IPv6Address]:
    """The first and last address of each range, and those beside them."""
    found = []
    for network in [*TABLE, *HOUSE, MAPPED, NAT64]:
        kind, most = (IPv4Address, 2**32) if network.version == 4 else (IPv6Address, 2**128)
        for end in (int(network[0]), int(network[-1])):
            found += [kind(n) for n in (end - 1, end, end + 1) if 0 <= n < most]
    return found


def test_edges_of_all_ranges() -> None:
    for ip in edges():
        assert_judged_rightly(ip)
        if ip.version == 4:
            for prefix in (MAPPED, NAT64):
                assert_judged_rightly(IPv6Address(int(prefix[0]) | int(ip)))


NEAR_EDGES = st.sampled_from(edges()).flatmap(
    lambda ip: st.integers(-(2**16), 2**16).map(
        lambda step: type(ip)((int(ip) + step) % (2**32 if ip.version == 4 else 2**128))
    )
)
ADDRESSES = (
    NEAR_EDGES
    | st.integers(0, 2**32 - 1).map(IPv4Address)
    | st.integers(0, 2**128 - 1).map(IPv6Address)
    | st.integers(0, 2**125 - 1).map(lambda n: IPv6Address(n | 1 << 125))
)


@budget(2000, 1_000_000)
@given(ip=ADDRESSES)
def test_addresses(ip: IPv4Address | IPv6Address) -> None:
    assert_judged_rightly(ip)


PIECES = st.sampled_from(
    [
        "http://",
        "https://",
        "HTTP:",
        "//",
        "/",
        "\\",
        "@",
        ":",
        "?",
        "#",
        "[",
        "]",
        "%",
        ".",
        "..",
        "80",
        "443",
        "127.0.0.1",
        "0x7f000001",
        "2130706433",
        "::1",
        "fe80::1%25eth0",
        "example.com",
        "a.b",
        "xn--fsq",
        " ",
        "\t",
        "\r\n",
        "\0",
        "。",
        "①",
        "é",
        "\u00ad",
        "\u200b",
        "\u202e",
        "%00",
        "%2f",
        "%40",
        ";",
        ",",
        "'",
        "~",
    ]
)
URLS = st.lists(PIECES | st.characters(), max_size=12).map("".join)
RULES = UrlRules(frozenset(range(1, 65_536)))


@budget(1000, 200_000)
@given(url=URLS | URLS.map("http://{}".format) | st.text().map("https://a.b/{}".format))
def test_urls_mean_one_host_or_are_refused(url: str) -> None:
    try:
        parsed = parse_url(url, RULES, param="url")
    except (ImageUrlError, ImageBlockedError):
        return
    assert re.fullmatch(r"[!-~]+", parsed.url)
    assert parse_url(parsed.url, RULES, param="url") == parsed
    other = urlsplit(parsed.url)
    assert (other.scheme, other.hostname, other.username) == (parsed.scheme, parsed.host, None)
    assert (other.port or {"http": 80, "https": 443}[parsed.scheme]) == parsed.port
    assert httpx2.URL(parsed.url).raw_host.decode() == parsed.host
    if re.fullmatch(r"[0-9.]+|.*:.*", parsed.host):
        assert str(ip_address(parsed.host)) == parsed.host
