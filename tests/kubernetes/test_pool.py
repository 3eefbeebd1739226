"""The example of an InferencePool fits the chart's pods, and its picker the server's metrics."""

from pathlib import Path

import yaml
from internvl_server.settings import LimitSettings

from tests.kubernetes.chart import POOL, ROOT, Manifest, container, find, settings

ONE_PORT = {"settings": {"server": {"metrics_port": 0}}}
MANIFESTS: dict[str, Manifest] = {
    manifest["kind"]: manifest for manifest in yaml.safe_load_all(POOL.read_text("utf-8"))
}
PICKER = MANIFESTS["Deployment"]["spec"]["template"]["spec"]["containers"][0]


def documented_metrics() -> set[str]:
    page = (ROOT / "server/docs/metrics.md").read_text("utf-8")
    return {line.split("`")[1] for line in page.splitlines() if line.startswith("| `internvl_")}


def test_the_pool_selects_the_pods_of_the_release() -> None:
    """Its fields are those of the API's version 1: none is misspelt, and none that it requires is missing."""
    pool = MANIFESTS["InferencePool"]
    assert pool["apiVersion"] == "inference.networking.k8s.io/v1"
    assert pool["metadata"] == {"name": "internvl"}
    selected = find("Deployment", ONE_PORT)["spec"]["template"]["metadata"]["labels"]
    [http] = container(ONE_PORT)["ports"]
    assert pool["spec"] == {
        "selector": {"matchLabels": selected},
        "targetPorts": [{"number": http["containerPort"]}],
        "endpointPickerRef": {
            "name": MANIFESTS["Service"]["metadata"]["name"],
            "port": {"number": MANIFESTS["Service"]["spec"]["ports"][0]["port"]},
            "failureMode": "FailOpen",
        },
    }


def test_the_picker_reads_the_metrics_where_the_server_has_them() -> None:
    assert settings(ONE_PORT)["server"]["metrics_port"] == 0
    assert POOL.read_text("utf-8").count("--set settings.server.metrics_port=0") == 1


def test_the_picker_knows_the_names_of_the_metrics() -> None:
    [text] = MANIFESTS["ConfigMap"]["data"].values()
    [extractor] = [
        x for x in yaml.safe_load(text)["plugins"] if x["type"] == "core-metrics-extractor"
    ]
    [engine] = extractor["parameters"]["engineConfigs"]
    assert engine.pop("name") == extractor["parameters"]["defaultEngine"]
    assert engine.keys() == {"queuedRequestsSpec", "runningRequestsSpec", "kvUsageSpec"}
    assert set(engine.values()) <= documented_metrics()
    assert text in (ROOT / "server/docs/metrics.md").read_text("utf-8")


def test_the_picker_serves_this_pool() -> None:
    assert "--pool-name=internvl" in PICKER["args"]
    [config] = [arg.split("=")[1] for arg in PICKER["args"] if arg.startswith("--config-file=")]
    assert Path(config).name in MANIFESTS["ConfigMap"]["data"]
    assert str(Path(config).parent) == PICKER["volumeMounts"][0]["mountPath"]
    [group] = [rule for rule in MANIFESTS["Role"]["rules"] if "inferencepools" in rule["resources"]]
    assert group["apiGroups"] == ["inference.networking.k8s.io"]


def test_the_route_leads_to_the_pool_and_outlasts_requests() -> None:
    [rule] = MANIFESTS["HTTPRoute"]["spec"]["rules"]
    assert rule["backendRefs"] == [
        {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "internvl"}
    ]
    assert int(rule["timeouts"]["request"].removesuffix("s")) > LimitSettings().request_timeout_s


def test_the_picker_ends_after_the_pods() -> None:
    grace = [
        find("Deployment", ONE_PORT)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
        MANIFESTS["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
    ]
    assert grace[1] >= grace[0]
