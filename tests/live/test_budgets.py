"""What requests may hold together, whose turn it is, and how long a request may take, in the whole server."""

import asyncio
import contextlib
import http.server
import io
import json
import os
import socket
import statistics
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from internvl_server.core import PixelType
from internvl_server.pipeline import Budgets
from internvl_server.settings.limits import LimitSettings
from PIL import Image

from tests.live.test_process import serving
from tests.live.test_streams import asked, hold_tokens, wait_until
from tests.live_server import LiveServer

MB = 1 << 20
HELLO: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def large_png(num_bytes: int) -> bytes:
    """A picture whose file has at least so many bytes, because its pixels are noise."""
    side = int((num_bytes / 3) ** 0.5) + 8
    image = Image.frombytes("RGB", (side, side), os.urandom(side * side * 3))
    with io.BytesIO() as file:
        image.save(file, "PNG", compress_level=0)
        return file.getvalue()


class MediaHost:
    """Serves one file at any path; `hold` stops it within the file until `go` is set."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.num_requests = 0
        self.go = threading.Event()
        self.go.set()
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.num_requests += 1
                self.send_response(200)
                self.send_header("Content-Type", "image/png")
                self.send_header("Content-Length", str(len(host.body)))
                self.end_headers()
                self.wfile.write(memoryview(host.body)[:1000])
                host.go.wait(120)
                with contextlib.suppress(OSError):
                    self.wfile.write(memoryview(host.body)[1000:])

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def url(self, name: object) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def settings(self) -> dict[str, Any]:
        return {
            "allowed_private_networks": ["127.0.0.0/8"],
            "allowed_ports": [self.port],
            "cache_bytes": 0,
        }


@pytest.fixture
def host() -> Iterator[MediaHost]:
    host = MediaHost(large_png(3 * MB))
    yield host
    host.close()


def with_images(*urls: str, **fields: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls]
    return HELLO | {"messages": [{"role": "user", "content": parts}], "max_tokens": 2} | fields


def post_all(server: LiveServer, bodies: list[dict[str, Any]]) -> list[httpx2.Response]:
    with ThreadPoolExecutor(len(bodies)) as threads:
        return list(threads.map(server.post, bodies))


class Clock:
    """The time by which the server judges how long a request would wait; it passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("sharing", "caller"):
        monkeypatch.setattr(f"internvl_server.concurrency.{module}.time", clock)
    return clock


def is_free(budget: Any) -> bool:
    return not any(budget.in_use) and not budget.num_waiting


def assert_nothing_is_held(server: LiveServer) -> None:
    server.wait_idle()
    budgets = server.app.state.services.budgets
    for budget in (budgets.requests, budgets.bodies, budgets.media, budgets.slots):
        wait_until(partial(is_free, budget))


class Peak:
    """The growth of a process's memory while it serves a burst."""

    def __init__(self, pid: int) -> None:
        self._statm = Path(f"/proc/{pid}/statm")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._before = self._rss()
        self.growth = 0

    def _rss(self) -> int:
        return int(self._statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self.growth = max(self.growth, self._rss() - self._before)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_a_burst_of_fetched_pictures_stays_within_its_memory(
    tiny_checkpoint: Path, host: MediaHost
) -> None:
    options = {f"media.{name}": value for name, value in host.settings().items()} | {
        "limits.max_fetched_bytes_in_flight": 64 * MB,
        "limits.max_tiles_in_flight": 32,
        "limits.queue_timeout_s": 240,
        "media.fetch_timeout_s": 240,
    }
    settings = [
        word for name, value in options.items() for word in ("--set", f"{name}={json.dumps(value)}")
    ]
    bodies = [with_images(*(host.url(f"{r}-{i}") for i in range(8))) for r in range(16)]
    with serving(tiny_checkpoint, *settings) as (process, url), ThreadPoolExecutor(16) as threads:

        def post(body: dict[str, Any]) -> int:
            return httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=240).status_code

        assert post(HELLO) == 200
        with Peak(process.pid) as peak:
            assert list(threads.map(post, bodies)) == [200] * 16
    assert host.num_requests == 16 * 8
    # The burst has 384 MB. Beside the 64 MB there are 32 tiles and the memory of the decoders' inputs.
    assert peak.growth < (64 + 32 * 2.5 + 2 * 16 + 40) * MB


