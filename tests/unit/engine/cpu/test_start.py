"""What starting the engine imports."""

import subprocess
import sys

_SCRIPT = """
import asyncio, sys
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.engine.loader import choose_engine, load_engine
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.settings import Settings

async def start():
    settings = Settings()
    checkpoint = load_checkpoint(settings.model)
    tokens = load_tokenizer(checkpoint.path).vocabulary
    engine = load_engine(choose_engine(settings)[0], checkpoint, tokens)
    await engine.start()
    await engine.close()

asyncio.run(start())
print(*(name for name in ("torch", "torch._dynamo", "transformers") if name in sys.modules))
"""


def test_neither_transformers_nor_pytorchs_compiler_is_imported():
    """The compiler is 800 modules, which take longer to import than all of the rest."""
    command = [sys.executable, "-c", _SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["torch"]
