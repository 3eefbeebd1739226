"""Sends the cases to a server and compares what happens with what is right."""

import asyncio
import contextlib
import json
import logging
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_server.settings import DEMO_MODEL

from scripts.bad_input.cases import Case, request_of
from scripts.bad_input.hosts import ALLOWED_ADDRESS, Hosts
from scripts.load.costs import memory_bytes
from scripts.load.servers import ServerProcess, free_port

__all__ = ["Outcome", "Trial"]

_log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
_NUM_TRIES = 5
# What no answer may contain, unless the client has said it.
_LEAKS = re.compile(
    rb"0x[0-9a-f]{6,}|Traceback|site-packages|\.py\b|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}"
)
_SECRETS = re.compile(rb"data:image|[A-Za-z0-9+/]{64}|Describe the image")


@dataclass(frozen=True)
class Outcome:
    """The answer to a case, and when it came; `problem` says what is wrong with it."""

    case: Case
    status: int | None
    begin: float
    seconds: float
    problem: str | None


@dataclass
class Trial:
    """A server, hosts on loopback, and what was seen so far. A context.

    Args:
        folder: For the log and other files.
        has_key: Whether the server asks for a key.
        is_unguarded: Let the server fetch from any address, to see whether that is noticed.
        is_patient: Let the server wait for long: no case is right only once it has waited.
        ports: Ports that must be used, because the cases name them.
        idle_bytes: Memory of the server's processes before the first case.
        kept_bytes: What they have more after the last one.
        most_bytes: The most that their memory grew while a case was served, which was `most_case`.
        lags: From `measure_lags`: seconds, and the id of the case.
    """

    folder: Path
    has_key: bool = True
    is_unguarded: bool = False
    is_patient: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    idle_bytes: int = 0
    kept_bytes: int = 0
    most_bytes: int = 0
    most_case: str = ""
    lags: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = ("media", "silent", "tls", "sentinel", "closed")
        self.hosts = Hosts(self.folder, {name: free_port() for name in names} | dict(self.ports))
        self._key = secrets.token_hex(16)
        self._notes = self.folder / "notes"
        self._is_over = threading.Event()
        self._sampler = threading.Thread(target=self._sample)
        self._control_ids = _control_ids()
        self._start = 0.0
        self._peak_bytes = 0

    def __enter__(self) -> "Trial":
        self._notes.touch()
        self.hosts.__enter__()
        self._server = ServerProcess(self._command(), self.folder / "log")
        _wait(self._server, self.folder / "log")
        for _ in range(3):
            self._send_canary()
        self.idle_bytes = memory_bytes(self._server.pid)
        self._sampler.start()
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._sampler.join()
        self.exit_code = self._server.stop()[0]
        self.hosts.__exit__()

    def _command(self) -> list[str]:
        ports = [80, 443, *self.hosts.ports.values()]
        unit_s = 10 if self.is_patient else 1
        settings = {
            "server.api_keys": [self._key] if self.has_key else [],
            "media.allowed_ports": ports,
            "media.allowed_private_networks": [f"{ALLOWED_ADDRESS}/32"],
            "media.fetch_timeout_s": 3 * unit_s,
            "media.resolve_timeout_s": unit_s,
            "media.connect_timeout_s": unit_s,
            "media.num_workers": 1,
            # What is kept on purpose, up to the limits that are set, is not what the memory of requests is.
            "media.cache_bytes": 0,
            "engine.cpu.feature_cache_bytes": 0,
            "engine.cpu.enable_prefix_caching": False,
            "limits.head_timeout_s": 2 * unit_s,
            "limits.body_timeout_s": 3 * unit_s,
        }
        words = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
        options = [word for pair in words for word in ("--set", pair)]
        guard = ["--unguarded"] if self.is_unguarded else []
        module = [sys.executable, "-m", "scripts.bad_input.server", str(self._notes), *guard]
        return [*module, "--engine", "cpu", "--port", "{port}", *options]

    def run(self, cases: Iterable[Case]) -> None:
        """Send cases one after another; a good request follows every tenth one."""
        for number, case in enumerate(cases):
            if case.steps is not None:
                self.hosts.steps[str(number)] = json.loads(self._placed(json.dumps(case.steps)))
            self._peak_bytes = before = memory_bytes(self._server.pid)
            self.outcomes.append(self._try(case, f"{{media}}/c/{number}"))
            if self._peak_bytes - before > self.most_bytes:
                self.most_bytes, self.most_case = self._peak_bytes - before, case.id
            _log.debug("%s: %.2f s", case.id, self.outcomes[-1].seconds)
            if number % 10 == 0:
                self._send_canary()
        self._send_canary()
        self.kept_bytes = memory_bytes(self._server.pid) - self.idle_bytes

    def _try(self, case: Case, host: str) -> Outcome:
        data = self._prepared(request_of(case.data), host)
        begin = time.monotonic()
        answer = self._exchange(data)
        seconds = time.monotonic() - begin
        problem = _problem(case, answer, data, seconds)
        if problem is None and case.like is not None:
            reference = self._exchange(self._prepared(request_of(case.like), host))
            if self._controls(answer) != self._controls(reference):
                problem = "control tokens from the client's text"
        return Outcome(case, answer.status, begin, seconds, problem)

    def _send_canary(self) -> None:
        case = Case("canary", "canary", (200,), (), None, {"chat": {}})
        if problem := self._try(case, "").problem:
            self.outcomes.append(Outcome(case, None, 0, 0, f"after {self._last_id()}: {problem}"))

    def _last_id(self) -> str:
        return self.outcomes[-1].case.id if self.outcomes else "the start"

    def _prepared(self, request: str, host: str) -> bytes:
        request = self._placed(request.replace("{host}", host))
        head, separator, body = request.partition("\r\n\r\n")
        head = head.replace("{length}", str(len(body)))
        return f"{head}{separator}{body}".encode("latin-1")

    def _placed(self, text: str) -> str:
        """A text with the places of the key and of the hosts filled in."""
        authorization = f"Authorization: Bearer {self._key}\r\n" if self.has_key else ""
        text = text.replace("{auth}", authorization).replace("{key}", self._key)
        for name, port in self.hosts.ports.items():
            address = "" if name in ("sentinel", "closed") else f"{ALLOWED_ADDRESS}:"
            text = text.replace(f"{{{name}}}", f"{address}{port}")
            text = text.replace(f"{{{name}port}}", str(port))
        return text

    def _exchange(self, data: bytes) -> "_Answer":
        with socket.create_connection(("127.0.0.1", self._server.port), _TIMEOUT_S) as sock:
            sender = threading.Thread(target=_send, args=(sock, data))
            sender.start()
            answer = b""
            with contextlib.suppress(OSError):  # reset, or no answer in time
                while piece := sock.recv(65_536):
                    answer += piece
            with contextlib.suppress(OSError):  # it has been reset
                sock.shutdown(socket.SHUT_RDWR)  # which ends the sender
            sender.join()
        return _Answer(answer)

    def _controls(self, answer: "_Answer") -> list[int]:
        return [token for token in answer.json["tokens"] if token in self._control_ids]

    def _sample(self) -> None:
        while not self._is_over.wait(0.02):
            self._peak_bytes = max(self._peak_bytes, memory_bytes(self._server.pid))

    @property
    def forbidden_dials(self) -> set[str]:
        """The addresses that connections were opened to although no case allows it."""
        allowed = {address for outcome in self.outcomes for address in outcome.case.dials}
        return {words[1] for words in self._noted("dial")} - allowed - {ALLOWED_ADDRESS}

    def measure_lags(self, limit_s: float) -> None:
        """Find how long the event loop did not run because of a case.

        A case at which it was longer than the limit is sent again, up to `_NUM_TRIES` times, and the shortest
        time counts: what comes from other processes on the machine does not come back each time.
        """
        for lag_s, case in self._lags_since(self._start):
            shortest = lag_s
            for _ in range(_NUM_TRIES):
                if shortest <= limit_s or case is None:
                    break
                begin = time.monotonic()
                self._try(case, "{media}/c/0")
                time.sleep(0.1)
                shortest = min(shortest, max([0, *(s for s, _ in self._lags_since(begin))]))
            self.lags.append((shortest, case.id if case else "the start"))

    def _lags_since(self, begin: float) -> list[tuple[float, Case | None]]:
        noted = [(float(end), float(lag)) for _, end, lag in self._noted("lag")]
        return [(lag, self._case_at(end - lag / 2)) for end, lag in noted if end > begin]

    def _case_at(self, moment: float) -> Case | None:
        begun = [outcome.case for outcome in self.outcomes if 0 < outcome.begin <= moment]
        return begun[-1] if begun else None

    def _noted(self, kind: str) -> list[list[str]]:
        lines = [line.split() for line in self._notes.read_text().splitlines()]
        return [words for words in lines if words[0] == kind]

    @property
    def log_hits(self) -> list[str]:
        """Lines of the log that contain the key, media or a prompt."""
        lines = (self.folder / "log").read_bytes().splitlines()
        key = self._key.encode()
        return [
            line.decode(errors="replace") for line in lines if key in line or _SECRETS.search(line)
        ]