def test_requests_that_each_hold_a_part_of_their_tiles_do_not_wait_for_each_other(
    start_server: Callable[..., LiveServer], host: MediaHost
) -> None:
    """A part is reserved until the sizes of images are known; several answers may take more."""
    host.go.clear()
    server = start_server(media=host.settings(), limits={"max_tiles_in_flight": 80})
    budget = server.app.state.services.budgets.media
    bodies = [with_images(host.url(number), n=4) for number in range(8)]
    for body in bodies:
        body["messages"][0]["content"][0]["image_url"]["detail"] = "high"
    with ThreadPoolExecutor(1) as thread:
        answers = thread.submit(post_all, server, bodies)
        wait_until(lambda: budget.in_use[1] == 40)  # twice as large as those of other engines
        host.go.set()
        assert [answer.status_code for answer in answers.result()] == [200] * 8
    assert_nothing_is_held(server)


@pytest.mark.parametrize(("pixel_type", "num_tiles"), [("float32", 40), ("bfloat16", 80)])
def test_tiles_are_counted_by_their_memory(pixel_type: str, num_tiles: int) -> None:
    limits = LimitSettings(max_tiles_in_flight=80)
    budgets = Budgets(limits, num_slots=1, pixel_type=PixelType(pixel_type))
    assert budgets.media.limits[1] == num_tiles


SHORT = HELLO | {"max_tokens": 1}


def test_a_burst_after_a_lull_is_served(
    start_server: Callable[..., LiveServer], clock: Clock
) -> None:
    server = start_server(
        engine={"stall_timeout_s": 3600, "echo": {"hang_after_tokens": 2}},
        limits={"max_expected_wait_s": 10},
    )
    with asked(server):  # one request runs all the time
        wait_until(lambda: server.engine._hung_since)
        assert server.post(SHORT).status_code == 200
        clock.now_s += 100
        may_be_made = hold_tokens(server)
        with ThreadPoolExecutor(14) as threads:
            burst = [threads.submit(server.post, SHORT) for _ in range(14)]
            wait_until(
                lambda: server.gate.num_in_flight == 15 or any(answer.done() for answer in burst)
            )
            may_be_made.release(100)
        assert [answer.result().status_code for answer in burst] == [200] * 14
    assert_nothing_is_held(server)


@contextlib.contextmanager
def queue_that_stands(
    server: LiveServer, clock: Clock, post: Callable[[], int]
) -> Iterator[Callable[[], "Future[int]"]]:
    """Let 30 requests come before the pace is known, and then one end in each second, of which two pass.

    Gives what sends one more. Afterwards all are served.
    """
    may_be_made = hold_tokens(server)
    slots = server.app.state.services.budgets.slots
    with ThreadPoolExecutor(31) as threads:
        codes = [threads.submit(post) for _ in range(30)]
        wait_until(lambda: slots.in_use[0] + slots.num_waiting == 30)
        may_be_made.release(3)  # each request takes two, for its start and its token
        wait_until(lambda: server.gate.num_in_flight == 28)
        clock.now_s += 2
        try:
            yield partial(threads.submit, post)
        finally:
            may_be_made.release(1000)
    assert [code.result() for code in codes] == [200] * 30
    assert_nothing_is_held(server)


@pytest.mark.parametrize(("longest_s", "is_refused"), [(20, True), (40, False)])
def test_a_queue_that_stands_is_kept_short(
    start_server: Callable[..., LiveServer], clock: Clock, longest_s: float, is_refused: bool
) -> None:
    """The flood may fill the queue before the pace is known, and not again afterwards."""
    server = start_server(
        engine={"max_num_seqs": 1},
        limits={"max_expected_wait_s": longest_s},
    )
    with queue_that_stands(server, clock, lambda: server.post(SHORT).status_code) as post:
        one_more = post()
        if is_refused:
            assert one_more.result() == 429
        else:
            wait_until(lambda: server.gate.num_in_flight == 29)
    assert one_more.result() == (429 if is_refused else 200)


def test_keys_without_a_request_do_not_lengthen_the_expected_wait(
    start_server: Callable[..., LiveServer], clock: Clock
) -> None:
    keys = [f"key-{number:02}-0123456789" for number in range(20)]
    server = start_server(
        engine={"max_num_seqs": 1},
        server={"api_keys": keys},
        limits={"max_expected_wait_s": 40},
    )

    def post(key: str = keys[0]) -> int:
        return server.post(SHORT, headers={"authorization": f"Bearer {key}"}).status_code

    assert {post(key) for key in keys} == {200}
    with queue_that_stands(server, clock, post) as post_one:
        one_more = post_one()
        wait_until(lambda: one_more.done() or server.gate.num_in_flight == 29)
    assert one_more.result() == 200


