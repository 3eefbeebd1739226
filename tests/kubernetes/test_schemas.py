"""Every manifest is valid: by the schemas of Kubernetes, or by the types of the operator that reads it."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.kubernetes.chart import CASES, CHART, POOL, Manifest, Values, render

VERSIONS = ["1.29", "1.37"]
# The modules of their types, which are made from the Go sources of the operators.
MODULES = {
    "HTTPRoute": "gateway-api/gateway.networking.k8s.io/v1",
    "PrometheusRule": "prometheus-operator/monitoring.coreos.com/v1",
    "ScaledObject": "keda/keda.sh/v1alpha1",
    "ServiceMonitor": "prometheus-operator/monitoring.coreos.com/v1",
}
TYPES = Path(os.environ.get("HELM_TEST_TYPES", "/")) / "node_modules"
EXAMPLE: list[Manifest] = list(yaml.safe_load_all(POOL.read_text("utf-8")))


def validate(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        if manifest["kind"] not in {*MODULES, "InferencePool"}:
            kubernetes_validate.validate(manifest, version, strict=True)


def type_errors(manifests: list[Manifest], folder: Path) -> str:
    """What the TypeScript compiler says of them; it knows all fields of an object that is written out."""
    (folder / "node_modules").symlink_to(TYPES)
    lines = []
    for index, manifest in enumerate(manifests):
        kind = manifest["kind"]
        lines += [
            f'import type {{ I{kind} as T{index} }} from "@kubernetes-models/{MODULES[kind]}/{kind}";',
            f"export const m{index}: T{index} = {json.dumps(manifest)};",
        ]
    (folder / "manifests.ts").write_text("\n".join(lines))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022"]
    resolution = ["--module", "esnext", "--moduleResolution", "bundler"]
    done = subprocess.run(
        [TYPES / ".bin/tsc", *options, *resolution, "manifests.ts"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout


has_types = pytest.mark.skipif(
    not (TYPES / ".bin/tsc").exists(), reason="npm has not installed the types"
)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_manifests_are_valid(values: Values, version: str) -> None:
    validate(render(values), version)


def test_the_oldest_version_is_that_of_the_chart() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["kubeVersion"] == f">={VERSIONS[0]}.0-0"


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_manifests_do_not_overwrite_each_other(values: Values) -> None:
    names = Counter(
        (x["kind"], x["metadata"]["namespace"], x["metadata"]["name"]) for x in render(values)
    )
    assert set(names.values()) == {1}


def test_a_misspelt_field_is_invalid() -> None:
    [service] = [x for x in render({}) if x["kind"] == "Service"]
    with pytest.raises(kubernetes_validate.ValidationError, match="clusterIp"):
        validate([service | {"spec": service["spec"] | {"clusterIp": "None"}}], VERSIONS[0])


@has_types
def test_custom_resources_have_the_types_of_their_operators(tmp_path: Path) -> None:
    manifests = [x for values in CASES.values() for x in render(values) if x["kind"] in MODULES]
    manifests += [x for x in EXAMPLE if x["kind"] in MODULES]
    assert {manifest["kind"] for manifest in manifests} == MODULES.keys()
    assert type_errors(manifests, tmp_path) == ""


@has_types
def test_a_misspelt_field_of_a_custom_resource_is_found(tmp_path: Path) -> None:
    [route] = [x for x in EXAMPLE if x["kind"] == "HTTPRoute"]
    wrong = route | {"spec": route["spec"] | {"hostname": ["api.example.com"]}}
    assert "'\"hostname\"' does not exist" in type_errors([wrong], tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_example_is_valid(version: str) -> None:
    validate(EXAMPLE, version)
