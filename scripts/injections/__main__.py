"""Inject faults into real servers, and compare what happens with the criteria.

Each injection starts its own servers. At its end the account of its requests must add up.
"""

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from scripts.injections import balancers, clients, engines, media, resources, stopping
from scripts.injections.stage import Finding, Injection, Stage
from scripts.load.figures import markdown_table
from scripts.load.machine import describe, described

__all__ = ["INJECTIONS", "findings_of", "main"]

_MODULES = (clients, media, engines, balancers, stopping, resources)
INJECTIONS: dict[str, Injection] = {
    injection.number: injection
    for injection in sorted(
        (injection for module in _MODULES for injection in module.INJECTIONS),
        key=lambda injection: int(injection.number[1:]),
    )
}

_SERIOUS = (" WARNING ", " ERROR ", " CRITICAL ", "Error", "error")
_MAX_LINES = 8


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument(
        "numbers", nargs="*", metavar="C1", help="injections to run; all by default"
    )
    parser.add_argument("--list", action="store_true", help="list the injections, and run none")
    parser.add_argument(
        "--short", action="store_true", help="few faults and short waits, as in tests"
    )
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{one.number}: {one.fault}" for one in INJECTIONS.values()))
        return 0
    if unknown := set(options.numbers) - set(INJECTIONS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; --list names all")
    chosen = [INJECTIONS[number] for number in options.numbers or INJECTIONS]
    rows = [
        (one, finding) for one in chosen for finding in findings_of(one, is_short=options.short)
    ]
    report = _report(rows)
    print(f"\n{report}")
    if options.output is not None:
        options.output.write_text(report + "\n")
    return 0 if all(finding.holds for _, finding in rows) else 1


def findings_of(injection: Injection, *, is_short: bool) -> list[Finding]:
    """The findings of one injection, of which the last is its account."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), is_short)
        try:
            asyncio.run(injection.run(stage))
        except Exception as error:  # noqa: BLE001  (the others must run)
            traceback.print_exc()
            stage.finding("the injection runs to its end", repr(error), holds=False)
        if not all(finding.holds for finding in stage.findings):
            _print_logs(stage.folder)
    if stage.ledger.num_sent:
        unexplained = stage.ledger.num_unexplained - stage.num_expected_cuts
        lost = f", {stage.num_expected_cuts} with their process" if stage.num_expected_cuts else ""
        stage.finding(
            "every request is accounted for",
            f"{stage.ledger.identity}{lost} {stage.ledger.notes[:1] if unexplained > 0 else ''} "
            f"{dict(stage.ledger.codes) or ''}".strip(),
            # A balancer answers 502 to what was lost with a server.
            unexplained <= 0 and stage.ledger.num_server_errors <= stage.num_expected_cuts,
        )
    for finding in stage.findings:
        print(
            f"{injection.number} {_verdict(finding)} {finding.criterion}: {finding.figure}",
            flush=True,
        )
    print(f"-- {injection.number}: {time.monotonic() - start:.0f} s", flush=True)
    return stage.findings


def _print_logs(folder: Path) -> None:
    """What the servers warned of."""
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()
        serious = [line for line in lines if any(level in line for level in _SERIOUS)]
        for line in serious[-_MAX_LINES:]:
            print(f"   {log.name}: {line}", file=sys.stderr)


def _verdict(finding: Finding) -> str:
    return "holds" if finding.holds else "FAILS"


def _report(rows: Sequence[tuple[Injection, Finding]]) -> str:
    cells = [
        (one.number, one.fault, finding.criterion, finding.figure, _verdict(finding))
        for one, finding in rows
    ]
    table = markdown_table(["#", "fault", "criterion", "measured", ""], cells)
    return f"{described(describe())}\n\n{table}"


if __name__ == "__main__":
    sys.exit(main())
