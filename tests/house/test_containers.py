"""What the container files promise, read from the files; scripts/check-containers runs the tools on them."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from internvl_server.settings import LimitSettings, ServerSettings
from internvl_server.settings.loading import load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HAPROXY = (ROOT / "configs/haproxy.cfg").read_text(encoding="utf-8")
NGINX = (ROOT / "configs/nginx.conf").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
MONITORING = ROOT / "configs" / "monitoring"
SERVICES: dict[str, Any] = COMPOSE["services"]
UNITS = {"bytes", "none", "percentunit", "reqps", "s"}  # all have a meaning in Grafana


def stages() -> dict[str, str]:
    """The instructions of each stage, one a line, without comments."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    text = re.sub(r" *\\\n *", " ", text)
    found = re.split(r"^FROM (?:.*) AS (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_images_run_without_root_and_stop_on_sigterm() -> None:
    found = stages()
    assert re.search(r"^USER [1-9]\d*$", found["runtime"], re.MULTILINE)
    assert "\nSTOPSIGNAL SIGTERM\n" in found["runtime"]
    assert '\nENTRYPOINT ["internvl-server", "serve"]\n' in found["runtime"]
    assert "\nVOLUME /models\n" in found["runtime"]
    for target in ("cpu", "turbomind"):
        assert f"\nFROM runtime AS {target}\n" in DOCKERFILE
        assert not re.search(r"^(USER|ENTRYPOINT|STOPSIGNAL)", found[target], re.MULTILINE)


def test_the_health_check_asks_ready_with_python() -> None:
    command = json.loads(
        stages()["runtime"].split("HEALTHCHECK")[1].split("CMD ")[1].split("\n")[0]
    )
    assert command[:2] == ["python", "-c"]
    assert "/ready" in command[2]
    compile(command[2], "HEALTHCHECK", "exec")


@pytest.mark.parametrize("target", ["cpu", "turbomind"])
def test_a_change_of_code_installs_no_dependency_again(target: str) -> None:
    """The sources are copied after the pinned dependencies are installed."""
    before, after = stages()[f"build-{target}"].split("\nCOPY server server\n")
    assert f'--constraint scripts/constraints/{target}.txt ".[{target}]"' in before
    assert "pip install --no-deps .\n" in after
    for copied in re.findall(r"^COPY (.*) \S+$", stages()["metadata"], re.MULTILINE):
        assert copied in ("pyproject.toml", "scripts/constraints")


def test_the_gpu_image_takes_torch_from_its_own_index_first_and_nccl_last() -> None:
    [first, second, last] = re.findall(r"pip install [^&\n]*", stages()["build-turbomind"])[:3]
    assert "--no-deps" in first
    assert '${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch torchvision' in first
    assert '".[turbomind]"' in second
    assert "--no-deps --force-reinstall --constraint scripts/constraints/cuda.txt" in last
    assert '"nvidia-nccl-cu12>=2.30.4"' in last
    assert SERVICES["gpu"]["build"]["args"]["TORCH_INDEX_URL"] == "${TORCH_CUDA_INDEX_URL:-}"


def test_downloading_the_largest_model_is_no_failure() -> None:
    """146 GiB at one gigabit a second take 21 minutes."""
    [hours] = re.findall(r"--start-period=(\d+)h ", stages()["runtime"])
    assert int(hours) >= 1


def test_every_install_caches_downloads() -> None:
    installs = [
        run for text in stages().values() for run in re.findall("RUN .*pip install.*", text)
    ]
    assert len(installs) == 4
    assert all(run.startswith("RUN --mount=type=cache,") for run in installs)
    assert "PIP_NO_CACHE_DIR" not in DOCKERFILE


def test_images_are_pinned() -> None:
    [python] = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE, re.MULTILINE)
    others = [service["image"] for service in SERVICES.values() if "build" not in service]
    assert len(others) == 4
    for image in (python, *others):
        assert re.fullmatch(r"[a-z./-]+:v?\d+\.\d+\.\d+(-[a-z]+)*(@sha256:[0-9a-f]{64})?", image), (
            image
        )


def test_images_ask_for_a_key() -> None:
    assert "INTERNVL_SERVER__HOST=0.0.0.0" in DOCKERFILE
    instructions = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    for line in instructions:
        assert not re.search(r"ALLOW_ANONYMOUS|API_KEY|TOKEN|PASSWORD|SECRET", line), line


def test_only_what_is_needed_goes_to_the_builder() -> None:
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert lines[0] == "*"
    sources = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / source).exists() for source in sources)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {source for names in copied for source in names.split()} == sources


