"""GET /version over a real socket."""

from collections.abc import Callable

from internvl_server import __version__

from tests.api.test_errors import HELLO, assert_envelope
from tests.live_server import LiveServer


def test_it_says_what_runs_and_what_was_checked(echo_server: LiveServer) -> None:
    shown = echo_server.get("/version").json()
    check = shown.pop("self_check")
    answer = echo_server.post(HELLO).json()
    assert shown == {
        "version": __version__,
        "engine": "echo",
        "model": "tiny",
        "template": "internvl2_5",
        "resize": "exact",
        "system_fingerprint": answer["system_fingerprint"],
    }
    assert check["ok"] is True
    assert len({check["template_hash"], check["tokenizer_hash"], check["tiles"]["hash"]}) == 3
    assert check["tiles"]["num_sizes"] >= 18


def test_it_asks_for_the_key(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"api_keys": ["secret"]})
    assert_envelope(server.get("/version"), 401, "invalid_api_key")
    assert server.get("/version", headers={"authorization": "Bearer secret"}).status_code == 200
