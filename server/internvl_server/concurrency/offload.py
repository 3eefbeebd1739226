"""The one rule of what may run on the event loop: calls that take under a millisecond.

Longer calls run in a thread, which keeps the loop responsive only where the call releases the interpreter
lock (GIL):

- `tokenizers.Tokenizer.encode_batch*` releases it; `encode` and `decode` do not.
- numpy releases it in arithmetic and copies of large arrays.
- JSON parsing and validation in pydantic-core, `json.loads` and Python code hold it. In a thread, Python code
  still yields to the loop every few milliseconds; a native call that holds the lock does not.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

__all__ = [
    "MAX_ANSWER_TOKENS",
    "MAX_COPIED_IDS",
    "MAX_JSON_BYTES",
    "MAX_MEDIA_BYTES",
    "MAX_TEXT_CHARS",
    "MAX_TOKEN_IDS",
    "offload",
]

T = TypeVar("T")

# The largest inputs whose processing takes under a millisecond.
MAX_JSON_BYTES = 16_384  # to parse and validate: up to 3 ms if every object has unknown members
MAX_MEDIA_BYTES = 262_144  # to decode from base64 and to hash
MAX_TEXT_CHARS = 1024  # to tokenize
MAX_ANSWER_TOKENS = 128  # to write, with log probabilities
MAX_TOKEN_IDS = 4096  # to turn into text
MAX_COPIED_IDS = 65_536  # to copy from list to list

# Calls beyond this number wait for a thread; admission bounds how many can wait.
_threads = ThreadPoolExecutor(max(4, os.cpu_count() or 1), thread_name_prefix="offload")


async def offload(call: Callable[[], T], *, size: int = 1, limit: int = 0) -> T:
    """Run a CPU-bound call: here if its input is small, in a thread otherwise.

    A cancelled caller does not stop a call that has begun; its result is dropped.

    Args:
        call: Must be safe to run in another thread. It sees the caller's context variables.
        size: Size of its input, in the unit of `limit`.
        limit: Largest size that runs on the event loop: one of this module's constants, or 0 for none.
    """
    if size <= limit:
        return call()
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, copy_context().run, call)
