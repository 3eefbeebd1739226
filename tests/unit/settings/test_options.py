"""The options of `serve`: every setting has one, and the names other servers use are understood."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from internvl_server.cli import main
from internvl_server.settings import Settings
from pydantic import BaseModel, SecretStr

Load = Callable[..., Settings]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Runs `serve` with options, and returns the settings it would serve."""
    served: list[Settings] = []

    def serve(settings: Settings) -> int:
        served.append(settings)
        return 0

    monkeypatch.setattr("internvl_server.serve.serve", serve)

    def run(*options: str) -> Settings:
        assert main(["serve", *options]) == 0
        return served.pop()

    return run


def setting(settings: Settings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def leaves(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting's key and docstring."""
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from leaves(info.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info.description or ""


LMDEPLOY_LINE = (
    "OpenGVLab/InternVL3-2B --chat-template internvl2_5 --server-port 23333 --tp 1 --session-len 16384 "
    "--server-name 0.0.0.0 --model-name internvl --api-keys one two --dtype bfloat16 --backend cpu "
    "--cache-max-entry-count 0.5 --quant-policy 8 --revision main --download-dir /models "
    "--max-batch-size 32 --enable-prefix-caching --log-level WARNING --model-format awq"
)


def test_the_line_of_lmdeploy(load: Load) -> None:
    settings = load(*LMDEPLOY_LINE.split())
    assert settings.model.model_dump(exclude={"default_sampling"}) == {
        "path": "OpenGVLab/InternVL3-2B", "served_name": "internvl", "accept_any_name": False,
        "revision": "main", "download_dir": "/models", "template": "internvl2_5",
        "max_model_len": 16384, "thinking": "auto",
    }  # fmt: skip
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 23333)
    assert [key.get_secret_value() for key in settings.server.api_keys] == ["one", "two"]
    assert (settings.engine.kind, settings.engine.dtype) == ("cpu", "bfloat16")
    assert settings.engine.max_num_seqs == 32
    turbomind = settings.engine.turbomind
    assert (turbomind.tp, turbomind.cache_max_entry_count, turbomind.quant_policy) == (1, 0.5, 8)
    assert (turbomind.model_format, turbomind.enable_prefix_caching) == ("awq", True)
    assert settings.log.level == "warning"


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        (["--tensor-parallel-size", "2"], "engine.turbomind.tp", 2),
        (["--tp=2"], "engine.turbomind.tp", 2),
        (["--max-model-len", "32768"], "model.max_model_len", 32768),
        (["--served-model-name", "a"], "model.served_name", "a"),
        (["--max-num-seqs", "4"], "engine.max_num_seqs", 4),
        (["--port", "80", "/models/a", "--host", "::1"], "model.path", "/models/a"),
        (["--model", "/models/b"], "model.path", "/models/b"),
        (["--no-enable-prefix-caching"], "engine.turbomind.enable_prefix_caching", False),
        (["--media.max-images", "4"], "media.max_images", 4),
        (["--no-media.allow-remote"], "media.allow_remote", False),
        (["--model.accept-any-name"], "model.accept_any_name", True),
        (["--media.allowed-ports", "80", "--media.allowed-ports", "81"], "media.allowed_ports", (80, 81)),
        (["--media.allowed-ports", "[80, 81]"], "media.allowed_ports", (80, 81)),
        (["--set", "media.allowed_ports=[80, 81]"], "media.allowed_ports", (80, 81)),
        (["--port", "1", "--set", "server.port=2"], "server.port", 2),
        (["--config", "cpu"], "engine.cpu.dtype", "auto"),
    ],
)  # fmt: skip
def test_options(load: Load, options: list[str], key: str, value: object) -> None:
    assert setting(load(*options), key) == value


def test_keys_may_be_given_one_by_one_and_contain_anything(load: Load) -> None:
    keys = load("--api-key", "a,b", "--api-key", '"1"', "--api-keys", "2", "true").server.api_keys
    assert keys == tuple(map(SecretStr, ("a,b", '"1"', "2", "true")))


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("[server]\nport = 1\nkeep_alive_s = 1\ndrain_s = 1\n")
    monkeypatch.setenv("INTERNVL_SERVER__PORT", "2")
    monkeypatch.setenv("INTERNVL_SERVER__KEEP_ALIVE_S", "2")
    server = load("--config", str(config), "--port", "3").server
    assert (server.port, server.keep_alive_s, server.drain_s, server.host) == (3, 2, 1, "127.0.0.1")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tp", "x"], "--tp (engine.turbomind.tp): "),
        (["--server-port=99999"], "--server-port (server.port): "),
        (["--backend", "pytorch"], "--backend (engine.kind): "),
        (["--chat-template", "chatml"], "--chat-template (model.template): "),
        (["--api-keys", "good", "schlüssel"], "--api-keys (server.api_keys): "),
        (["--media.max-images", "0"], "--media.max-images (media.max_images): "),
        (["--set", "engine.max_num_seqs=0"], "--set engine.max_num_seqs: "),
        (["--set=limits.nope=1"], "--set limits.nope: there is no such setting\n"),
        (["--set", "nope.a=1"], "nope: there is no such setting\n"),
        (
            ["--set", "server.prot=1"],
            "server.prot: there is no such setting; did you mean server.port?",
        ),
        (
            ["--set", "engine.tp=2"],
            "engine.tp: there is no such setting; did you mean engine.turbomind.tp?",
        ),
        (["--set", "media.allowed_ports=[80"], "--set media.allowed_ports: "),
        (["--api-key", "[80"], "--api-key: a value that begins with [ must be a JSON list"),
        (["--config", "nope"], "--config: there is no file nope"),
        (["a", "--model", "b"], "either as MODEL or with --model"),
    ],
)
def test_errors_name_the_option(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *options]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"[serv\n", b"\xff"])
def test_a_file_that_is_not_toml_is_named(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.toml"
    config.write_bytes(content)
    assert main(["serve", "--config", str(config)]) == 2
    assert f"{config} is not TOML: " in capsys.readouterr().err


def test_a_setting_from_elsewhere_is_named_by_its_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INTERNVL_SERVER__PORT", "x")
    assert main(["serve"]) == 2
    assert "\n  server.port: Input should be" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--sever-port", "1"], ["--max-model", "1"], ["--engine"]])
def test_unknown_and_shortened_options_are_refused(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", *options])
    assert stop.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_a_batch_has_no_options_for_a_socket(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["batch", "in.jsonl", "-o", "out.jsonl", "--port", "1"])
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--max-model-length", "9"], "--max-model-length; did you mean --max-model-len?"),
        (["--zzz=1"], "--zzz=1"),
        (["a", "b"], "b"),
    ],
)
def test_unknown_options_are_refused_with_the_usage_of_their_command(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", *words])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("usage: internvl-server serve ")
    assert shown.endswith(f"unrecognized arguments: {hint}\n")


@pytest.mark.parametrize("command", ["serve", "batch"])
def test_help_shows_every_setting_with_its_docstring(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    hidden = {"server.host", "server.port"} if command == "batch" else set()
    for key, docstring in leaves(Settings):
        if key in hidden:
            continue
        assert f"--{key.replace('_', '-')}" in shown
        assert docstring, key
        assert "".join(docstring.split()) in shown, key
    order = ["commonoptions:", "--model,", "--api-key,", "serveroptions:", "mediaoptions:"]
    assert sorted(order, key=shown.index) == order
    assert "null}" not in shown
    assert "None" not in shown
