"""What the command line imports before it knows the command."""

import json
import subprocess
import sys

PROGRAM = "import json, sys, internvl_server.cli; print(json.dumps(sorted(sys.modules)))"


def test_imports_are_small() -> None:
    found = set(json.loads(subprocess.check_output([sys.executable, "-c", PROGRAM])))
    assert "pydantic_settings" in found
    large = {"fastapi", "httpx2", "huggingface_hub", "numpy", "PIL", "rich", "torch", "uvicorn"}
    assert not found & large
