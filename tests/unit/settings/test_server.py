"""API keys: each accepted one can be sent, and the others are refused at start."""

import string
from collections.abc import Callable

import pytest
from internvl_server.settings import ServerSettings
from pydantic import ValidationError

from tests.live_server import LiveServer

ANY_KEY = string.digits + string.ascii_letters + string.punctuation + " end"


def test_an_accepted_key_can_be_sent(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"api_keys": [ANY_KEY]})
    headers = {"authorization": f"Bearer {ANY_KEY}"}
    assert server.get("/v1/models", headers=headers).status_code == 200
    assert server.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "must not be empty"),
        (" ", "must not be empty"),
        ("schlüssel", "printable ASCII"),
        ("密钥", "printable ASCII"),
        ("a\nb", "printable ASCII"),
        ("a\tb", "printable ASCII"),
        ("a\x7f", "printable ASCII"),
        (" key", "begin or end with a space"),
        ("key ", "begin or end with a space"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused(key: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says) as error:
        ServerSettings(api_keys=("good", key))
    assert [problem["loc"] for problem in error.value.errors()] == [("api_keys", 1)]
