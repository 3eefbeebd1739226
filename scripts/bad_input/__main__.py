"""Send the bad requests of tests/corpus to a server and compare its answers with what is right.

    scripts/corpus
    scripts/corpus --only A C --short 3
    scripts/corpus --requests other.jsonl --port media=8340 --port sentinel=8350

The server is a separate process with the CPU engine and the demo model. Its name server and the hosts of
pictures are stubs on loopback. Sentinels listen on all addresses; where Linux allows it, everything runs in a
network namespace in which every address of the Internet is this machine, so that no connection escapes them.

Exit code 1 if anything is wrong: an answer, a 5xx other than 503 and 504, a connection to a sentinel or to an
address that is not a media host's, a loop that stood still for too long, too much memory, or a key, a picture
or a prompt in the log. The lag is how long the event loop did not run, less the time that its thread waited
for a core; a case with a longer one is sent again, because other work on the machine makes lags too.
"""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scripts.bad_input.cases import Case, read_cases, shortened
from scripts.bad_input.server import MIN_LAG_S
from scripts.bad_input.trial import Trial

FOLDER = Path(__file__).parents[2] / "tests/corpus"
MAX_GROWTH_BYTES = 700 << 20
SERVER_ERRORS = range(500, 600)
ALLOWED_ERRORS = (503, 504)
# All addresses belong to this machine.
NAMESPACE = [
    "unshare", "--user", "--net", "--map-root-user", "sh", "-c",
    "ip link set lo up && ip route add local default dev lo && ip -6 route add local default dev lo;"
    ' exec "$@"', "sh",
]  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    args = _parser().parse_args(arguments)
    if not args.inside and _has_namespaces():
        command = [*NAMESPACE, sys.executable, "-m", "scripts.bad_input", "--inside", *arguments]
        os.execvp(command[0], command)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("scripts.bad_input").setLevel("DEBUG" if args.verbose else "WARNING")
    cases = _cases(args)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(
            args.work or Path(folder),
            has_key=not args.requests,
            is_unguarded=args.unguarded,
            is_patient=not (args.requests or any(case.is_slow for case in cases)),
            ports=dict(args.port),
        )
        with trial:
            trial.run(cases)
            trial.measure_lags(args.max_lag)
        return _report(trial, args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[""], metavar="ID", help="beginnings of ids")
    parser.add_argument("--short", type=int, metavar="N", help="at most N cases of each line")
    parser.add_argument(
        "--requests", type=Path, metavar="FILE", help="other cases; no key is needed"
    )
    parser.add_argument("--port", type=_port, action="append", default=[], metavar="NAME=PORT")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="an empty folder, for the log")
    parser.add_argument("--max-lag", type=float, default=0.05, metavar="SECONDS")
    parser.add_argument("--verbose", action="store_true", help="print each case and its seconds")
    parser.add_argument(
        "--unguarded", action="store_true", help="let the server fetch from any address"
    )
    parser.add_argument("--inside", action="store_true", help="a namespace was made already")
    return parser


def _port(text: str) -> tuple[str, int]:
    name, _, port = text.partition("=")
    return name, int(port)


def _has_namespaces() -> bool:
    try:
        return not subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


def _cases(args: argparse.Namespace) -> list[Case]:
    cases = read_cases([args.requests] if args.requests else sorted(FOLDER.glob("*.jsonl")))
    cases = [case for case in cases if case.id.startswith(tuple(args.only))]
    if not args.inside:
        cases = [case for case in cases if not case.needs_namespace]
        if args.unguarded:  # nothing but this machine is to be reached
            cases = [case for case in cases if "127.0.0" in case.id or "7f0000" in case.id]
    return shortened(cases, args.short) if args.short else cases


def _report(trial: Trial, args: argparse.Namespace) -> int:
    outcomes = trial.outcomes
    for outcome in outcomes:
        if outcome.problem:
            print(f"WRONG {outcome.case.id}: {outcome.problem}")
    wrong = [outcome for outcome in outcomes if outcome.problem]
    per_class = Counter(outcome.case.id[0] for outcome in outcomes)
    failures = [o for o in outcomes if o.status in SERVER_ERRORS and o.status not in ALLOWED_ERRORS]
    longest, longest_case = max(trial.lags, default=(0.0, ""))
    most, kept = trial.most_bytes, trial.kept_bytes
    limits = f"{MAX_GROWTH_BYTES >> 20}", f"{args.max_lag * 1000:.0f}"
    hits, dials = trial.log_hits, trial.forbidden_dials
    rows = [
        ("cases right", f"{len(outcomes) - len(wrong)} of {len(outcomes)}", not wrong),
        ("5xx other than 503 and 504", str(len(failures)), not failures),
        ("connections to sentinels", str(trial.hosts.num_forbidden), not trial.hosts.num_forbidden),
        ("other addresses dialled", str(len(dials)), not dials),
        ("most memory for one case", f"{most >> 20} MiB of {limits[0]}", most <= MAX_GROWTH_BYTES),
        ("memory kept at the end", f"{kept >> 20} MiB of {limits[0]}", kept <= MAX_GROWTH_BYTES),
        ("longest lag of the loop", f"{longest * 1000:.0f} ms of {limits[1]}", longest <= args.max_lag),
        ("slowest answer", f"{max(o.seconds for o in outcomes):.1f} s", True),
        ("lines of the log with secrets", str(len(hits)), not hits),
        ("exit code", str(trial.exit_code), trial.exit_code == 0),
    ]  # fmt: skip
    print(
        "cases by class:", " ".join(f"{name} {count}" for name, count in sorted(per_class.items()))
    )
    print("all addresses are this machine's:", "yes" if args.inside else "no (only loopback)")
    print(f"lags over {MIN_LAG_S * 1000:.0f} ms: {len(trial.lags)}, the longest at {longest_case}")
    print(f"most memory at {trial.most_case}")
    for name, figure, is_right in rows:
        print(f"{'ok   ' if is_right else 'WRONG'} {name}: {figure}")
    if dials:
        print("dialled:", " ".join(sorted(dials)))
    for hit in hits[:3]:
        print("in the log:", hit[:200])
    return 0 if all(is_right for _, _, is_right in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
