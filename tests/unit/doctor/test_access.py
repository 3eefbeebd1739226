"""The port and the keys."""

import socket

import pytest
from internvl_server.doctor import access


def test_a_free_port_and_a_taken_one(found, subject):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        [(level, text)] = found(access.port, subject(server={"port": number}))
        assert level == "error"
        assert f"127.0.0.1:{number}" in text
        assert "--port" in text
    assert found(access.port, subject(server={"port": number})) == [
        ("ok", f"127.0.0.1:{number} is free. ")
    ]


def test_any_port(found, subject):
    assert [level for level, _ in found(access.port, subject(server={"port": 0}))] == ["ok"]


def test_an_address_that_this_machine_does_not_have(found, subject):
    [(level, text)] = found(access.port, subject(server={"host": "192.0.2.1", "port": 0}))
    assert level == "error"
    assert "Cannot assign requested address" in text


def test_an_unknown_host(found, subject):
    [(level, _)] = found(access.port, subject(server={"host": "no host", "port": 0}))
    assert level == "error"


def test_the_port_of_metrics(found, subject):
    check = access.metrics_port
    assert found(check, subject()) == []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        assert [x for x, _ in found(check, subject(server={"metrics_port": taken}))] == ["error"]
    assert [x for x, _ in found(check, subject(server={"metrics_port": taken}))] == ["ok"]
    same = subject(server={"metrics_port": 8000})
    assert [level for level, _ in found(check, same)] == ["error"]


def test_who_may_use_the_server(found, subject):
    check = access.exposure
    assert found(check, subject()) == []
    assert found(check, subject(server={"host": "0.0.0.0", "api_keys": ["key"]})) == []
    [(level, text)] = found(check, subject(server={"host": "0.0.0.0"}))
    assert level == "error"
    assert "no API keys are set. Set server.keys_file" in text
    anonymous = subject(server={"host": "0.0.0.0", "allow_anonymous": True})
    assert [level for level, _ in found(check, anonymous)] == ["warning"]


@pytest.mark.parametrize(
    ("text", "mode", "level", "says"),
    [
        ("one:key\ntwo:key-2\n", 0o600, "ok", "2 key(s)"),
        ("one:key\n", 0o640, "ok", "1 key(s)"),
        ("one:key\n", 0o644, "warning", "chmod 600"),
        ("one:key\n", 0o602, "warning", "chmod 600"),
        ("one:key\nnonsense\n", 0o600, "error", "line 2"),
        ("", 0o600, "error", "0 keys"),
    ],
)
def test_the_file_of_keys(found, subject, tmp_path, text, mode, level, says):
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(mode)
    [(found_level, found_text)] = found(access.keys_file, subject(server={"keys_file": str(path)}))
    assert found_level == level
    assert says in found_text
    assert "key-2" not in found_text


def test_a_file_of_keys_that_cannot_be_read(found, subject, tmp_path):
    assert found(access.keys_file, subject()) == []
    for path in (tmp_path / "none", tmp_path):
        [(level, text)] = found(access.keys_file, subject(server={"keys_file": str(path)}))
        assert level == "error"
        assert str(path) in text
