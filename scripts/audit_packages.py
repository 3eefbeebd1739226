"""Write a software bill of materials (CycloneDX), and look for packages with known vulnerabilities.

    .venv/bin/python scripts/audit_packages.py

The bill is build/sbom.cdx.json. The versions in scripts/constraints are looked up with pip-audit in PyPI's
database; the exit code is 1 if one has a known vulnerability. Where the database cannot be reached, it
says so and the exit code is 0: nothing is known about the packages then.
"""

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import av
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from PIL import features

ROOT = Path(__file__).resolve().parents[1]
BILL = ROOT / "build/sbom.cdx.json"
CONSTRAINTS = [ROOT / f"scripts/constraints/{name}.txt" for name in ("cpu", "turbomind")]
TIMEOUT_S = 60


def write_bill() -> str:
    """Write the bill of the environment that this runs in, and return what it says."""
    bill = Bom()
    packages = {package.name: _component(package) for package in metadata.distributions()}
    server = packages.pop("internvl-server")
    server.type = ComponentType.APPLICATION
    bill.metadata.component = server
    components = [*packages.values(), *_bundled_libraries()]
    bill.components.update(components)
    bill.register_dependency(server, components)
    BILL.parent.mkdir(exist_ok=True)
    BILL.write_text(JsonV1Dot6(bill).output_as_string(indent=2), encoding="utf-8")
    return f"{BILL.relative_to(ROOT)}: {len(components)} packages"


def _component(package: metadata.Distribution) -> Component:
    name, version = package.name, package.version
    stated = package.metadata.json.get("license_expression")
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}=={version}",
        purl=PackageURL("pypi", name=name.lower().replace("_", "-"), version=version),
        licenses=[LicenseFactory().make_from_string(str(stated))] if stated else (),
    )


def _bundled_libraries() -> list[Component]:
    """The C libraries that read images and videos; wheels bring them along."""
    versions = {
        name: features.version(name) or "unknown"
        for name in ("libjpeg_turbo", "libtiff", "webp", "avif", "zlib")
    }
    versions |= {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}
    return [
        Component(name=name, version=version, type=ComponentType.LIBRARY, bom_ref=f"bundled:{name}")
        for name, version in sorted(versions.items())
    ]


def audit(requirements: Path) -> dict[str, Any] | None:
    """What pip-audit reports of the versions in a file; None if it cannot reach its database."""
    options = [
        "--no-deps",
        "--disable-pip",
        "--format=json",
        "--progress-spinner=off",
        "--timeout=3",
    ]
    command = [sys.executable, "-m", "pip_audit", *options, "--requirement", requirements]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        report: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return report if any("vulns" in package for package in report["dependencies"]) else None


def findings(report: dict[str, Any]) -> list[str]:
    """The known vulnerabilities of a report, a line each."""
    return [
        f"{package['name']} {package['version']}: {found['id']}, fixed in "
        f"{', '.join(found['fix_versions']) or 'no version'}"
        for package in report["dependencies"]
        for found in package.get("vulns", ())
    ]


def can_audit() -> bool:
    """Whether the database answers, tried with one package."""
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one.txt"
        lines = CONSTRAINTS[0].read_text(encoding="utf-8").splitlines()
        one.write_text(next(line for line in lines if line.startswith("uvicorn==")))
        return audit(one) is not None


def main() -> int:
    print(write_bill())
    if not can_audit():
        print("NOT AUDITED: no database of vulnerabilities can be reached from here.")
        return 0
    found = []
    for file in CONSTRAINTS:
        report = audit(file)
        if report is None:
            print(f"NOT AUDITED: {file.name}: the database stopped answering.")
            continue
        known = [package for package in report["dependencies"] if "vulns" in package]
        print(f"{file.name}: {len(known)} of {len(report['dependencies'])} packages were audited")
        found += findings(report)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
