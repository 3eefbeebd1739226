"""The password in the address of a server is sent to it, and shown nowhere."""

import contextlib
import socket
from pathlib import Path

import pytest
from internvl_server.cli import main
from internvl_server.settings.options import without_credentials

from tests.live_server import LiveServer

LINE = '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"stream": false}}\n'


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, list[str]]:
    requests = tmp_path / "in.jsonl"
    requests.write_text(LINE, encoding="utf-8")
    written = str(tmp_path / "out")
    return {
        "bench": ["bench", "--num-prompts", "1", "--result-filename", written, "--base-url"],
        "chat": ["chat", "hi", "--url"],
        "batch": [
            "batch", str(requests), "-o", written, "--max-retries", "0", "--log-level", "debug", "--url",
        ],
    }  # fmt: skip


def run(arguments: list[str]) -> None:
    with contextlib.suppress(SystemExit):  # of a wrong command line
        main(arguments)


@pytest.mark.parametrize("command", ["bench", "chat", "batch"])
@pytest.mark.parametrize(
    "address", ["http://me:s3cret@{}", "http://me:s3cret@{}?x", "me:s3cret@{}"]
)
def test_errors_do_not_show_it(
    commands: dict[str, list[str]], command: str, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        run([*commands[command], address.format(host)])
    shown = "".join(capfd.readouterr())
    assert shown
    assert "s3cret" not in shown
    if command != "batch" or "?" in address:
        assert f"***@{host}" in shown


@pytest.mark.parametrize("command", ["bench", "chat", "batch"])
def test_a_refusal_and_results_do_not_show_it(
    commands: dict[str, list[str]],
    command: str,
    echo_server: LiveServer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    host = echo_server.url.removeprefix("http://")
    run([*commands[command], f"http://me:s3cret@{host}"])
    for path in tmp_path.iterdir():
        assert "s3cret" not in path.read_text(encoding="utf-8")
    assert "s3cret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:1/v1", "http://host:1/v1"),
        ("http://me:a@b@host", "http://***@host"),
        ("https://token@host/v1", "https://***@host/v1"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
