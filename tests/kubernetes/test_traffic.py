"""Who may reach the pods, what they may reach, what scales them, and what watches them."""

import re
from ipaddress import ip_network
from typing import Any

import pytest
import yaml
from internvl_server.media.sources import url_policy
from internvl_server.settings import EngineSettings
from prometheus_client.parser import text_string_to_metric_families

from tests.kubernetes.chart import CASES, ROOT, Manifest, Values, find, merged, settings
from tests.live_server import LiveServer

ALERTS = yaml.safe_load((ROOT / "configs/monitoring/alerts.yml").read_text("utf-8"))
MONITORED = CASES["monitoring"]


@pytest.fixture(scope="module")
def metric_names(echo_server: LiveServer) -> set[str]:
    families = text_string_to_metric_families(echo_server.get("/metrics").text)
    return {sample.name for family in families for sample in family.samples}


def policy(values: Values) -> Manifest:
    spec: Manifest = find("NetworkPolicy", values)["spec"]
    return spec


def ports(rule: dict[str, Any]) -> set[int | str]:
    return {port["port"] for port in rule["ports"]}


def test_only_the_api_is_open_to_everybody() -> None:
    api, metrics = policy({})["ingress"]
    assert api == {"ports": [{"port": "http"}]}
    assert ports(metrics) == {"metrics"}
    [monitoring] = metrics["from"]
    assert monitoring["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }
    assert policy({})["policyTypes"] == ["Ingress", "Egress"]


def test_without_a_separate_port_there_is_no_rule_for_metrics() -> None:
    assert len(policy(CASES["one port"])["ingress"]) == 1
    assert len(policy(CASES["no metrics"])["ingress"]) == 1


def test_names_are_resolved_in_the_cluster_alone() -> None:
    dns, _ = policy({})["egress"]
    assert ports(dns) == {53}
    assert {port["protocol"] for port in dns["ports"]} == {"UDP", "TCP"}
    assert dns["to"]


def test_the_network_refuses_what_the_server_refuses() -> None:
    """No private, link-local or reserved range is reachable: the same lists, twice."""
    _, public = policy({})["egress"]
    four, six = (peer["ipBlock"] for peer in public["to"])
    assert four["cidr"] == "0.0.0.0/0"
    assert set(map(ip_network, four["except"])) == set(url_policy._BLOCKED_IPV4)
    assert ip_network(six["cidr"]) == url_policy._GLOBAL_IPV6
    assert set(map(ip_network, six["except"])) == set(url_policy._BLOCKED_IPV6)


def test_the_open_ports_are_those_that_the_server_dials() -> None:
    assert ports(policy({})["egress"][1]) == {443, *settings({})["media"]["allowed_ports"]}
    assert ports(policy(CASES["no remote media"])["egress"][1]) == {443}, "the hub"
    values = {"settings": {"media": {"allowed_ports": [8080, 443]}}}
    assert ports(policy(values)["egress"][1]) == {443, 8080}


def test_private_networks_are_open_once_the_server_may_use_them() -> None:
    blocks = [peer["ipBlock"] for peer in policy(CASES["a private store"])["egress"][1]["to"]]
    assert blocks[2:] == [{"cidr": "10.1.0.0/16"}]


def targets(kind: str) -> dict[str, int]:
    """The target of each metric that scales the pods."""
    if kind == "hpa":
        spec = find("HorizontalPodAutoscaler", {"autoscaling": {"kind": kind}})["spec"]
        of_pods = [metric["pods"] for metric in spec["metrics"]]
        return {x["metric"]["name"]: int(x["target"]["averageValue"]) for x in of_pods}
    triggers = find("ScaledObject", {"autoscaling": {"kind": kind}})["spec"]["triggers"]
    selected = re.compile(r'sum\((\w+)\{namespace="models",service="internvl"\}\)')
    found = {}
    for trigger in triggers:
        match = selected.fullmatch(trigger["metadata"]["query"])
        assert match
        found[match[1]] = int(trigger["metadata"]["threshold"])
    return found


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_pods_follow_the_requests_that_run_and_wait(kind: str, metric_names: set[str]) -> None:
    most = settings({})["engine"]["max_num_seqs"]
    assert targets(kind) == {
        "internvl_num_requests_running": most * 3 // 4, "internvl_num_requests_waiting": 4,
    }  # fmt: skip
    assert targets(kind).keys() <= metric_names
    deployment = find("Deployment", {"autoscaling": {"kind": kind}})
    assert "replicas" not in deployment["spec"]


def test_the_number_that_runs_is_the_engines() -> None:
    values = {"settingsFile": "[model]\npath = '/models/a'\n", "autoscaling": {"kind": "hpa"}}
    [running, _] = find("HorizontalPodAutoscaler", values)["spec"]["metrics"]
    most = EngineSettings().max_num_seqs
    assert running["pods"]["target"]["averageValue"] == str(most * 3 // 4)


def test_the_autoscalers_scale_the_deployment() -> None:
    target = find("HorizontalPodAutoscaler", CASES["HPA"])["spec"]["scaleTargetRef"]
    deployment = find("Deployment", CASES["HPA"])
    assert target == {
        "apiVersion": deployment["apiVersion"], "kind": "Deployment", "name": deployment["metadata"]["name"],
    }  # fmt: skip
    # KEDA's default is a Deployment.
    target = find("ScaledObject", CASES["KEDA"])["spec"]["scaleTargetRef"]
    assert target == {"name": deployment["metadata"]["name"]}


@pytest.mark.parametrize("name", ["monitoring", "one port"])
def test_prometheus_finds_the_port_of_the_metrics(name: str) -> None:
    values = merged(MONITORED, CASES[name])
    [endpoint] = find("ServiceMonitor", values)["spec"]["endpoints"]
    assert endpoint["path"] == "/metrics"
    served = {port["name"]: port["targetPort"] for port in find("Service", values)["spec"]["ports"]}
    assert served[endpoint["port"]] == endpoint["port"]
    separate = settings(values)["server"]["metrics_port"] > 0
    assert endpoint["port"] == ("metrics" if separate else "http")


def test_the_monitor_selects_the_service() -> None:
    labels = find("Service", MONITORED)["metadata"]["labels"]
    spec = find("ServiceMonitor", MONITORED)["spec"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()


def test_the_job_is_the_one_that_the_alerts_name() -> None:
    label = find("ServiceMonitor", MONITORED)["spec"]["jobLabel"]
    job = find("Service", MONITORED)["metadata"]["labels"][label]
    rules = find("PrometheusRule", MONITORED)["spec"]["groups"]
    assert set(re.findall(r'job="([^"]+)"', str(rules))) == {job}


def test_the_rules_are_those_of_the_repository(metric_names: set[str]) -> None:
    assert find("PrometheusRule", MONITORED)["spec"] == ALERTS
    expressions = " ".join(rule["expr"] for group in ALERTS["groups"] for rule in group["rules"])
    assert set(re.findall(r"\binternvl_\w+", expressions)) <= metric_names


def test_operators_find_the_monitoring_by_its_labels() -> None:
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert find(kind, MONITORED)["metadata"]["labels"]["release"] == "prometheus"
