"""The settings in the ConfigMap are the server's, and everything else of the chart follows from them."""

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import internvl_server
import pytest
import yaml
from internvl_server.settings import Settings
from internvl_server.settings.loading import load_settings

from tests.kubernetes.chart import (
    CASES,
    CHART,
    CONFIGS,
    CPU,
    EVERYTHING,
    POOL,
    ROOT,
    Values,
    container,
    find,
    helm,
    kinds,
    merged,
    notes,
    pod,
    refusal,
    render,
    settings,
    text,
    toml,
)

DEFAULTS = tomllib.loads((CHART / "defaults.toml").read_text("utf-8"))
# Where a pod needs something else than the server has by default.
OF_PODS = {"host", "metrics_host", "metrics_port", "pre_drain_s"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("INTERNVL_")]:
        monkeypatch.delenv(name)


def loaded(values: Values, folder: Path) -> Settings:
    """The settings that the server has in the container."""
    (folder / "settings.toml").write_text(toml(values))
    with pytest.MonkeyPatch.context() as environment:
        for variable in container(values)["env"]:
            if variable["name"].startswith("INTERNVL_"):
                environment.setenv(variable["name"], variable["value"])
        return load_settings(folder / "settings.toml", {})


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_the_server_loads_them(values: Values, tmp_path: Path) -> None:
    server = loaded(values, tmp_path).server
    assert server.host == "0.0.0.0"
    assert server.metrics_host == "0.0.0.0"
    assert server.keys_file or server.allow_anonymous


def test_the_chart_repeats_the_defaults_of_the_server() -> None:
    expected = Settings().model_dump(mode="json")
    for section, table in DEFAULTS.items():
        for key, value in table.items():
            default = expected[section][key]
            if isinstance(value, dict):
                default = {name: default[name] for name in value}
            assert (value == default) is (key not in OF_PODS), key


def test_the_file_and_then_the_values_take_precedence() -> None:
    values = {
        "settingsFile": "[engine]\nmax_num_seqs = 20\n[server]\ndrain_s = 45\n",
        "settings": {"engine": {"max_num_seqs": 30}, "limits": {"max_tiles_in_flight": 1073741824}},
    }
    found = settings(values)
    assert (found["engine"]["max_num_seqs"], found["server"]["drain_s"]) == (30, 45)
    assert found["server"]["pre_drain_s"] == DEFAULTS["server"]["pre_drain_s"]
    assert "max_tiles_in_flight = 1073741824\n" in toml(values), "not as a float"
    assert "model" not in found


def test_values_without_a_file_change_the_default_model() -> None:
    found = settings({"settings": {"model": {"max_model_len": 8192}}})
    assert found["model"] == {"max_model_len": 8192, "path": "OpenGVLab/InternVL3-2B-hf"}
    assert (CHART / "settings.toml").resolve() == ROOT / "configs/internvl3-2b.toml"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_pod_gets_the_gpus_of_its_model(config: str) -> None:
    values = {"settingsFile": config}
    engine = settings(values)["engine"]
    gpus = engine["turbomind"]["tp"] if engine["kind"] == "turbomind" else 0
    found = container(values)
    assert found["resources"]["limits"].get("nvidia.com/gpu", 0) == gpus
    assert found["image"] == f"internvl-server:{'turbomind' if gpus else 'cpu'}"
    assert ("/dev/shm" in {x["mountPath"] for x in found["volumeMounts"]}) is (gpus > 1)


