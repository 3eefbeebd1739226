"""A process that gives way is nicer, and takes long slices where Linux knows them."""

import re
import subprocess
import sys

PROGRAM = """
import os
from internvl_server.concurrency.priority import give_way
before = os.nice(0)
give_way(5)
print(os.nice(0) - before, os.sched_getscheduler(0))
print(open("/proc/self/sched").read())
"""


def test_niceness_and_slice() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    first, _, details = done.stdout.partition("\n")
    assert first == "5 0", done.stderr
    slices = [int(found) for found in re.findall(r"se\.slice\s*:\s*(\d+)", details)]
    assert all(found >= 10_000_000 for found in slices)
