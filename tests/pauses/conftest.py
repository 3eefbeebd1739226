"""A server beside whose heavy requests a stream runs and `/health` is asked, and how long these wait."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from scripts.make_random_checkpoint import Shape, write_checkpoint
from tests.live.test_process import serving
from tests.live.test_streams import wait_until

MAX_GAP_S = 0.05
# Other work on the machine makes gaps too, but not each time.
NUM_TRIES = 6
# A context that texts of a megabyte are tokenised for.
SHAPE = Shape(2000, 64, 2, 4, 2, 128, 32_768, 64, 2, 2, 128, 28)
CHAT = "/v1/chat/completions"
OWN_SCHEDULE = Path("/proc/thread-self/schedstat")


def chat(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1} | fields


def as_bytes(path: str, body: Any) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps({"model": "m"} | body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Watched:
    """A server in a separate process, with a stream and a caller of `/health` that note their gaps.

    A gap is without the time in which the server's loop, or the thread that measures, waited for a core: that
    is the machine's and not the server's.
    """

    def __init__(self, pid: int, port: int) -> None:
        self._port = port
        self._schedules = (OWN_SCHEDULE, Path(f"/proc/{pid}/task/{pid}/schedstat"))
        self._gaps: tuple[list[tuple[float, float]], ...] = ([], [])
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=work, args=[gaps])
            for work, gaps in zip((self._stream, self._health), self._gaps, strict=True)
        ]

    def __enter__(self) -> "Watched":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def assert_goes_on(self, requests: Iterable[bytes]) -> bytes:
        """Send requests until stream and `/health` go on beside one of them; returns its answer."""
        gaps = []
        for data in islice(requests, NUM_TRIES):
            answer, gap = self._send(data)
            assert answer[:9] == b"HTTP/1.1 " or not answer
            assert answer[9:12] not in (b"500", b"503")
            if gap < MAX_GAP_S:
                return answer
            gaps.append(round(gap * 1000))
            time.sleep(len(gaps))  # other work may last a few seconds
        pytest.fail(f"gaps of {gaps} ms")

    def _send(self, data: bytes) -> tuple[bytes, float]:
        """The answer to a request, and the longest gap while it was served."""
        self._wait_for_gaps()  # that do not include what this process did before
        begin = time.monotonic()
        with socket.create_connection(("127.0.0.1", self._port), timeout=240) as sock:
            sender = threading.Thread(target=self._send_all, args=(sock, data))
            sender.start()
            answer = b""
            with contextlib.suppress(ConnectionError):
                while piece := sock.recv(1 << 20):
                    answer += piece
            sender.join()
        self._wait_for_gaps()
        return answer, max(gap for gaps in self._gaps for end, gap in gaps if end > begin)

    def _wait_for_gaps(self) -> None:
        """Wait until each client has noted one that ends after now."""
        now = time.monotonic()
        wait_until(lambda: all(gaps and gaps[-1][0] > now for gaps in self._gaps), timeout_s=240)

    @staticmethod
    def _send_all(sock: socket.socket, data: bytes) -> None:
        with contextlib.suppress(OSError):  # refused before it was sent
            sock.sendall(data)

    def _stream(self, gaps: list[tuple[float, float]]) -> None:
        fields = chat("hello there " * 1500, stream=True)
        fields.pop("max_tokens")
        while not self._is_over.is_set():
            with socket.create_connection(("127.0.0.1", self._port), timeout=240) as sock:
                sock.sendall(as_bytes(CHAT, fields))
                sock.recv(1 << 16)
                last = self._now()
                while not self._is_over.is_set() and sock.recv(1 << 16):
                    last = self._note(gaps, last)

    def _health(self, gaps: list[tuple[float, float]]) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=240) as sock:
            while not self._is_over.is_set():
                begin = self._now()
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = b""
                while not answer.endswith(b"}"):
                    piece = sock.recv(1 << 16)
                    assert piece, "the connection was closed"
                    answer += piece
                self._note(gaps, begin)
                time.sleep(0.005)

    def _now(self) -> tuple[float, float]:
        """The time, and for how long the threads have waited for a core."""
        waited_ns = sum(int(schedule.read_text().split()[1]) for schedule in self._schedules)
        return time.monotonic(), waited_ns / 1e9

    def _note(
        self, gaps: list[tuple[float, float]], begin: tuple[float, float]
    ) -> tuple[float, float]:
        now = self._now()
        gaps.append((now[0], now[0] - begin[0] - (now[1] - begin[1])))
        return now


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("heavy") / "m"
    write_checkpoint(folder, SHAPE, layout="hf", dtype="float32", seed=0)
    options = ("--set", "engine.echo.token_delay_s=0.005", "--set", "engine.max_num_seqs=64")
    with serving(folder, *options) as (process, url):
        assert process.stderr is not None
        log = threading.Thread(target=process.stderr.read)  # or a full pipe would stop it
        log.start()
        with Watched(process.pid, int(url.rpartition(":")[2])) as server:
            yield server
        process.kill()
        log.join()
