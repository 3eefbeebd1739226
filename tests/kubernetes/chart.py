"""The chart in `configs/helm`, rendered with various values."""

import json
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "configs/helm/internvl-server"
POOL = ROOT / "configs/helm/inference-pool.yaml"
CONFIGS = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "configs").glob("*.toml"))}

Manifest = dict[str, Any]
Values = dict[str, Any]

CPU: Values = {"settingsFile": CONFIGS["cpu"]}
# Optional parts by name: each is tested alone, and all together.
OPTIONS: dict[str, Values] = {
    "four GPUs": {"settings": {"engine": {"kind": "turbomind", "turbomind": {"tp": 4}}}},
    "HPA": {"autoscaling": {"kind": "hpa"}},
    "KEDA": {"autoscaling": {"kind": "keda"}},
    "ingress": {
        "ingress": {
            "enabled": True, "className": "haproxy", "annotations": {"a": "b"},
            "hosts": ["api.example.com"], "tls": [{"secretName": "tls", "hosts": ["api.example.com"]}],
        }
    },
    "HTTPRoute": {
        "httpRoute": {
            "enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["api.example.com"],
        }
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    "one port": {"settings": {"server": {"metrics_port": 0}}},
    "no metrics": {"settings": {"server": {"metrics": False}}},
    "no keys": {
        "keys": {"secretName": ""}, "settings": {"server": {"allow_anonymous": True}},
    },
    "no network policy": {"networkPolicy": {"enabled": False}},
    "no disruption budget": {"podDisruptionBudget": {"enabled": False}},
    "no claim": {"models": {"persistent": False}},
    "a claim": {"models": {"existingClaim": "weights"}},
    "no remote media": {"settings": {"media": {"allow_remote": False}}},
    "a private store": {"settings": {"media": {"allowed_private_networks": ["10.1.0.0/16"]}}},
    "a hub token": {"hubToken": {"secretName": "hub"}},
    "a load balancer": {
        "service": {"type": "LoadBalancer", "port": 80, "annotations": {"a": "b"}},
    },
    "a digest": {"image": {"digest": "sha256:" + "0" * 64}, "imagePullSecrets": [{"name": "pull"}]},
    "pods": {
        "extraEnv": [{"name": "NCCL_DEBUG", "value": "INFO"}],
        "podLabels": {"llm-d.ai/engine-type": "internvl"}, "podAnnotations": {"a": "b"},
        "nodeSelector": {"gpu": "h200"}, "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}}, "priorityClassName": "high", "runtimeClassName": "nvidia",
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
    },
    "network rules": {
        "networkPolicy": {
            "apiFrom": [{"podSelector": {}}], "dnsTo": [{"ipBlock": {"cidr": "169.254.20.10/32"}}],
            "extraEgress": [{"ports": [{"port": 4318}]}],
        }
    },
}  # fmt: skip


def merged(*several: Values) -> Values:
    """Later values take precedence; the members of tables are merged."""
    result: Values = {}
    for values in several:
        for key, value in values.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


EVERYTHING = merged(
    *(values for name, values in OPTIONS.items() if name[:3] not in ("no ", "one")),
    {"models": {"existingClaim": ""}, "image": {"digest": ""}},
)
NOTHING = merged(*(values for name, values in OPTIONS.items() if name[:3] == "no "))
CASES: dict[str, Values] = {
    "defaults": {}, "everything": EVERYTHING, "nothing": NOTHING, "cpu engine": CPU,
    "cpu engine with everything": merged(EVERYTHING, CPU, {"settings": {"engine": {"kind": "cpu"}}}),
    **OPTIONS,
    **{name: {"settingsFile": config} for name, config in CONFIGS.items()},
}  # fmt: skip


def helm(
    *options: str, values: Values | None = None, command: str = "template"
) -> subprocess.CompletedProcess[str]:
    """Render the release `internvl` in the namespace `models`."""
    return subprocess.run(
        ["helm", command, "internvl", str(CHART), "--namespace", "models", "--values", "-", *options],
        input=json.dumps(values or {}), cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@cache
def _rendered(values: str) -> str:
    done = helm(values=json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def text(values: Values) -> str:
    """The manifests, as Helm prints them."""
    return _rendered(json.dumps(values))


@cache
def _parsed(manifests: str) -> list[Manifest]:
    return list(filter(None, yaml.safe_load_all(manifests)))


def render(values: Values) -> list[Manifest]:
    """The manifests."""
    return _parsed(text(values))


def notes(values: Values) -> str:
    """What an installation says at its end."""
    done = helm("--dry-run=client", values=values, command="install")
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


def refusal(values: Values) -> str:
    """Why the chart cannot be rendered."""
    done = helm(values=values)
    assert done.returncode != 0, done.stdout
    return done.stderr


def find(kind: str, values: Values) -> Manifest:
    """The manifest of a kind."""
    [found] = [manifest for manifest in render(values) if manifest["kind"] == kind]
    return found


def kinds(values: Values) -> set[str]:
    """The kinds of the manifests."""
    return {manifest["kind"] for manifest in render(values)}


def pod(values: Values) -> Manifest:
    """The specification of the pods."""
    spec: Manifest = find("Deployment", values)["spec"]["template"]["spec"]
    return spec


def container(values: Values) -> Manifest:
    """The container of the server."""
    [found] = pod(values)["containers"]
    return dict(found)


def toml(values: Values) -> str:
    """The settings of the server, as the container sees them."""
    found: str = find("ConfigMap", values)["data"]["settings.toml"]
    return found


def settings(values: Values) -> dict[str, Any]:
    """The settings of the server, by section."""
    return tomllib.loads(toml(values))
