import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.errors import ImageBlockedError, ImageUrlError, StartupError
from internvl_server.media.sources.url_policy import (
    FetchUrl,
    UrlRules,
    is_public_address,
    parse_networks,
    parse_url,
)

RULES = UrlRules(ports=frozenset({80, 443}))
PARAM = "messages[0].content[0].image_url"

NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.1",
    "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1",
    "192.168.1.1", "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.9",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:0:8.8.8.8", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1",
    "64:ff9b:1::808:808", "100::1", "100:0:0:1::1", "2001::1", "2001:0:4136:e378::",
    "2001:2::1", "2001:3::1", "2001:10::1", "2001:20::1", "2001:30::1", "2001:1ff::1",
    "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "2620:4f:8000::1", "3ffe::1", "3fff::1",
    "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%1", "fec0::1", "feff::1",
    "ff02::1", "ff0e::1", "2a00:1450::5efe:a00:1", "2a00:1450::200:5efe:808:808",
    "2a00:1450::1%eth0", "4000::1", "1::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1",
    "168.63.129.17", "172.15.0.1", "172.32.0.1", "192.0.1.1", "198.17.0.1", "198.20.0.1",
    "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::200e", "2001:4860:4860::8888",
    "2001:200::1", "::ffff:8.8.8.8", "64:ff9b::808:808",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_address_that_is_not_public_is_blocked(address: str) -> None:
    assert not is_public_address(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_allowed(address: str) -> None:
    assert is_public_address(ip_address(address))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("64:ff9b::a01:203", "10.0.0.0/8"),
        ("fd00::5", "fd00::/64"),
    ],
)
def test_allowed_private_network_is_allowed(address: str, network: str) -> None:
    assert is_public_address(ip_address(address), [ip_network(network)])


def test_allowed_private_network_allows_nothing_else() -> None:
    networks = parse_networks(("10.1.0.0/16",))
    assert not is_public_address(ip_address("10.2.0.1"), networks)
    assert not is_public_address(ip_address("127.0.0.1"), networks)
    assert is_public_address(ip_address("8.8.8.8"), networks)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "example.com", ""])
def test_malformed_network_prevents_the_start(network: str) -> None:
    with pytest.raises(StartupError, match="allowed_private_networks"):
        parse_networks((network,))


@given(st.integers(0, 2**32 - 1))
def test_public_ipv4_is_global_for_python_too(number: int) -> None:
    ip = IPv4Address(number)
    if is_public_address(ip):
        assert ip.is_global
        assert not ip.is_multicast


@given(st.integers(0, 2**32 - 1))
def test_embedded_ipv4_is_checked_like_itself(number: int) -> None:
    expected = is_public_address(IPv4Address(number))
    for prefix in (0xFFFF << 32, 0x64FF9B << 96):
        assert is_public_address(IPv6Address(prefix | number)) == expected


@given(st.integers(0, 2**128 - 1))
def test_public_ipv6_is_global_for_python_too(number: int) -> None:
    ip = IPv6Address(number)
    if is_public_address(ip):
        assert ip.is_global
        assert not ip.is_multicast


@pytest.mark.parametrize(
    ("url", "rebuilt"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTPS://Example.COM./a.png", "https://example.com/a.png"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("http://example.com:443/a", "http://example.com:443/a"),
        ("https://example.com/a%20b?x=1&y=%2F#top", "https://example.com/a%20b?x=1&y=%2F"),
        ("https://example.com?x=1", "https://example.com/?x=1"),
        ("https://example.com/猫.png", "https://example.com/%E7%8C%AB.png"),
        ("https://example.com/@me?a=b@c", "https://example.com/@me?a=b@c"),
        ("http://8.8.8.8/a", "http://8.8.8.8/a"),
        ("http://[2606:4700:0::1111]/a", "http://[2606:4700::1111]/a"),
        ("https://a_b.example.com/", "https://a_b.example.com/"),
        ("https://xn--fsq.example/", "https://xn--fsq.example/"),
    ],
)
def test_url_is_rebuilt_from_its_parts(url: str, rebuilt: str) -> None:
    assert parse_url(url, RULES, param=PARAM).url == rebuilt


