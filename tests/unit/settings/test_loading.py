"""Where settings come from, and which configuration files are found by name."""

from pathlib import Path

import pytest
from internvl_server.settings.loading import find_config, load_settings

CONFIGS = Path(__file__).parents[3] / "configs"


def test_a_shipped_config_is_found_by_its_name() -> None:
    for path in CONFIGS.glob("*.toml"):
        assert find_config(path.stem).samefile(path)


def test_a_file_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.toml"
    mine.touch()
    assert find_config(str(mine)) == mine
    (tmp_path / "cpu").touch()
    monkeypatch.chdir(tmp_path)
    assert find_config("cpu") == Path("cpu"), "a file of the user comes before a shipped one"


@pytest.mark.parametrize("name", ["internvl3-3b", "missing.toml", "configs", ""])
def test_an_unknown_config_lists_those_there_are(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"--config: .* are the configurations cpu, internvl2_5-8b"
    ):
        find_config(name)


def test_a_list_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNVL_SERVER__API_KEYS", '["a", "b"]')
    keys = load_settings(None, {}).server.api_keys
    assert [key.get_secret_value() for key in keys] == ["a", "b"]
    monkeypatch.setenv("INTERNVL_SERVER__API_KEYS", "a,b")
    with pytest.raises(ValueError, match=r"environment: .*server.* Write lists as JSON"):
        load_settings(None, {})