def test_every_value_has_an_effect() -> None:
    """Each value is replaced by another one of its type, which must change the manifests."""
    given = merged(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")), EVERYTHING)
    for path, value in leaves(given):
        # Autoscalers replace the number of pods, and only one of them asks Prometheus itself.
        kind = "none" if path == ("replicas",) else "keda"
        before = merged(given, {"autoscaling": {"kind": kind}})
        after = merged(before, as_table(path, another(path, value)))
        assert text(after) != text(before), path


def leaves(
    table: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value and (*path, key) != ("settings",):
            yield from leaves(value, (*path, key))
        elif (*path, key) != ("settings",):
            yield (*path, key), value


def another(path: tuple[str, ...], value: Any) -> Any:
    special = {
        ("autoscaling", "kind"): "hpa",
        ("image", "digest"): "sha256:" + "1" * 64,
        ("image", "pullPolicy"): "Always",
        ("models", "accessModes"): ["ReadWriteMany"],
        ("service", "type"): "NodePort",
        ("settingsFile",): CONFIGS["internvl3-38b"],
    }
    if path in special:
        return special[path]
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return f"{value}1"
        case list():
            return [*value, *(value[:1] or [{"name": "more"}])]
    return {"more": "1"}


def as_table(path: tuple[str, ...], value: Any) -> Values:
    return {path[0]: as_table(path[1:], value)} if path else value


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"keys": {"secretName": ""}}, "set keys.secretName, or settings.server.allow_anonymous"),
        ({"settings": {"server": {"api_keys": ["k"]}}}, "do not belong in a ConfigMap"),
        ({"settingsFile": "[server]\nnamed_keys = ['a:b']"}, "do not belong in a ConfigMap"),
        ({"settingsFile": "[server"}, "settingsFile is not TOML"),
        ({"settings": {"sever": {}}}, "additional properties 'sever' not allowed"),
        ({"replica": 3}, "additional properties 'replica' not allowed"),
        ({"ingress": {"enabled": True}}, "hosts"),
        ({"httpRoute": {"enabled": True}}, "parentRefs"),
        ({"autoscaling": {"kind": "vpa"}}, "autoscaling/kind"),
        # A rule without sources or targets would be one for all.
        ({"networkPolicy": {"metricsFrom": []}}, "networkPolicy/metricsFrom"),
        ({"networkPolicy": {"metricsFrom": None}}, "missing property 'metricsFrom'"),
        ({"networkPolicy": {"dnsTo": None}}, "missing property 'dnsTo'"),
        (
            {"serviceMonitor": {"enabled": True}, "settings": {"server": {"metrics": False}}},
            "serviceMonitor.enabled needs settings.server.metrics",
        ),
        (
            {"autoscaling": {"kind": "keda"}, "settings": {"server": {"metrics": False}}},
            "autoscaling needs settings.server.metrics",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_refused(values: Values, says: str) -> None:
    assert says in refusal(values)


def test_the_schema_knows_every_section_and_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))["properties"]
    assert schema["settings"]["properties"].keys() == Settings.model_fields.keys()
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert values.keys() == schema.keys() - {"global"}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            assert value.keys() == schema[name]["properties"].keys(), name


def test_the_chart_is_that_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == internvl_server.__version__


def test_pods_are_replaced_when_settings_change() -> None:
    def checksum(values: Values) -> str:
        metadata = find("Deployment", values)["spec"]["template"]["metadata"]
        return str(metadata["annotations"]["checksum/settings"])

    assert checksum({}) != checksum({"settings": {"log": {"format": "json"}}})


def test_the_environment_has_no_variables_of_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes would name them after Services, such as this release, and the server would not start."""
    assert pod({})["enableServiceLinks"] is False
    monkeypatch.setenv("INTERNVL_PORT", "tcp://10.0.0.1:8000")
    with pytest.raises(ValueError, match="INTERNVL_PORT is not a setting"):
        load_settings(None, {})


def test_the_documented_commands_render() -> None:
    """`helm install` and `helm upgrade` of the page and the example, with their options."""
    pages = [ROOT / "server/docs/kubernetes.md", POOL]
    lines = "\n".join(page.read_text("utf-8") for page in pages)
    found = re.findall(r"helm (?:install|upgrade) internvl configs/helm/internvl-server(.*)", lines)
    assert len(found) >= 8
    for options in found:
        words = [word for word in shlex.split(options) if word != "--reset-then-reuse-values"]
        done = helm(*words)
        assert done.returncode == 0, (words, done.stderr)


def test_only_what_is_asked_for_is_rendered() -> None:
    optional = {
        "HorizontalPodAutoscaler", "ScaledObject", "Ingress", "HTTPRoute", "ServiceMonitor", "PrometheusRule",
    }  # fmt: skip
    assert kinds({}) & optional == set()
    assert kinds(merged(EVERYTHING, {"autoscaling": {"kind": "hpa"}})) >= optional - {
        "ScaledObject"
    }
    assert kinds(CPU) == kinds({})
    assert all(manifest["metadata"]["namespace"] == "models" for manifest in render(EVERYTHING))


def test_the_notes_say_what_is_missing() -> None:
    assert "create secret generic internvl-keys --from-file=keys=FILE" in notes({})
    assert "Secret" not in notes(CASES["no keys"])
    assert "internvl serves OpenGVLab/InternVL3-2B-hf." in notes({})
    assert "internvl serves the demo model." in notes(CPU)
    several = {"replicas": 2}
    assert "ReadWriteMany" not in notes({})
    assert "need ReadWriteMany" in notes(several)
    assert "need ReadWriteMany" in notes(CASES["HPA"])
    assert "ReadWriteMany" not in notes(merged(several, CASES["no claim"]))