class _Answer:
    """The first answer in what the server has sent; status None if it has closed without one."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.head = head
        words = head.split(b" ", 2)
        self.status = int(words[1]) if len(words) > 1 else None

    @property
    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.body)
        except ValueError:
            value = None
        return value if isinstance(value, dict) else {}


def _problem(case: Case, answer: _Answer, data: bytes, seconds: float) -> str | None:
    error = answer.json.get("error") or {}
    seen = f"{answer.status} {error.get('code')} {error.get('param')}"
    if answer.status not in case.status:
        return f"{seen} {str(error.get('message'))[:100]}"
    if seconds > _TIMEOUT_S / 2:
        return f"answered after {seconds:.1f} s"
    if answer.status is None or answer.status < 400:
        return None
    if answer.body and not error.get("message"):
        return f"{seen}, without an error object"
    has_codes = answer.json.get("type") != "error"  # Anthropic's errors have none
    if has_codes and case.codes and error.get("code") not in case.codes:
        return seen
    if case.param and case.param not in str(error.get("param")):
        return seen
    for leak in _LEAKS.findall(answer.body):
        if leak not in data:
            return f"{seen}, and discloses {leak!r}"
    return None


def _send(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # refused before all was sent
        sock.sendall(data)


def _wait(server: ServerProcess, log: Path) -> None:
    """Until the server has done all that it does at its start."""
    asyncio.run(server.wait_ready(timeout_s=120))
    while b"ready after" not in log.read_bytes():
        server.check()
        time.sleep(0.05)


def _control_ids() -> frozenset[int]:
    file = DEMO_MODEL / "tokenizer.json"
    tokens = json.loads(file.read_text(encoding="utf-8"))["added_tokens"]
    return frozenset(token["id"] for token in tokens)
