"""What the chart promises of its pods: probes, stopping, rights, mounts."""

import math
import re
from typing import Any

import httpx2
import pytest
import yaml
from internvl_server.settings import ServerSettings

from tests.kubernetes.chart import (
    CASES,
    CPU,
    EVERYTHING,
    ROOT,
    Values,
    container,
    find,
    merged,
    pod,
    settings,
)
from tests.live_server import LiveServer

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# An engine that hangs ends the process so much later than server.drain_s (server/docs/deployment.md).
HANG_S = 27
each_case = pytest.mark.parametrize("values", CASES.values(), ids=CASES)


def seconds(probe: dict[str, Any]) -> int:
    """How long a probe may fail."""
    return int(probe["periodSeconds"] * probe["failureThreshold"])


@each_case
def test_probes_ask_the_port_of_the_api(values: Values) -> None:
    found = container(values)
    ports = {port["name"]: port["containerPort"] for port in found["ports"]}
    assert ports["http"] == settings(values)["server"]["port"]
    assert {found[name]["httpGet"]["port"] for name in PROBES} == {"http"}


def test_probes_ask_routes_of_the_server(echo_server: LiveServer) -> None:
    for name in PROBES:
        path = container({})[name]["httpGet"]["path"]
        answer = httpx2.get(echo_server.url + path, headers={"host": "10.0.0.1:8000"}, timeout=60)
        assert answer.status_code == 200, name
    assert container({})["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container({})["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_a_start_may_take_as_long_as_in_the_image() -> None:
    [hours] = re.findall(r"--start-period=(\d+)h ", DOCKERFILE)
    budget_s = seconds(container({})["startupProbe"])
    assert budget_s == int(hours) * 3600
    assert find("Deployment", {})["spec"]["progressDeadlineSeconds"] > budget_s


@each_case
def test_pods_have_time_to_drain(values: Values) -> None:
    server = settings(values)["server"]
    grace_s = pod(values)["terminationGracePeriodSeconds"]
    assert grace_s >= server["pre_drain_s"] + server["drain_s"] + HANG_S
    assert "lifecycle" not in container(values), "the server itself waits, and says so at /ready"


def test_the_time_to_drain_follows_from_the_settings() -> None:
    values = {"settings": {"server": {"pre_drain_s": 2.5, "drain_s": 600}}}
    assert pod(values)["terminationGracePeriodSeconds"] >= math.ceil(602.5) + HANG_S


def test_connections_outlast_the_removal_of_a_pod_from_its_services() -> None:
    assert settings({})["server"]["pre_drain_s"] >= seconds(container({})["readinessProbe"])


@each_case
def test_pods_satisfy_the_restricted_standard(values: Values) -> None:
    spec, found = pod(values), container(values)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
    assert not any("hostPort" in port for port in found["ports"])


def test_the_pod_has_no_token() -> None:
    assert pod({})["automountServiceAccountToken"] is False
    assert find("ServiceAccount", {})["automountServiceAccountToken"] is False
    assert pod({})["serviceAccountName"] == find("ServiceAccount", {})["metadata"]["name"]


def test_the_user_is_that_of_the_image() -> None:
    [user] = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    rights = pod({})["securityContext"]
    assert {rights["runAsUser"], rights["runAsGroup"], rights["fsGroup"]} == {int(user)}


@each_case
def test_everything_that_the_image_writes_has_a_volume(values: Values) -> None:
    """As in docker-compose.yml, whose services have a read-only root, too."""
    writable = {x["mountPath"] for x in container(values)["volumeMounts"] if not x.get("readOnly")}
    service = COMPOSE["services"]["gpu"]
    assert service["read_only"] is True
    assert writable >= {*service["tmpfs"], *(mount.split(":")[1] for mount in service["volumes"])}
    homes = re.findall(r"^(?:ENV| {3}) (?:HF_)?HOME=(\S+)", DOCKERFILE, re.MULTILINE)
    assert len(homes) == 2
    assert writable >= set(homes)


@each_case
def test_mounts_and_volumes_belong_together(values: Values) -> None:
    mounts = [mount["name"] for mount in container(values)["volumeMounts"]]
    assert sorted(mounts) == sorted(volume["name"] for volume in pod(values)["volumes"])
    for volume in pod(values)["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            owned = claim["claimName"] != "weights"
            assert (
                not owned or find("PersistentVolumeClaim", values)["metadata"]["name"] == "internvl"
            )


def test_the_shared_memory_is_that_of_compose() -> None:
    [shared] = [
        x["emptyDir"] for x in pod(CASES["four GPUs"])["volumes"] if x["name"] == "shared-memory"
    ]
    assert shared == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert COMPOSE["services"]["gpu"]["shm_size"] == "8gb"


def test_keys_are_readable_by_the_server_alone_and_follow_their_secret() -> None:
    [secret] = [x["secret"] for x in pod({})["volumes"] if x["name"] == "keys"]
    assert not secret["defaultMode"] & 0o007
    [mount] = [x for x in container({})["volumeMounts"] if x["name"] == "keys"]
    assert "subPath" not in mount
    [item] = secret["items"]
    assert settings({})["server"]["keys_file"] == f"{mount['mountPath']}/{item['path']}"


def test_services_and_budgets_select_the_pods() -> None:
    labels = find("Deployment", EVERYTHING)["spec"]["template"]["metadata"]["labels"]
    for selector in (
        find("Deployment", EVERYTHING)["spec"]["selector"]["matchLabels"],
        find("Service", EVERYTHING)["spec"]["selector"],
        find("PodDisruptionBudget", EVERYTHING)["spec"]["selector"]["matchLabels"],
        find("NetworkPolicy", EVERYTHING)["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels.items()


@each_case
def test_the_service_names_ports_of_the_pod(values: Values) -> None:
    ports = {port["name"] for port in container(values)["ports"]}
    assert {port["targetPort"] for port in find("Service", values)["spec"]["ports"]} == ports


def test_routes_outlast_the_longest_request() -> None:
    values = merged(EVERYTHING, {"settings": {"limits": {"request_timeout_s": 900.5}}})
    [rule] = find("HTTPRoute", values)["spec"]["rules"]
    assert int(rule["timeouts"]["request"].removesuffix("s")) > 900.5
    [backend] = rule["backendRefs"]
    assert backend["port"] == find("Service", values)["spec"]["ports"][0]["port"]


def test_the_cpu_engine_asks_for_no_gpu() -> None:
    assert container(CPU)["image"] == "internvl-server:cpu"
    assert container(CPU)["resources"]["limits"].keys() == {"memory"}
    for target in ("cpu", "turbomind"):
        assert f"FROM runtime AS {target}\n" in DOCKERFILE


def test_the_drain_of_the_server_is_what_the_chart_assumes() -> None:
    assert settings({})["server"]["drain_s"] == ServerSettings().drain_s