def test_the_named_configs_exist() -> None:
    text = DOCKERFILE + json.dumps(COMPOSE)
    names = set(re.findall(r"configs/[\w.-]+\.toml", text))
    assert names
    assert all((ROOT / name).exists() for name in names)


def test_profiles() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert profiles == {
        "demo": [],
        "gpu": ["gpu"],
        "replica-1": ["replicas"],
        "replica-2": ["replicas"],
        "balancer": ["replicas"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
        "webui": ["webui"],
    }


def test_prometheus_knows_the_servers_and_grafana_knows_prometheus() -> None:
    prometheus, grafana = SERVICES["prometheus"], SERVICES["grafana"]
    assert "./configs/monitoring:/etc/prometheus:ro" in prometheus["volumes"]
    [job] = yaml.safe_load((MONITORING / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    [found] = job["dns_sd_configs"]
    assert found["names"] == [
        name for name in SERVICES if "models:/models" in SERVICES[name]["volumes"]
    ]
    mounts = dict(mount.removesuffix(":ro").split(":") for mount in grafana["volumes"])
    assert all((ROOT / source).exists() for source in mounts if source.startswith("."))
    [source] = yaml.safe_load(
        (MONITORING / "grafana/datasources/prometheus.yml").read_text("utf-8")
    )["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((MONITORING / "grafana/dashboards/files.yml").read_text("utf-8"))[
        "providers"
    ]
    path = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert mounts["./configs/monitoring/dashboard.json"] == path
    assert path == f"{provider['options']['path']}/dashboard.json"


def test_the_web_interface_knows_the_server_and_calls_nobody_else() -> None:
    webui = SERVICES["webui"]
    environment = webui["environment"]
    [(server, wait)] = webui["depends_on"].items()
    assert environment["OPENAI_API_BASE_URL"] == f"http://{server}:8000/v1"
    assert wait == {"condition": "service_healthy"}
    assert environment["OPENAI_API_KEY"] == "${WEBUI_API_KEY:-none}"
    on = ("OFFLINE_MODE", "DO_NOT_TRACK", "SCARF_NO_ANALYTICS")
    off = ("ANONYMIZED_TELEMETRY", "ENABLE_COMMUNITY_SHARING", "ENABLE_OLLAMA_API")
    assert [environment[name] for name in (*on, *off)] == ["true"] * 3 + ["false"] * 3
    capabilities = json.loads(environment["DEFAULT_MODEL_METADATA"])["capabilities"]
    assert capabilities == {"vision": True, "usage": True, "builtin_tools": False}


def test_the_web_interface_writes_only_where_it_may() -> None:
    webui = SERVICES["webui"]
    [volume] = webui["volumes"]
    name, data = volume.split(":")
    assert name in COMPOSE["volumes"]
    written = [webui["environment"][x] for x in ("WEBUI_SECRET_KEY_FILE", "STATIC_DIR", "HOME")]
    assert all(Path(path).is_relative_to(data) or path.startswith("/tmp") for path in written)
    assert webui["tmpfs"] == ["/tmp"]


def test_no_panel_covers_another() -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = []
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"]
        cells += [
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        ]
    assert len(set(cells)) == len(cells)


def test_the_dashboard_has_what_grafana_requires() -> None:
    """Its schema's required members, and types, units and modes that Grafana 12 knows."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in (panel for panel in dashboard["panels"] if panel["type"] != "row"):
        assert panel["type"] in ("stat", "timeseries")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        uses = {panel["datasource"]["uid"], *(x["datasource"]["uid"] for x in panel["targets"])}
        assert uses == {"${datasource}"}
        assert "datasource" in names
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        if panel["type"] == "timeseries":
            legend = panel["options"]["legend"]
            assert legend.keys() == {"displayMode", "placement", "showLegend", "calcs"}
            assert panel["options"]["tooltip"].keys() == {"mode", "sort"}


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_no_more_rights_than_they_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "network_mode", "pid", "ipc", "cap_add", "user"}


@pytest.mark.parametrize("name", SERVICES)
def test_logs_do_not_fill_the_disk(name: str) -> None:
    assert SERVICES[name]["logging"] == {"driver": "local"}


def test_the_servers_answer_to_names_of_this_machine_and_of_the_services(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prometheus asks by these names, Open WebUI by that of `demo`, and browsers by those of the machine."""
    value = COMPOSE["x-environment"]["INTERNVL_SERVER__ALLOWED_HOSTS"]
    [default] = re.fullmatch(r"\$\{INTERNVL_ALLOWED_HOSTS:-(.*)\}", value).groups()
    monkeypatch.setenv("INTERNVL_SERVER__ALLOWED_HOSTS", default)
    servers = [name for name in SERVICES if "build" in SERVICES[name]]
    assert load_settings(None, {}).server.allowed_hosts == ("localhost", "127.0.0.1", *servers)
    [job] = yaml.safe_load((MONITORING / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert {
        "source_labels": ["__meta_dns_name"],
        "regex": "(.+)",
        "target_label": "__address__",
        "replacement": "$1:8000",
    } in job["relabel_configs"]


@pytest.mark.parametrize("name", [name for name in SERVICES if "build" in SERVICES[name]])
def test_services_are_given_time_to_drain(name: str) -> None:
    assert SERVICES[name]["stop_grace_period"] == "2m"
    assert ServerSettings().drain_s < 120


def test_the_gpu_service_has_what_nccl_needs() -> None:
    service = SERVICES["gpu"]
    assert service["shm_size"] == "8gb"
    assert service["ulimits"]["memlock"] == -1
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


@pytest.mark.parametrize("keys", ["[]", '["a-long-random-key"]'])
def test_the_environment_of_the_services_is_understood(
    keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = COMPOSE["x-environment"]
    assert environment["INTERNVL_SERVER__API_KEYS"] == "${INTERNVL_API_KEYS:-[]}"
    for name in [name for name in os.environ if name.startswith("INTERNVL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(
        "INTERNVL_SERVER__ALLOW_ANONYMOUS", environment["INTERNVL_SERVER__ALLOW_ANONYMOUS"]
    )
    monkeypatch.setenv("INTERNVL_SERVER__API_KEYS", keys)
    settings = load_settings(None, {}).server
    assert settings.allow_anonymous is True
    assert [key.get_secret_value() for key in settings.api_keys] == json.loads(keys)


@pytest.mark.parametrize(
    "line",
    [
        "option httpchk GET /ready",
        "default-server check inter 2s fall 3 rise 2",
        "retries 3",
        "balance hash var(txn.affinity)",
        "option redispatch",
        "retry-on conn-failure",
        "option http-server-close",
        "http-reuse never",
    ],
)
def test_the_balancer_is_set_as_the_server_needs_it(line: str) -> None:
    assert re.search(rf"^    {re.escape(line)}( |$)", HAPROXY, re.MULTILINE), line


def test_the_balancer_repeats_no_request_and_cuts_no_stream() -> None:
    settings = "\n".join(line for line in HAPROXY.splitlines() if not line.lstrip().startswith("#"))
    assert "shutdown-sessions" not in settings
    assert re.findall(r"retry-on (.*)", settings) == ["conn-failure"]


def test_the_balancer_waits_longer_than_the_server() -> None:
    seconds = {name: int(value) for name, value in re.findall(r"timeout ([\w-]+) (\d+)s", HAPROXY)}
    assert seconds["server"] > LimitSettings().request_timeout_s
    assert seconds["client"] > 2 * ServerSettings().send_timeout_s
    assert seconds["http-request"] > LimitSettings().body_timeout_s


def test_the_balancer_knows_the_replicas() -> None:
    named = re.findall(r"^    server (\S+) (\S+):8000$", HAPROXY, re.MULTILINE)
    replicas = [name for name in SERVICES if name.startswith("replica-")]
    assert named == [(name, name) for name in replicas]


def nginx(name: str) -> list[str]:
    """The values of a directive."""
    return re.findall(rf"^ +{name} (.*);$", NGINX, re.MULTILINE)


def test_nginx_repeats_no_request_and_hides_no_cut() -> None:
    assert nginx("proxy_next_upstream") == ["error timeout"]
    assert nginx("proxy_http_version") == ["1.1"]
    assert nginx("proxy_set_header Connection") == ["close"]
    assert nginx("proxy_buffering") == ["off"]


def test_nginx_waits_longer_and_takes_more_than_the_server() -> None:
    [wait_s] = nginx("proxy_read_timeout")
    assert int(wait_s[:-1]) > LimitSettings().request_timeout_s
    [body_s] = nginx("client_body_timeout")
    assert int(body_s[:-1]) > LimitSettings().body_timeout_s
    [size] = nginx("client_max_body_size")
    assert int(size[:-1]) << 20 > LimitSettings().max_body_bytes


def test_nginx_knows_the_replicas() -> None:
    named = re.findall(r"^ +server (\S+):8000 ", NGINX, re.MULTILINE)
    assert named == [name for name in SERVICES if name.startswith("replica-")]


def test_the_check_script_parses() -> None:
    subprocess.run(["bash", "-n", ROOT / "scripts/check-containers"], check=True)
    assert os.access(ROOT / "scripts/check-containers", os.X_OK)
