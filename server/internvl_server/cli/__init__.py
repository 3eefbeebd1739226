"""The command line of `internvl-server`.

If a package of the server is missing or broken, `doctor` still says what it can, and other commands name it.
"""

import signal
import sys
from collections.abc import Sequence

from internvl_server.doctor.command import diagnose

__all__ = ["main"]

try:
    from internvl_server.cli.main import run_command as main
except KeyboardInterrupt:  # while the packages are imported
    sys.exit(128 + signal.SIGINT)
except ImportError as err:
    _PROBLEM = f"A package of the server cannot be imported: {err}."

    def main(arguments: Sequence[str] | None = None) -> int:
        """Run `doctor`, or print why no other command can run; return the exit code of the process."""
        words = sys.argv[1:] if arguments is None else arguments
        if words[:1] == ["doctor"]:
            return diagnose(None, _PROBLEM, is_json="--json" in words)
        print(f"internvl-server: {_PROBLEM} `internvl-server doctor` says more.", file=sys.stderr)
        return 1
