"""A program for `test_jobs`: does what its job says."""

import errno
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from internvl_server.concurrency.jobs import serve_jobs

from tests.live.taken_over.attempts import Target, attempt, call


def outcome_of_call(name: str) -> str:
    try:
        call(name, -1, -1, -1, -1)
    except OSError as err:
        return errno.errorcode[err.errno]
    return "done"


def answer(job: Mapping[str, Any]) -> Mapping[str, Any]:
    if "compute" in job:
        while True:
            pass
    if "match" in job:
        re.match("(a+)+$", "a" * 99 + "b")
    if "allocate" in job:
        bytearray(1 << 30)
    if "die" in job:
        os.abort()
    if "attempt" in job:
        return {"outcome": attempt(job["attempt"], Target(**job["target"]))}
    if "sleep" in job:
        time.sleep(60)
    if "raise" in job:
        raise KeyError("a defect")
    if "print" in job:
        os.write(1, b'{"said": "printed"}\n')
    outcomes = {name: outcome_of_call(name) for name in job.get("calls", ())}
    return {
        "outcomes": outcomes,
        "said": job.get("say"),
        "pid": os.getpid(),
        "environment": dict(os.environ),
    }


if __name__ == "__main__":
    serve_jobs(answer)
