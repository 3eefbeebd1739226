"""Decide which URLs may be fetched: checks the text of a URL and the addresses of its host.

There is no I/O here. One parser reads a URL and refuses what it does not fully understand; only the URL
rebuilt from its parts is fetched, so that no second parser can read another host out of it. Addresses
are checked against an explicit list, because `ipaddress.is_global` accepts multicast, NAT64, 6to4,
site-local and more (reference: IANA special-purpose address registries, October 2026).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias
from urllib.parse import quote

from internvl_server.errors import StartupError
from internvl_server.media.types import IMAGE, MediaType

__all__ = [
    "Address",
    "FetchUrl",
    "Network",
    "UrlRules",
    "is_public_address",
    "parse_networks",
    "parse_url",
]

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_URL_CHARS = 8192
MAX_HOST_BYTES = 253
DEFAULT_PORTS = {"http": 80, "https": 443}

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\<>\"`{}|^\u2028\u2029]")
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?",
    re.IGNORECASE | re.ASCII,
)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_SAFE = "/%:@!$&'()*+,;=~?[]"

# Loopback, private, link-local, documentation, benchmarking, multicast and reserved ranges, and
# addresses that are routed but internal to a cloud (168.63.129.16 is Azure's).
_BLOCKED_IPV4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)

# IPv6 unicast is assigned from 2000::/3 only. This excludes loopback, unique-local, link-local, site-local,
# multicast, IPv4-compatible addresses and the local NAT64 prefix 64:ff9b:1::/48.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_BLOCKED_IPV6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarking, AMT, ORCHID, DRIP
            "2001:db8::/32",
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",
            "3ffe::/16",
            "3fff::/20",
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP_IDS = (0x00005EFE, 0x02005EFE)


@dataclass(frozen=True, slots=True)
class UrlRules:
    """Which ports and hosts are allowed.

    Empty `hosts` allow every host; `.example.com` allows the subdomains of example.com. `kind` selects the
    error classes.
    """

    ports: frozenset[int]
    hosts: tuple[str, ...] = ()
    kind: MediaType = IMAGE


@dataclass(frozen=True, slots=True)
class FetchUrl:
    """A checked http(s) URL, in parts.

    `host` is lower case without brackets or a final dot; `target` is path and query, ASCII, as sent.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The value of the `Host` header; the default port of the scheme is omitted."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL rebuilt from its parts."""
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_url(url: str, rules: UrlRules, *, param: str) -> FetchUrl:
    """Parse an http(s) URL and check it against the rules.

    Raises:
        ImageUrlError, VideoUrlError: It is too long or malformed, or has credentials or another scheme.
        ImageBlockedError, VideoBlockedError: Its port or host is not allowed.
    """
    kind = rules.kind
    match = _match_url(url, kind, param)
    host = _check_host(match["host"].lower(), kind, param)
    scheme = match["scheme"].lower()
    port = int(match["port"] or DEFAULT_PORTS[scheme])
    if port not in rules.ports:
        allowed = ", ".join(map(str, sorted(rules.ports)))
        raise kind.blocked_error(
            f"The {kind.label} URL's port is not allowed; allowed are {allowed}.", param=param
        )
    if rules.hosts and not any(_is_host_in(host, entry.lower()) for entry in rules.hosts):
        raise kind.blocked_error(
            f"{kind.label.capitalize()}s are not fetched from this host.", param=param
        )
    target = quote((match["path"] or "/") + (match["query"] or ""), safe=_SAFE)
    return FetchUrl(scheme=scheme, host=host, port=port, target=target)


def _match_url(url: str, kind: MediaType, param: str) -> re.Match[str]:
    if len(url) > MAX_URL_CHARS:
        raise kind.url_error(
            f"The {kind.label} URL is longer than {MAX_URL_CHARS} characters.", param=param
        )
    scheme = _SCHEME.match(url)
    if scheme is None or scheme[0].lower() not in ("http:", "https:"):
        raise kind.url_error(
            f"The {kind.label} URL must begin with https:, http: or data:.", param=param
        )
    if _FORBIDDEN.search(url):
        raise kind.url_error(
            f"The {kind.label} URL has a character that must be percent-encoded.", param=param
        )
    match = _URL.fullmatch(url)
    if match is None:
        raise kind.url_error(
            f"The {kind.label} URL is malformed; it must be scheme://host/path, with an ASCII host and "
            "without credentials.",
            param=param,
        )
    return match


def _check_host(host: str, kind: MediaType, param: str) -> str:
    """Return a DNS name or the canonical text of an address; refuse numbers like 127.1 or 0x7f000001."""
    error = kind.url_error(
        f"The {kind.label} URL's host is not a valid name or address.", param=param
    )
    if host.startswith("["):
        host = host[1:-1]
    else:
        host = host.removesuffix(".")
        labels = host.split(".")
        if len(host) > MAX_HOST_BYTES or not all(map(_LABEL.fullmatch, labels)):
            raise error
        if not _NUMBER.fullmatch(labels[-1]):
            return host
    try:
        return str(ip_address(host))
    except ValueError:
        raise error from None


def _is_host_in(host: str, entry: str) -> bool:
    return host.endswith(entry) if entry.startswith(".") else host == entry


def parse_networks(networks: Iterable[str]) -> tuple[Network, ...]:
    """Parse the CIDR ranges of the settings.

    Raises:
        StartupError: One is not a range, or has bits outside its mask.
    """
    try:
        return tuple(ip_network(network) for network in networks)
    except ValueError as err:
        raise StartupError(
            f"media.allowed_private_networks: {err}; write ranges like 10.1.0.0/16."
        ) from err


def is_public_address(ip: Address, allowed_private_networks: Sequence[Network] = ()) -> bool:
    """Whether an address may be dialled: it is globally routable, or in an allowed private network.

    IPv4-mapped and well-known NAT64 addresses are checked as the IPv4 address in them, because that host
    answers. Other forms with an IPv4 address (compatible, 6to4, Teredo, ISATAP, local NAT64) are blocked.
    """
    embedded = _embedded_ipv4(ip)
    if embedded is not None:
        return is_public_address(embedded, allowed_private_networks)
    if isinstance(ip, IPv6Address) and ip.scope_id is not None:
        return False
    if any(ip in network for network in allowed_private_networks):
        return True
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _BLOCKED_IPV4)
    if ip not in _GLOBAL_IPV6 or (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP_IDS:
        return False
    return not any(ip in network for network in _BLOCKED_IPV6)


def _embedded_ipv4(ip: Address) -> IPv4Address | None:
    if isinstance(ip, IPv4Address):
        return None
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
