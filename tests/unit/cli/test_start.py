"""What the command line imports before it knows the command."""

import json
import signal
import subprocess
import sys

PROGRAM = "import json, sys, internvl_server.cli; print(json.dumps(sorted(sys.modules)))"


def test_imports_are_small() -> None:
    found = set(json.loads(subprocess.check_output([sys.executable, "-c", PROGRAM])))
    assert "pydantic_settings" in found
    large = {"fastapi", "httpx2", "huggingface_hub", "numpy", "PIL", "rich", "torch", "uvicorn"}
    assert not found & large


def test_ctrl_c_during_the_imports_ends_without_a_traceback() -> None:
    program = """
import sys
from importlib.abc import MetaPathFinder

class Interrupted(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "internvl_server.cli.settings":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
import internvl_server.cli
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, b"")
