"""Which keys are accepted, and how they change while the server runs."""

import hmac
import logging
from pathlib import Path

import pytest
from internvl_server.api.middleware.keys import KeyRing
from internvl_server.errors import StartupError
from internvl_server.settings import ServerSettings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("alice:one\nbob:two share=0.25\n")
    path.chmod(0o600)
    return path


def name_of(ring: KeyRing, text: str) -> str | None:
    key = ring.find(text)
    return key.name if key else None


def test_keys_come_from_the_settings_and_the_file(file: Path) -> None:
    settings = ServerSettings(api_keys=("zero",), named_keys=("carol:three",), keys_file=file)
    ring = KeyRing(settings)
    names = [name_of(ring, text) for text in ("zero", "one", "two", "three", "four", "")]
    assert names == ["key-1", "alice", "bob", "carol", None, None]
    assert (bob := ring.find("two"))
    assert bob.limits.share == 0.25


def test_a_file_is_read_again(file: Path) -> None:
    ring = KeyRing(ServerSettings(api_keys=("zero",), keys_file=file))
    file.write_text("alice:new\n")
    ring.reload()
    assert [name_of(ring, text) for text in ("zero", "one", "new")] == ["key-1", None, "alice"]


@pytest.mark.parametrize("content", ["", "alice:new\nsecret\n", None])
def test_a_bad_file_changes_nothing_and_is_logged(
    file: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing(ServerSettings(keys_file=file))
    file.unlink()
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    with caplog.at_level(logging.INFO):
        ring.reload()
    assert [name_of(ring, text) for text in ("one", "new")] == ["alice", None]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert str(file) in caplog.text
    assert "secret" not in caplog.text


def test_a_bad_file_does_not_start(file: Path) -> None:
    file.write_text("secret\n")
    with pytest.raises(StartupError, match=r"server\.keys_file .* line 1") as error:
        KeyRing(ServerSettings(keys_file=file))
    assert "secret" not in str(error.value)


def test_a_key_is_compared_with_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ends early: neither on the first key that fits, nor within one key."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return compare(a, b)

    ring = KeyRing(ServerSettings(api_keys=("one", "two", "three")))
    monkeypatch.setattr(hmac, "compare_digest", counting)
    for text in ("one", "three", "four", "x" * 10_000):
        compared.clear()
        ring.find(text)
        assert len(compared) == 3
        assert {len(digest) for pair in compared for digest in pair} == {32}
