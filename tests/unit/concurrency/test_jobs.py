"""Jobs in processes: limits of time and memory, death, and the end of the server."""

import asyncio
import os
from dataclasses import asdict

import pytest
from internvl_server.concurrency import jobs
from internvl_server.concurrency.confinement import rules
from internvl_server.concurrency.jobs import JobLimitError, JobProcesses
from internvl_server.concurrency.priority import NICENESS
from internvl_server.errors import EngineError, EngineOverloadedError, EngineUnavailableError
from seccompy.syscalls import AARCH64_SYSCALLS, X86_64_SYSCALLS

from tests.live.taken_over.attempts import ATTEMPTS, REFUSED, Target

PROGRAM = "tests.unit.concurrency.job_program"


@pytest.fixture
def make(monkeypatch, pytestconfig):
    root = pytestconfig.rootpath
    monkeypatch.setenv(
        "PYTHONPATH", f"{root}:{root / 'server'}"
    )  # a process finds packages where the server does
    made = []

    def make(program=PROGRAM, **options):
        made.append(JobProcesses(program, **options))
        return made[-1]

    yield make
    assert all(not processes._all for processes in made), "the test closes them"


@pytest.fixture
async def processes(make, monkeypatch):
    monkeypatch.setattr(jobs, "_WALL_FACTOR", 200)  # a busy machine lets a job wait
    processes = make(limit_s=0.3, num_processes=1, max_bytes=300 << 20)
    yield processes
    await processes.close()


async def test_a_job_is_answered_by_a_process_that_is_used_again(processes):
    first, second = await processes.run({"say": "é"}), await processes.run({"say": 2})
    assert (first["said"], second["said"]) == ("é", 2)
    assert first["pid"] == second["pid"]


async def test_a_process_that_died_while_idle_is_replaced(processes):
    first = await processes.run({"say": 1})
    [process] = processes._all
    process.kill()
    await process.wait()
    second = await processes.run({"say": 2})
    assert second["said"] == 2
    assert second["pid"] != first["pid"]


@pytest.mark.parametrize("job", ["compute", "match", "allocate", "die", "print"], ids=str)
async def test_a_job_beyond_the_limits_fails_alone(processes, job):
    if job == "print":  # is no answer
        assert (await processes.run({"print": True}))["said"] is None
        return
    with pytest.raises(JobLimitError):
        await processes.run({job: True})
    assert (await processes.run({"say": 1}))["said"] == 1


@pytest.mark.parametrize("name", [name for name in ATTEMPTS if name != "thread"])
async def test_a_process_that_was_taken_over_is_refused(processes, name, tmp_path):
    (tmp_path / "keys").write_text("sk-key")
    target = Target(os.getpid(), [os.getpid()], "sk-key", str(tmp_path / "keys"), str(tmp_path))
    outcome = (await processes.run({"attempt": name, "target": asdict(target)}))["outcome"]
    assert outcome in {f"refused {number}" for number in REFUSED}


async def test_no_other_system_call_is_allowed(processes):
    conditional = {"mmap", "mprotect", "prctl", "prlimit64", "clone", "clone3", "time"}
    others = AARCH64_SYSCALLS.keys() & X86_64_SYSCALLS.keys() - {*rules._ALLOWED, *conditional}
    outcomes = (await processes.run({"calls": sorted(others)}))["outcomes"]
    assert len(others) > 250
    assert set(outcomes.values()) == {"EPERM"}
    # Those that depend on their arguments, with arguments that are not allowed.
    outcomes = (await processes.run({"calls": sorted(conditional - {"time"})}))["outcomes"]
    assert outcomes.pop("clone3") == "ENOSYS"
    assert outcomes.pop("clone") != "done"
    assert set(outcomes.values()) == {"EPERM"}


async def test_a_job_that_only_waits_is_ended(processes, monkeypatch):
    monkeypatch.setattr(jobs, "_WALL_FACTOR", 4)
    with pytest.raises(JobLimitError):
        await processes.run({"sleep": True})


async def test_a_process_that_does_not_start_in_time_is_a_defect(processes, monkeypatch):
    monkeypatch.setattr("internvl_server.concurrency.jobs._START_S", 0)
    with pytest.raises(EngineError, match="does not start"):
        await processes.run({"say": 1})


async def test_a_process_that_the_system_refuses_is_a_defect(processes, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere")
    with pytest.raises(EngineError, match="does not start"):
        await processes.run({"say": 1})


async def test_a_defect_has_its_traceback(processes):
    with pytest.raises(EngineError, match="KeyError: 'a defect'"):
        await processes.run({"raise": True})
    assert (await processes.run({"say": 1}))["said"] == 1


async def test_a_job_that_finds_no_free_process_is_refused(make):
    processes = make(num_processes=1, limit_s=60.0, wait_s=0.2)
    busy = asyncio.ensure_future(processes.run({"sleep": True}))
    await asyncio.sleep(0)
    with pytest.raises(EngineOverloadedError):
        await processes.run({"say": 1})
    await processes.close()
    with pytest.raises(EngineUnavailableError):
        await busy


async def test_a_cancelled_job_frees_its_place(processes):
    job = asyncio.ensure_future(processes.run({"sleep": True}))
    while not processes._all or processes._idle:  # it is starting
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert (await processes.run({"say": 1}))["said"] == 1


async def test_after_closing_no_job_runs(processes):
    await processes.close()
    with pytest.raises(EngineUnavailableError):
        await processes.run({"say": 1})


async def test_a_program_that_does_not_start_is_a_defect(make):
    processes = make("no.such.program")
    with pytest.raises(EngineError, match=r"no\.such\.program"):
        await processes.run({})
    await processes.close()


async def test_a_program_that_says_something_else_is_a_defect(make):
    processes = make("this")
    with pytest.raises(EngineError, match="does not start"):
        await processes.run({})
    assert not processes._all


async def test_a_job_gives_way_to_the_server(processes):
    await processes.run({"say": 1})
    [process] = processes._all
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(own + NICENESS, 19)


async def test_the_environment_is_not_inherited(processes, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "x")
    assert "SECRET_KEY" not in (await processes.run({"say": 1}))["environment"]