def test_what_does_not_fit_in_time_is_refused_before_it_is_fetched(
    start_server: Callable[..., LiveServer], host: MediaHost
) -> None:
    host.go.clear()
    server = start_server(
        media=host.settings(),
        limits={"max_fetched_bytes_in_flight": 5 * MB, "queue_timeout_s": 0.2},
    )
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(server.post, with_images(host.url("first")))
        wait_until(lambda: host.num_requests)
        refused = post_all(server, [with_images(host.url(number)) for number in range(6)])
        assert {r.status_code for r in refused} == {429}
        assert {r.json()["error"]["code"] for r in refused} == {"engine_overloaded"}
        assert all(1 <= int(r.headers["retry-after"]) <= 30 for r in refused)
        assert server.post(HELLO).status_code == 200  # texts are not concerned
        host.go.set()
        assert first.result().status_code == 200
    assert host.num_requests == 1
    assert_nothing_is_held(server)


def test_bodies_wait_for_memory_before_they_are_read(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(limits={"max_body_bytes_in_flight": MB, "queue_timeout_s": 0.2})
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(POST + b"Content-Length: 900000\r\n\r\n{")
        wait_until(lambda: any(server.app.state.services.budgets.bodies.in_use))
        long = HELLO | {"messages": [{"role": "user", "content": "x" * 200_000}]}
        assert server.post(long).status_code == 429
        assert server.post(HELLO).status_code == 200
    assert_nothing_is_held(server)


def test_a_client_that_leaves_while_its_body_waits_gives_its_place_back(
    start_server: Callable[..., LiveServer],
) -> None:
    """Its body is not read meanwhile, so that the end of the connection is not read either."""
    server = start_server(limits={"max_body_bytes_in_flight": MB, "queue_timeout_s": 600})
    with (
        socket.create_connection(("127.0.0.1", server.port)) as slow,
        socket.create_connection(("127.0.0.1", server.port)) as waiting,
    ):
        slow.sendall(POST + b"Content-Length: 900000\r\n\r\n{")
        bodies = server.app.state.services.budgets.bodies
        wait_until(lambda: any(bodies.in_use))
        waiting.sendall(POST + b"Content-Length: 900000\r\n\r\n" + b" " * 200_000)
        wait_until(lambda: bodies.num_waiting)
        assert server.gate.num_in_flight == 2
        waiting.close()
        wait_until(lambda: not bodies.num_waiting and server.gate.num_in_flight == 1)
    assert_nothing_is_held(server)


def test_a_body_in_chunks_reserves_what_has_arrived(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(limits={"max_body_bytes_in_flight": 4 * MB})
    bodies = server.app.state.services.budgets.bodies
    chunk = b"%x\r\n%b\r\n" % (MB // 2, b" " * (MB // 2))
    whole = json.dumps(HELLO).encode()
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as first,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as second,
    ):
        for client in (first, second):
            client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        wait_until(lambda: bodies.in_use[0] == 2 * MB)
        first.sendall(chunk + b"1\r\n \r\n")  # has more than a MB now
        wait_until(lambda: bodies.in_use[0] > 3 * MB)
        second.sendall(chunk + b"1\r\n \r\n")  # needs as much, which is not there
        assert second.recv(4096).startswith(b"HTTP/1.1 429 ")
        first.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(whole), whole))
        assert first.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert_nothing_is_held(server)