@pytest.mark.parametrize(
    "url",
    [
        "", "image.png", "/etc/hostname", "../x.png", "file:///etc/hostname", "FILE:/etc/passwd",
        "ftp://example.com/", "gopher://example.com/", "unix:/run/x.sock", "http+unix://x/",
        "javascript:alert(1)", "blob:https://example.com/1", "//example.com/", "example.com/a.png",
        "http:", "http:/", "http://", "http:///a", "http:127.0.0.1", "http:/\\127.0.0.1",
        "http://allowed.example\\@127.0.0.1/", "http://127.0.0.1\\@allowed.example/",
        "http://a@b@127.0.0.1/", "http://u:p@example.com/", "http://@example.com/",
        "http://exa\tmple.com/", "http://exa\rmple.com/", "http://exa\nmple.com/",
        "http://exa\0mple.com/", "http://exa mple.com/", " http://example.com/",
        "http://example.com/a b", "http://example.com/\n", "http://example.com\x7f/",
        "http://ex\u00e4mple.com/", "http://127\u30020\u30020\u30021/",
        "http://\uff11\uff12\uff17.0.0.1/", "http://\u2460.example/", "http://exam%70le.com/",
        "http://example.com:/", "http://example.com:http/", "http://example.com:999999/",
        "http://example.com:-1/", "http://a..b/", "http://.a/", "http://-a.example/",
        "http://a-.example/", "http://.", "http://" + "a" * 64 + ".com/",
        "http://" + "a." * 127 + "com/", "http://2130706433/", "http://0x7f000001/",
        "http://0177.0.0.1/", "http://127.1/", "http://017700000001/", "http://0/",
        "http://127.0.0.0x1/", "http://127.0.0.1.2/", "http://256.0.0.1/", "http://08.8.8.8/",
        "http://[::1", "http://::1/", "http://[::1]x/", "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/", "http://[1.2.3.4]x/", "http://[:::]/", "http://[]/",
        "http://" + "@" * 8000 + "/",
    ],
)  # fmt: skip
def test_ambiguous_url_is_refused(url: str) -> None:
    with pytest.raises(ImageUrlError) as error:
        parse_url(url, RULES, param=PARAM)
    assert error.value.param == PARAM


def test_number_forms_in_brackets_are_not_names() -> None:
    assert parse_url("http://[1.2.3.4]/", RULES, param=PARAM).host == "1.2.3.4"


def test_url_over_the_length_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ImageUrlError, match="8192"):
        parse_url("http://" + "@" * 50_000, RULES, param=PARAM)


@pytest.mark.parametrize("port", [22, 8080, 0, 65535])
def test_port_must_be_allowed(port: int) -> None:
    with pytest.raises(ImageBlockedError, match="80, 443"):
        parse_url(f"http://example.com:{port}/", RULES, param=PARAM)


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("example.com", True),
        ("EXAMPLE.com.", True),
        ("img.example.com", False),
        ("cdn.example.org", True),
        ("a.cdn.example.org", True),
        ("example.org", False),
        ("notexample.com", False),
        ("evilexample.org", False),
        ("8.8.8.8", False),
    ],
)
def test_host_must_be_on_the_list(host: str, is_allowed: bool) -> None:
    rules = UrlRules(ports=frozenset({80}), hosts=("Example.com", ".example.org"))
    if is_allowed:
        parse_url(f"http://{host}/", rules, param=PARAM)
    else:
        with pytest.raises(ImageBlockedError):
            parse_url(f"http://{host}/", rules, param=PARAM)


@given(st.text(max_size=40), st.text(max_size=40))
def test_rebuilt_url_parses_to_itself(host: str, rest: str) -> None:
    try:
        parsed = parse_url(f"http://{host}/{rest}", RULES, param=PARAM)
    except (ImageUrlError, ImageBlockedError):
        return
    assert parse_url(parsed.url, RULES, param=PARAM) == parsed
    assert re.fullmatch(r"[!-~]+", parsed.url)
    assert isinstance(parsed, FetchUrl)
