"""The bill of materials has what the server needs, and the audit never calls unknown packages good."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts import audit_packages

GOOD = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}
BAD = {
    "name": "c",
    "version": "2",
    "vulns": [{"id": "X-1", "fix_versions": ["3"]}, {"id": "X-2", "fix_versions": []}],
}


def answering(monkeypatch: pytest.MonkeyPatch, stdout: str) -> None:
    answer = SimpleNamespace(stdout=stdout)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: answer)


@pytest.mark.parametrize(
    ("stdout", "is_known"),
    [
        ("", False),
        ("ERROR: connection", False),
        (json.dumps({"dependencies": [SKIPPED]}), False),
        (json.dumps({"dependencies": []}), False),
        (json.dumps({"dependencies": [SKIPPED, GOOD]}), True),
    ],
)
def test_a_package_that_was_not_looked_up_is_not_said_to_be_good(
    monkeypatch: pytest.MonkeyPatch, stdout: str, is_known: bool
) -> None:
    answering(monkeypatch, stdout)
    assert (audit_packages.audit(Path("x")) is not None) == is_known


@pytest.mark.parametrize(
    ("packages", "code", "says"),
    [
        ([SKIPPED], 0, "NOT AUDITED"),
        ([GOOD, SKIPPED], 0, "1 of 2 packages were audited"),
        ([GOOD, BAD], 1, "c 2: X-1, fixed in 3\nc 2: X-2, fixed in no version"),
    ],
)
def test_only_a_known_vulnerability_fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    packages: list[Any],
    code: int,
    says: str,
) -> None:
    answering(monkeypatch, json.dumps({"dependencies": packages}))
    monkeypatch.setattr(audit_packages, "write_bill", lambda: "bill")
    assert audit_packages.main() == code
    assert says in capsys.readouterr().out


def test_the_bill_has_the_packages_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bill = audit_packages.ROOT / "build" / "test.cdx.json"
    monkeypatch.setattr(audit_packages, "BILL", bill)
    try:
        audit_packages.write_bill()
        content = json.loads(bill.read_text())
    finally:
        bill.unlink(missing_ok=True)
    assert content["bomFormat"] == "CycloneDX"
    assert content["metadata"]["component"]["name"] == "internvl-server"
    names = {component["name"] for component in content["components"]}
    assert {"fastapi", "httptools", "pillow", "tokenizers", "uvicorn"} <= names
    assert {"libjpeg_turbo", "webp", "libtiff", "libavcodec"} <= names, "what wheels bring along"