def test_the_deadline_counts_while_a_body_arrives(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(limits={"request_timeout_s": 0.3})
    for path in (b"/v1/chat/completions", b"/v1/chat/completions/input_tokens", b"/tokenize"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as slow:
            head = POST.replace(b"/v1/chat/completions", path)
            slow.sendall(head + b"Content-Length: 900000\r\n\r\n{")
            assert slow.recv(4096).startswith(b"HTTP/1.1 504 ")
    assert_nothing_is_held(server)


def test_too_many_requests_are_refused_without_their_bodies(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(
        limits={"max_in_flight": 1}, engine={"echo": {"first_token_delay_s": 600}}
    )
    stream = server.client().chat.completions.create(**HELLO, stream=True)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as other:
        other.sendall(POST + b"Content-Length: 30000000\r\n\r\n")
        answer = other.recv(4096)
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: " in answer.lower()
    stream.close()
    assert_nothing_is_held(server)


def test_a_request_waits_for_the_engine_for_a_limited_time(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(
        engine={"max_num_seqs": 1, "echo": {"first_token_delay_s": 600}},
        limits={"queue_timeout_s": 0.2},
    )
    # One runs, and another one waits in the engine to follow at once.
    streams = [server.client().chat.completions.create(**HELLO, stream=True) for _ in range(2)]
    assert server.post(HELLO | {"stream": True}).status_code == 429
    assert server.engine.num_started == 2
    for stream in streams:
        stream.close()
    assert_nothing_is_held(server)


def test_more_answers_than_the_engine_computes_are_given(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(engine={"max_num_seqs": 1})
    answer = server.client().chat.completions.create(**HELLO, n=5)
    assert len(answer.choices) == 5
    texts = server.client().completions.create(model="tiny", prompt=["a b", "c", "d e"], n=2)
    assert len(texts.choices) == 6
    assert_nothing_is_held(server)


async def test_the_flood_of_one_key_does_not_hold_up_another(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(
        server={"api_keys": ["flood-key", "other-key"]},
        engine={"max_num_seqs": 4, "echo": {"first_token_delay_s": 0.2}},
        limits={"max_in_flight": 40},
    )
    options: dict[str, Any] = {"base_url": f"{server.url}/v1", "max_retries": 0, "timeout": 60}
    done = {"flood": 0, "refused": 0}
    is_over = False

    async def flood(client: openai.AsyncOpenAI) -> None:
        while not is_over:
            try:
                await client.chat.completions.create(**HELLO)
                done["flood"] += 1
            except openai.RateLimitError:
                done["refused"] += 1
                await asyncio.sleep(0.2)

    async with (
        openai.AsyncOpenAI(api_key="flood-key", **options) as a,
        openai.AsyncOpenAI(api_key="other-key", **options) as b,
    ):
        tasks = [asyncio.create_task(flood(a)) for _ in range(26)]
        await b.chat.completions.create(**HELLO)  # from now on two keys are in use
        await asyncio.sleep(0.5)
        overtaken = []
        for _ in range(10):
            before = done["flood"]
            await b.chat.completions.create(**HELLO)
            overtaken.append(done["flood"] - before)
        is_over = True
        await asyncio.gather(*tasks)
    # About as many of the flood end meanwhile as the engine computes, and not the 20 that it has in flight;
    # but this process reads several answers at once when it has not been scheduled for a while.
    assert statistics.median(overtaken) <= 10, overtaken
    assert done["refused"] > 0
    assert_nothing_is_held(server)


def test_a_key_has_limits_of_its_own(
    start_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("small:small-key max_in_flight=1\nlarge:large-key\n")
    keys.chmod(0o600)
    server = start_server(
        server={"keys_file": keys},
        engine={"echo": {"first_token_delay_s": 600}},
    )
    small, large = server.client(api_key="small-key"), server.client(api_key="large-key")
    streams = [small.chat.completions.create(**HELLO, stream=True)]
    with pytest.raises(openai.RateLimitError):
        small.chat.completions.create(**HELLO, stream=True)
    streams += [large.chat.completions.create(**HELLO, stream=True) for _ in range(2)]
    for stream in streams:
        stream.close()
    assert_nothing_is_held(server)


@pytest.mark.parametrize("limited_by", ["client", "server"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_deadline_ends_a_running_answer(
    start_server: Callable[..., LiveServer], limited_by: str, is_stream: bool
) -> None:
    body = HELLO | {"messages": [{"role": "user", "content": "a " * 200}], "stream": is_stream}
    for seconds in (1, 2, 4, 8, 16, 32):  # until the answer begins before its time is over
        limits = {"request_timeout_s": seconds} if limited_by == "server" else {}
        headers = {"x-request-timeout": str(seconds)} if limited_by == "client" else {}
        server = start_server(engine={"echo": {"token_delay_s": 0.1}}, limits=limits)
        response = server.post(body, headers=headers)
        assert_nothing_is_held(server)
        num_chunks = response.text.count("chat.completion.chunk")
        if num_chunks > 1 if is_stream else server.engine.num_started:
            break
    if is_stream:
        assert response.status_code == 200
        assert num_chunks > 1
        assert "deadline_exceeded" in response.text
        assert "[DONE]" not in response.text
    else:
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline_exceeded"
        assert response.headers["x-should-retry"] == "false"
    assert server.engine.num_aborted == 1


@pytest.mark.parametrize(
    ("limits", "echo", "has_tokens"),
    [
        ({"first_token_timeout_s": 0.2}, {"first_token_delay_s": 600}, False),
        ({"next_token_timeout_s": 0.2}, {"hang_after_tokens": 2}, True),
    ],
)
def test_an_engine_that_gives_no_tokens_is_not_waited_for(
    start_server: Callable[..., LiveServer],
    limits: dict[str, float],
    echo: dict[str, float],
    has_tokens: bool,
) -> None:
    server = start_server(limits=limits, engine={"echo": echo})
    assert server.post(HELLO).status_code == 504
    stream = server.post(HELLO | {"stream": True}).text
    assert "deadline_exceeded" in stream
    assert (stream.count("chat.completion.chunk") > 1) is has_tokens
    assert_nothing_is_held(server)


@pytest.mark.parametrize("value", ["", "soon", "0", "-1", "nan"])
def test_a_time_that_is_no_number_is_refused(echo_server: LiveServer, value: str) -> None:
    response = echo_server.post(HELLO, headers={"x-request-timeout": value})
    assert response.status_code == 400


class TestStages:
    """A request whose time is over, or whose client has left, costs nothing more, wherever it is."""

    @pytest.fixture(params=["deadline", "departure"])
    def give_up(self, request: pytest.FixtureRequest) -> Callable[[LiveServer, Any], None]:
        def send(server: LiveServer, body: dict[str, Any]) -> None:
            if request.param == "deadline":
                response = server.post(body, headers={"x-request-timeout": "0.4"})
                assert response.status_code == 504
            else:
                with pytest.raises(httpx2.ReadTimeout):
                    httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.4)

        return send

    def test_in_the_queue_of_the_engine(
        self, start_server: Callable[..., LiveServer], give_up: Callable[[LiveServer, Any], None]
    ) -> None:
        server = start_server(engine={"max_num_seqs": 1, "echo": {"first_token_delay_s": 600}})
        streams = [server.client().chat.completions.create(**HELLO, stream=True) for _ in range(2)]
        give_up(server, HELLO)
        wait_until(lambda: server.gate.num_in_flight == 2)
        assert server.app.state.services.budgets.slots.num_waiting == 0
        assert server.engine.num_started == 2
        for stream in streams:
            stream.close()
        assert_nothing_is_held(server)

    def test_while_it_waits_for_memory(
        self,
        start_server: Callable[..., LiveServer],
        host: MediaHost,
        give_up: Callable[[LiveServer, Any], None],
    ) -> None:
        host.go.clear()
        limits = {"max_fetched_bytes_in_flight": 5 * MB}
        server = start_server(media=host.settings(), limits=limits)
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(server.post, with_images(host.url("first")))
            wait_until(lambda: host.num_requests)
            give_up(server, with_images(host.url("second")))
            wait_until(lambda: server.gate.num_in_flight == 1)
            host.go.set()
            assert first.result().status_code == 200
        assert host.num_requests == 1
        assert_nothing_is_held(server)

    def test_while_it_fetches(
        self,
        start_server: Callable[..., LiveServer],
        host: MediaHost,
        give_up: Callable[[LiveServer, Any], None],
    ) -> None:
        host.go.clear()
        server = start_server(media=host.settings())
        give_up(server, with_images(host.url("slow")))
        assert_nothing_is_held(server)
        assert server.engine.num_started == 0

    def test_while_it_waits_for_a_decoder(
        self,
        start_server: Callable[..., LiveServer],
        host: MediaHost,
        give_up: Callable[[LiveServer, Any], None],
    ) -> None:
        server = start_server(media=host.settings() | {"num_workers": 1})
        turns = server.app.state.services.media._images._pool._turns
        with turns.reserve_now(1):
            give_up(server, with_images(host.url("decoded")))
            wait_until(lambda: server.gate.num_in_flight == 0)
            assert turns.num_waiting == 0
        assert server.post(with_images(host.url("later"))).status_code == 200
        assert_nothing_is_held(server)
        assert server.engine.num_started == 1
