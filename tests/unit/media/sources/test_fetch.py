import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from internvl_server.errors import (
    EngineOverloadedError,
    ImageBlockedError,
    ImageError,
    ImageFetchError,
    ImageFetchTimeoutError,
    ImageTooLargeError,
    ImageUrlError,
)
from internvl_server.media.sources.fetch import MediaFetcher
from internvl_server.settings import MediaSettings

from tests.unit.media.conftest import PARAM, StubHost

BODY = b"\x89PNG the bytes of an image"


@pytest.fixture
async def fetcher(settings: MediaSettings) -> AsyncIterator[MediaFetcher]:
    fetcher = MediaFetcher(settings)
    yield fetcher
    await fetcher.aclose()


async def fetch_with(settings: MediaSettings, url: str, **changes: Any) -> bytes:
    fetcher = MediaFetcher(settings.model_copy(update=changes))
    try:
        return await fetcher.fetch(url, param=PARAM)
    finally:
        await fetcher.aclose()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, ...]) -> list[str]:
    """Answer each look-up with the next tuple of addresses; the last one again and again."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        addresses = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


class TestDelivery:
    async def test_body_is_returned(self, host: StubHost, fetcher: MediaFetcher) -> None:
        host.reply(BODY, "Content-Type: image/png")
        assert await fetcher.fetch(host.url("/a?b=c"), param=PARAM) == BODY

    async def test_request_discloses_nothing(
        self,
        host: StubHost,
        fetcher: MediaFetcher,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("default login me password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        host.reply(BODY, "Set-Cookie: session=1")
        for _ in range(2):
            await fetcher.fetch(host.url("/a?b=c#d"), param=PARAM)
        for head in host.requests:
            lines = head.decode().lower().split("\r\n")
            assert lines[0] == "get /a?b=c http/1.1"
            assert f"host: 127.0.0.1:{host.port}" in lines
            assert "accept-encoding: identity" in lines
            assert not [line for line in lines if line.startswith(("authorization", "cookie"))]
        assert host.num_connections == 2

    @pytest.mark.parametrize(
        "headers",
        [
            ("Content-Type: IMAGE/PNG; charset=x",),
            ("Content-Type: application/octet-stream",),
            ("Content-Type: binary/octet-stream",),
            ("Content-Encoding: identity",),
            (),
        ],
    )
    async def test_head_is_accepted(
        self, host: StubHost, fetcher: MediaFetcher, headers: tuple[str, ...]
    ) -> None:
        host.reply(BODY, *headers)
        assert await fetcher.fetch(host.url(), param=PARAM) == BODY

    async def test_chunked_and_unsized_bodies(self, host: StubHost, fetcher: MediaFetcher) -> None:
        host.answer = host.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"3\r\nabc\r\n",
            b"2\r\nde\r\n0\r\n\r\n",
        )
        assert await fetcher.fetch(host.url(), param=PARAM) == b"abcde"
        host.answer = host.send(b"HTTP/1.0 200 OK\r\n\r\n", b"abc", b"de")
        assert await fetcher.fetch(host.url(), param=PARAM) == b"abcde"

    @pytest.mark.parametrize(
        ("answer", "body"),
        [
            (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nabc", b"abc"),
            (b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", b"abc"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n", b"abc"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 500 No\r\n\r\nd", b"abc"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 100 No\r\n\r\n", b"abc"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc" + b"\r\nX: y\r\n" * 300, b"abc"),
            (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\nabc", b"abc"),
        ],
    )
    async def test_unusual_answers_are_read(
        self, host: StubHost, fetcher: MediaFetcher, answer: bytes, body: bytes
    ) -> None:
        host.answer = host.send(answer)
        assert await fetcher.fetch(host.url(), param=PARAM) == body

    @pytest.mark.parametrize("num_hang_ups", [1, 2])
    async def test_a_host_that_hangs_up_is_asked_once_more(
        self, host: StubHost, fetcher: MediaFetcher, num_hang_ups: int
    ) -> None:
        async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
            if host.num_connections > num_hang_ups:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")

        host.answer = answer
        if num_hang_ups == 1:
            assert await fetcher.fetch(host.url(), param=PARAM) == b"abc"
        else:
            with pytest.raises(ImageFetchError):
                await fetcher.fetch(host.url(), param=PARAM)
        assert host.num_connections == 2

    @pytest.mark.parametrize(
        "answer", [b"HTTP/1.1", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na"]
    )
    async def test_an_answer_that_has_begun_is_not_asked_for_again(
        self, host: StubHost, fetcher: MediaFetcher, answer: bytes
    ) -> None:
        host.answer = host.send(answer)
        with pytest.raises(ImageFetchError):
            await fetcher.fetch(host.url(), param=PARAM)
        assert host.num_connections == 1


class TestMisbehavingHost:
    async def test_thousands_of_headers_are_refused(
        self, host: StubHost, fetcher: MediaFetcher
    ) -> None:
        host.answer = host.send(b"HTTP/1.1 200 OK\r\n" + b"x:\r\n" * 10_000 + b"\r\nabc")
        with pytest.raises(ImageFetchError):
            await fetcher.fetch(host.url(), param=PARAM)

    @pytest.mark.parametrize(
        "flood",
        [
            b"1\r\nx\r\n" * 100_000,
            b"1;" + b"x" * 200_000 + b"\r\nx\r\n0\r\n\r\n",
            b"0\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        ],
    )
    async def test_framing_without_end_is_refused(
        self, host: StubHost, fetcher: MediaFetcher, flood: bytes
    ) -> None:
        host.answer = host.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", flood)
        with pytest.raises(ImageFetchError):
            await fetcher.fetch(host.url(), param=PARAM)

    @pytest.mark.parametrize(
        "status",
        ["201 Created", "204 No Content", "206 Partial", "304 Not Modified", "403 No", "404 Not Found",
         "418 Teapot", "429 Slow", "500 Oops", "503 Busy"],
    )  # fmt: skip
    async def test_status_other_than_200(
        self, host: StubHost, fetcher: MediaFetcher, status: str
    ) -> None:
        host.reply(b"", status=status)
        with pytest.raises(ImageFetchError, match=f"status {status[:3]}") as error:
            await fetcher.fetch(host.url(), param=PARAM)
        assert error.value.param == PARAM

    async def test_the_part_for_a_video_is_named(
        self, host: StubHost, fetcher: MediaFetcher
    ) -> None:
        host.reply(BODY, "Content-Type: video/mp4")
        with pytest.raises(ImageFetchError, match="'video_url' part"):
            await fetcher.fetch(host.url(), param=PARAM)

    @pytest.mark.parametrize(
        "header",
        [
            "Content-Type: text/html",
            "Content-Type: application/json",
            "Content-Type: video/mp4",
            "Content-Encoding: gzip",
            "Content-Encoding: br",
            "Content-Encoding: zstd",
            "Content-Encoding: gzip, gzip, gzip",
            "Content-Encoding: identity, gzip",
            "Content-Length: -5",
            "Content-Length: 5, 6",
            "Content-Length: many",
            f"Content-Length: {len(BODY) + 1}",
            f"Content-Length: {len(BODY)}\r\nContent-Length: 7",
            f"Content-Length: {len(BODY)}\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: chunked",
            "Broken header line",
            "Long: " + "x" * 200_000,
            "\r\n".join(["X: y"] * 10_000),
            "\r\n".join(["X:"] * 300),
        ],
    )
    async def test_head_is_refused(
        self, host: StubHost, fetcher: MediaFetcher, header: str
    ) -> None:
        host.reply(BODY, header)
        with pytest.raises(ImageFetchError):
            await fetcher.fetch(host.url(), param=PARAM)

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"SSH-2.0-x\r\n\r\n", b"\0" * 100])
    async def test_answer_that_is_not_http(
        self, host: StubHost, fetcher: MediaFetcher, answer: bytes
    ) -> None:
        host.answer = host.send(answer)
        with pytest.raises(ImageFetchError):
            await fetcher.fetch(host.url(), param=PARAM)

    async def test_connection_is_refused(self, fetcher: MediaFetcher, host: StubHost) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            settings = fetcher._settings.model_copy(update={"allowed_ports": (port,)})
            with pytest.raises(ImageFetchError) as error:
                await fetch_with(settings, f"http://127.0.0.1:{port}/")
        assert "127.0.0.1" not in error.value.message

    async def test_declared_length_over_the_limit_is_not_read(
        self, host: StubHost, settings: MediaSettings
    ) -> None:
        host.answer = host.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")
        with pytest.raises(ImageTooLargeError, match="1000 bytes"):
            await fetch_with(settings, host.url(), max_image_bytes=1000)

    async def test_limit_is_inclusive(self, host: StubHost, settings: MediaSettings) -> None:
        host.reply(b"x" * 1000)
        assert len(await fetch_with(settings, host.url(), max_image_bytes=1000)) == 1000

    async def test_endless_body_is_cut_at_the_limit(
        self, host: StubHost, settings: MediaSettings
    ) -> None:
        num_sent = 0

        async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
            nonlocal num_sent
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                num_sent += 4096
                await writer.drain()

        host.answer = answer
        with pytest.raises(ImageTooLargeError):
            await fetch_with(settings, host.url(), max_image_bytes=100_000)
        assert num_sent < 20_000_000


class TestDeadline:
    @pytest.mark.parametrize(
        "beginning",
        [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"],
    )
    @pytest.mark.parametrize("drips", [True, False])
    async def test_host_that_stalls(
        self, host: StubHost, settings: MediaSettings, beginning: bytes, drips: bool
    ) -> None:
        async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(beginning)
            rest = iter(b"HTTP/1.1 200 OK" if not beginning else b"x" * 1000)
            while True:
                await asyncio.sleep(0.1)
                if drips:
                    writer.write(bytes([next(rest)]))
                    await writer.drain()

        host.answer = answer
        with pytest.raises(ImageFetchTimeoutError) as error:
            await fetch_with(settings, host.url(), fetch_timeout_s=0.3)
        assert error.value.param == PARAM

    async def test_redirects_share_one_deadline(
        self, host: StubHost, settings: MediaSettings
    ) -> None:
        async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.15)
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n")

        host.answer = answer
        with pytest.raises(ImageFetchTimeoutError):
            await fetch_with(settings, host.url(), fetch_timeout_s=0.4, max_redirects=100)

    async def test_name_server_that_stalls(
        self, settings: MediaSettings, monkeypatch: pytest.MonkeyPatch, host: StubHost
    ) -> None:
        import threading

        release = threading.Event()

        def getaddrinfo(*_: object, **__: object) -> list[Any]:
            release.wait(10)
            raise OSError

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        try:
            with pytest.raises(ImageFetchTimeoutError):
                await fetch_with(settings, "http://example.com/", resolve_timeout_s=0.1)
        finally:
            release.set()

    async def test_no_slot_in_time_is_overload(
        self, host: StubHost, settings: MediaSettings
    ) -> None:
        arrived = asyncio.Event()

        async def answer(_head: bytes, _writer: asyncio.StreamWriter) -> None:
            arrived.set()
            await asyncio.sleep(60)

        host.answer = answer
        fetcher = MediaFetcher(
            settings.model_copy(update={"max_fetches": 1, "fetch_timeout_s": 0.05})
        )
        fetcher._settings = settings.model_copy(update={"fetch_timeout_s": 600})
        first = asyncio.create_task(fetcher.fetch(host.url(), param="first"))
        await arrived.wait()
        with pytest.raises(EngineOverloadedError):
            await fetcher.fetch(host.url(), param="second")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        host.reply(BODY)
        fetcher._settings = settings
        assert await fetcher.fetch(host.url(), param="third") == BODY
        await fetcher.aclose()

    async def test_waiting_for_a_slot_takes_nothing_from_the_hosts_time(
        self, host: StubHost, settings: MediaSettings
    ) -> None:
        host.reply(BODY)
        limits = {"max_fetches": 1, "fetch_timeout_s": 2.0}
        fetcher = MediaFetcher(settings.model_copy(update=limits))
        fetcher._slots.wait_s = 60
        with fetcher._slots.reserve_now(1):
            waiting = asyncio.create_task(fetcher.fetch(host.url(), param=PARAM))
            await asyncio.sleep(2.1)
        assert await waiting == BODY
        await fetcher.aclose()

    async def test_cancelled_fetch_frees_its_slot(
        self, host: StubHost, settings: MediaSettings
    ) -> None:
        arrived = asyncio.Event()

        async def answer(_head: bytes, _writer: asyncio.StreamWriter) -> None:
            arrived.set()
            await asyncio.sleep(60)

        host.answer = answer
        fetcher = MediaFetcher(settings.model_copy(update={"max_fetches": 1}))
        task = asyncio.create_task(fetcher.fetch(host.url(), param=PARAM))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        host.reply(BODY)
        assert await fetcher.fetch(host.url(), param=PARAM) == BODY
        await fetcher.aclose()


class TestAddress:
    async def test_default_settings_do_not_reach_loopback(self, host: StubHost) -> None:
        settings = MediaSettings(allowed_ports=(80, 443, host.port))
        for name in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "localhost"):
            with pytest.raises((ImageBlockedError, ImageFetchError)) as error:
                await fetch_with(settings, f"http://{name}:{host.port}/")
            assert "127" not in error.value.message
        assert host.num_connections == 0

    async def test_remote_images_can_be_switched_off(
        self, host: StubHost, settings: MediaSettings
    ) -> None:
        with pytest.raises(ImageBlockedError):
            await fetch_with(settings, host.url(), allow_remote=False)
        assert host.num_connections == 0

    async def test_malformed_url_is_not_fetched(
        self, host: StubHost, fetcher: MediaFetcher
    ) -> None:
        with pytest.raises(ImageUrlError):
            await fetcher.fetch(f"http://a\\@127.0.0.1:{host.port}/", param=PARAM)
        assert host.num_connections == 0

    @pytest.mark.parametrize(
        "addresses",
        [("10.0.0.1",), ("8.8.8.8", "10.0.0.1"), ("10.0.0.1", "8.8.8.8"), ("64:ff9b::a00:1",),
         ("2002:7f00:1::",), ("fe80::1%lo",)],
    )  # fmt: skip
    async def test_every_answer_must_be_public(
        self,
        settings: MediaSettings,
        monkeypatch: pytest.MonkeyPatch,
        addresses: tuple[str, ...],
        host: StubHost,
    ) -> None:
        resolve_to(monkeypatch, addresses)
        with pytest.raises(ImageBlockedError):
            await fetch_with(settings, "http://example.com/")

    async def test_too_many_answers(
        self, settings: MediaSettings, monkeypatch: pytest.MonkeyPatch, host: StubHost
    ) -> None:
        resolve_to(monkeypatch, tuple(f"8.8.{i // 250}.{i % 250}" for i in range(1000)))
        with pytest.raises(ImageFetchError):
            await fetch_with(settings, "http://example.com/")

    async def test_the_checked_address_is_dialled(
        self, host: StubHost, fetcher: MediaFetcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = resolve_to(monkeypatch, ("127.0.0.1",), ("10.0.0.1",))
        host.reply(BODY)
        assert await fetcher.fetch(f"http://example.com:{host.port}/", param=PARAM) == BODY
        assert asked == ["example.com"]
        assert f"Host: example.com:{host.port}\r\n".encode() in host.requests[0]

    async def test_next_address_is_tried(
        self, host: StubHost, fetcher: MediaFetcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolve_to(monkeypatch, ("127.0.0.2", "127.0.0.3", "127.0.0.1"))
        host.reply(BODY)
        assert await fetcher.fetch(f"http://example.com:{host.port}/", param=PARAM) == BODY

    @pytest.mark.parametrize("error", [socket.gaierror(-2, "no"), UnicodeError("label too long")])
    async def test_unknown_host(
        self,
        settings: MediaSettings,
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        host: StubHost,
    ) -> None:
        def getaddrinfo(*_: object, **__: object) -> list[Any]:
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with pytest.raises(ImageFetchError, match="cannot be found"):
            await fetch_with(settings, "http://example.com/")


class TestRedirect:
    def redirect(self, host: StubHost, *locations: str, status: int = 302) -> None:
        """Redirect from hop to hop, then deliver."""
        rest = list(locations)

        async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
            if rest:
                head = f"HTTP/1.1 {status} Moved\r\nLocation: {rest.pop(0)}\r\nContent-Length: 0"
                writer.write(head.encode() + b"\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")

        host.answer = answer

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_is_followed(self, host: StubHost, fetcher: MediaFetcher, status: int) -> None:
        self.redirect(host, "/b", "c?d=e", host.url("/f"), status=status)
        assert await fetcher.fetch(host.url("/a/"), param=PARAM) == b"body"
        targets = [head.split()[1] for head in host.requests]
        assert targets == [b"/a/", b"/b", b"/c?d=e", b"/f"]

    @pytest.mark.parametrize(
        ("location", "target"),
        [
            ("/bild-ü.png", b"/bild-%C3%BC.png"),
            ("/写真.png", b"/%E5%86%99%E7%9C%9F.png"),
            ("/a b.png?c=%20d ", b"/a%20b.png?c=%20d"),
        ],
    )
    async def test_a_target_that_is_not_encoded(
        self, host: StubHost, fetcher: MediaFetcher, location: str, target: bytes
    ) -> None:
        self.redirect(host, location)
        assert await fetcher.fetch(host.url(), param=PARAM) == b"body"
        assert host.requests[-1].split()[1] == target

    async def test_too_many(self, host: StubHost, fetcher: MediaFetcher) -> None:
        self.redirect(host, *["/again"] * 10)
        with pytest.raises(ImageFetchError, match="3 times"):
            await fetcher.fetch(host.url(), param=PARAM)
        assert host.num_connections == 4

    @pytest.mark.parametrize(
        "location",
        ["http://10.0.0.1/", "//10.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest/",
         "https://192.168.0.1/", "http://127.0.0.1:22/"],
    )  # fmt: skip
    async def test_every_hop_is_checked(
        self, host: StubHost, fetcher: MediaFetcher, location: str
    ) -> None:
        self.redirect(host, "/first", location)
        with pytest.raises(ImageBlockedError):
            await fetcher.fetch(host.url(), param=PARAM)
        assert host.num_connections == 2

    @pytest.mark.parametrize(
        "location",
        ["", "file:///etc/passwd", "ftp://example.com/", "http://", "http://a\\@b/", "http://a@b/",
         "data:image/png;base64,AAAA", "http://[", "http://exa mple/", "http://exämple/", "\\\\10.0.0.1\\x"],
    )  # fmt: skip
    async def test_malformed_target(
        self, host: StubHost, fetcher: MediaFetcher, location: str
    ) -> None:
        self.redirect(host, location, *["/again"] * 5)
        with pytest.raises(ImageFetchError):
            await fetcher.fetch(host.url(), param=PARAM)

    async def test_without_location(self, host: StubHost, fetcher: MediaFetcher) -> None:
        host.reply(b"", status="302 Found")
        with pytest.raises(ImageFetchError, match="missing"):
            await fetcher.fetch(host.url(), param=PARAM)

    async def test_each_hop_is_resolved_again(
        self, host: StubHost, fetcher: MediaFetcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolve_to(monkeypatch, ("127.0.0.1",), ("10.0.0.1",))
        self.redirect(host, "/again")
        with pytest.raises(ImageBlockedError):
            await fetcher.fetch(f"http://example.com:{host.port}/", param=PARAM)
        assert host.num_connections == 1


def make_certificate(folder: Path, name: str, *, days: int = 1) -> tuple[Path, Path]:
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days {days} "
        f"-subj /CN={name} -addext subjectAltName=DNS:{name} -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return key, certificate


class TestTls:
    @pytest.fixture
    async def tls_host(self, host: StubHost, tmp_path: Path) -> AsyncIterator[tuple[int, Path]]:
        """The port of a TLS host whose certificate is for images.example, and that certificate."""
        key, certificate = make_certificate(tmp_path, "images.example")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=context)
        host.reply(BODY)
        yield server.sockets[0].getsockname()[1], certificate
        host.stop()
        server.close()
        await server.wait_closed()

    async def fetch(
        self, settings: MediaSettings, url: str, port: int, trusted: Path | None
    ) -> bytes:
        settings = settings.model_copy(update={"allowed_ports": (port, *settings.allowed_ports)})
        fetcher = MediaFetcher(settings)
        if trusted is not None:
            fetcher._tls = ssl.create_default_context(cafile=trusted)
        try:
            return await fetcher.fetch(url, param=PARAM)
        finally:
            await fetcher.aclose()

    async def test_certificate_is_checked_for_the_name(
        self,
        settings: MediaSettings,
        tls_host: tuple[int, Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        port, certificate = tls_host
        resolve_to(monkeypatch, ("127.0.0.1",))
        url = f"https://images.example:{port}/"
        assert await self.fetch(settings, url, port, certificate) == BODY
        with pytest.raises(ImageFetchError):
            await self.fetch(settings, f"https://other.example:{port}/", port, certificate)
        with pytest.raises(ImageFetchError):
            await self.fetch(settings, url, port, None)

    async def test_no_plain_text_after_https(
        self,
        settings: MediaSettings,
        tls_host: tuple[int, Path],
        host: StubHost,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        port, certificate = tls_host
        resolve_to(monkeypatch, ("127.0.0.1",))
        host.reply(b"", f"Location: {host.url()}", status="302 Found")
        with pytest.raises(ImageBlockedError, match="https to http"):
            await self.fetch(settings, f"https://images.example:{port}/", port, certificate)

    async def test_plain_host_behind_https(self, settings: MediaSettings, host: StubHost) -> None:
        with pytest.raises(ImageFetchError):
            await fetch_with(settings, host.url().replace("http:", "https:"), fetch_timeout_s=2)
        assert not host.requests


async def test_errors_never_quote_the_host(host: StubHost, fetcher: MediaFetcher) -> None:
    host.reply(b"secret-text", status="500 secret-reason")
    with pytest.raises(ImageError) as error:
        await fetcher.fetch(host.url("/secret-path"), param=PARAM)
    for word in ("secret", "127.0.0.1", str(host.port), "0x"):
        assert word not in error.value.message
