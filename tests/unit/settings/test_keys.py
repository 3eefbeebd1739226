"""The lines of a keys file: what they may be, and that no message repeats a key."""

import hashlib
import logging
from pathlib import Path

import pytest
from internvl_server.settings import ServerSettings
from internvl_server.settings.keys import MAX_FILE_BYTES, Key, KeyLimits, parse_key, read_keys
from pydantic import ValidationError

DIGEST = hashlib.sha256(b"secret").digest()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("alice:secret", Key("alice", DIGEST)),
        (f"alice:sha256:{DIGEST.hex()}", Key("alice", DIGEST)),
        (f" alice:sha256:{DIGEST.hex().upper()}  ", Key("alice", DIGEST)),
        ("a.b-c_9:x:y", Key("a.b-c_9", hashlib.sha256(b"x:y").digest())),
        ("alice:secret max_in_flight=3", Key("alice", DIGEST, KeyLimits(max_in_flight=3))),
        ("a:secret share=.5 max_in_flight=1", Key("a", DIGEST, KeyLimits(1, 0.5))),
    ],
)
def test_a_line_has_a_name_a_key_and_limits(line: str, key: Key) -> None:
    assert parse_key(line) == key


@pytest.mark.parametrize(
    "line",
    [
        "",
        "secret",
        ":secret",
        "alice:",
        "ali ce:secret",
        "al/ice:secret",
        "x" * 65 + ":secret",
        "alice:sécret",
        "alice:sec\x00ret",
        "alice:sha256:secret",
        f"alice:sha256:{DIGEST.hex()}0",
        "alice:secret secret",
        "alice:secret secret=1",
        "alice:secret share=0",
        "alice:secret share=1.1",
        "alice:secret share=nan",
        "alice:secret share=secret",
        "alice:secret max_in_flight=0",
        "alice:secret max_in_flight=-1",
        "alice:secret max_in_flight=1e3",
        "alice:secret max_in_flight=99999999999",
    ],
)
def test_a_wrong_line_is_refused_without_repeating_it(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"key|digest|max_in_flight") as error:
        parse_key(line)
    assert "secret" not in str(error.value)
    with pytest.raises(ValidationError) as invalid:
        ServerSettings(named_keys=(line,))
    assert "secret" not in str(invalid.value)
    if line:
        file = tmp_path / "keys"
        file.write_text(f"# keys\n{line}\n")
        with pytest.raises(ValueError, match=r"^line 2: ") as in_file:
            read_keys(file)
        assert "secret" not in str(in_file.value)


def test_a_file_has_comments_and_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\n  # the keys\n\nalice:secret\r\nbob:other  share=0.5\n")
    assert [key.name for key in read_keys(file)] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "has 0 keys"),
        (b"# nothing\n", "has 0 keys"),
        (b"a:b\n" * 1001, "has 1001 keys"),
        (b"#" * (MAX_FILE_BYTES + 1), "bytes"),
        ("alice:密钥".encode("utf-16"), "line 1"),
    ],
)
def test_a_file_without_usable_keys_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=says):
        read_keys(file)


@pytest.mark.parametrize(("mode", "is_warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_file_that_every_user_can_read_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, is_warned: bool
) -> None:
    file = tmp_path / "keys"
    file.write_text("alice:secret")
    file.chmod(mode)
    with caplog.at_level(logging.WARNING):
        read_keys(file)
    assert ("every user" in caplog.text) == is_warned


def test_neither_the_settings_nor_a_key_show_a_key() -> None:
    settings = ServerSettings(api_keys=("secret",), named_keys=("alice:secret",))
    shown = repr(settings) + settings.model_dump_json() + repr(parse_key("alice:secret"))
    assert "secret" not in shown
    assert DIGEST.hex() not in shown
    assert repr(DIGEST)[2:-1] not in shown
