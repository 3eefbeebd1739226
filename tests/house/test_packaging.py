"""The versions in scripts/constraints are complete and agree with pyproject.toml and with each other."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.client_table import CLIENTS, versions
from scripts.gpu_pack.packages import MACHINE, PACKED

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "scripts/constraints"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENTS = {"cpu": {"cpu", "test", "audit", "browser"}, "turbomind": {"turbomind", "test"}}
# The files with the versions of an environment. What depends on the CUDA of torch has its own file.
FILES = {"cpu": ["cpu"], "turbomind": ["turbomind", "cuda"]}
# LMDeploy needs an older torch than the CPU engine, and that an older setuptools.
MAY_DIFFER = {"torch", "setuptools"}
# A CUDA build of torch, which .venv has where there is no CPU build, names the versions of these itself.
CUDA = re.compile(r"cuda-|nvidia-|triton$")


def pins(*files: str) -> dict[str, str]:
    texts = [(CONSTRAINTS / f"{name}.txt").read_text(encoding="utf-8") for name in files]
    lines = [line for text in texts for line in text.splitlines()]
    return {
        canonicalize_name(name): version for name, _, version in (x.partition("==") for x in lines)
    }


def own_requirements(extras: set[str]) -> Iterator[Requirement]:
    """What pyproject.toml asks for, with the extras that other extras include."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][x] for x in extras)]
    for requirement in (Requirement(line) for lines in lists for line in lines):
        if requirement.name == PROJECT["name"]:
            yield from own_requirements(requirement.extras)
        else:
            yield requirement


def all_requirements(environment: str, extras: set[str]) -> Iterator[Requirement]:
    """The project's requirements, and those of the pinned packages as far as these are installed here."""
    pinned = pins(*FILES[environment])
    waiting, seen = list(own_requirements(extras)), set()
    while waiting:
        requirement = waiting.pop()
        yield requirement
        if (key := (requirement.name, frozenset(requirement.extras))) not in seen:
            seen.add(key)
            waiting += needs_of(requirement, pinned.get(canonicalize_name(requirement.name)))


def needs_of(package: Requirement, pinned: str | None) -> Iterator[Requirement]:
    try:
        installed = distribution(package.name)
    except PackageNotFoundError:
        return
    if installed.version.partition("+")[0] != pinned:
        return
    for requirement in map(Requirement, installed.requires or []):
        marker = requirement.marker
        if not marker or any(marker.evaluate({"extra": x}) for x in package.extras or {""}):
            yield requirement


@pytest.mark.parametrize("name", ["cpu", "turbomind", "cuda", "clients"])
def test_constraints_are_names_and_versions(name: str) -> None:
    """No address, hash, local version or comment."""
    for line in (CONSTRAINTS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), line


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_dependency_is_pinned(environment: str) -> None:
    pinned = pins(*FILES[environment])
    for requirement in all_requirements(environment, ENVIRONMENTS[environment]):
        name = canonicalize_name(requirement.name)
        if name == "pip" or (environment == "cpu" and CUDA.match(name)):
            continue
        assert name in pinned, f"{name} has no version: run scripts/lock"
        assert pinned[name] in requirement.specifier, f"{requirement}, but {pinned[name]} is pinned"


def test_torch_for_any_cuda_can_be_installed_with_the_constraints() -> None:
    """torch names the exact versions of CUDA's libraries, which differ from build to build."""
    assert [name for name in pins("turbomind") if re.match("cuda-|nvidia-", name)] == []
    assert {name for name in pins("cuda") if not re.match("cuda-|nvidia-", name)} == set()


def test_the_gpu_pack_contains_what_the_server_needs() -> None:
    """LMDeploy's needs, of which it imports few for the server, are in tests/lmdeploy/test_gpu_pack.py."""
    needed = {canonicalize_name(x.name) for x in all_requirements("cpu", set())}
    of_transformers = {
        "certifi", "click", "filelock", "fsspec", "hf-xet", "huggingface-hub", "markdown-it-py",
        "mdurl", "packaging", "pygments", "pyyaml", "rich", "tqdm",
    }  # fmt: skip
    known = {*PACKED, *MACHINE, *of_transformers, "av"}
    assert needed - known == set()
    assert len(set(PACKED)) == len(PACKED)
    assert not set(PACKED) & set(MACHINE)


def test_nccl_is_as_new_as_lmdeploy_needs() -> None:
    """Both builds of NCCL own the same file; the image installs this one last."""
    major, minor, patch = map(int, pins("cuda")["nvidia-nccl-cu12"].split("."))
    assert (major, minor, patch) >= (2, 30, 4)


def test_both_environments_have_the_same_versions() -> None:
    cpu, turbomind = pins("cpu"), pins("turbomind")
    assert {x for x in cpu.keys() & turbomind.keys() if cpu[x] != turbomind[x]} <= MAY_DIFFER


@pytest.mark.parametrize("name", ["openai", "lmdeploy"])
def test_what_the_tests_compare_with_is_pinned_in_the_project_too(name: str) -> None:
    [requirement] = [x for x in own_requirements({"test", "turbomind"}) if x.name == name]
    [exact] = requirement.specifier
    assert exact.operator == "=="


def test_the_documented_versions_of_clients_are_pinned() -> None:
    page = (ROOT / "server/docs/clients.md").read_text(encoding="utf-8")
    for client, version in versions().items():
        assert f"| {CLIENTS[client][1]} | {version} |" in page, "run scripts/conformance clients"


def test_the_lock_of_node_names_no_registry() -> None:
    lock = (ROOT / "tests/conformance/node/package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock


@pytest.mark.parametrize("name", [path.name for path in (ROOT / "configs").glob("*.*")])
def test_the_package_contains_the_configs(name: str) -> None:
    installed = files("internvl_server") / "configs" / name
    assert installed.read_bytes() == (ROOT / "configs" / name).read_bytes()
