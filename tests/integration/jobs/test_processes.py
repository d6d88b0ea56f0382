"""CPU-bound handlers in processes: killed ones fail their own attempt only, and stopped ones do stop."""

import os
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from backstay.jobs import JobContext, Jobs, ProcessContext, Retry
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.principal import Principal

from .conftest import Note, until, working
from .crunching import Work, crunch

QUICK = Retry(max_attempts=2, base=timedelta(0))


@pytest.fixture
def crunching(jobs: Jobs) -> Jobs:
    jobs.handler("crunch", crunch, Work, pool="process", retry=QUICK, timeout=timedelta(seconds=60))
    return jobs


def pids(folder: Path, pattern: str = "*.*") -> list[int]:
    return [int(line) for file in folder.glob(pattern) for line in file.read_text().split()]


async def test_work_runs_in_processes_that_are_used_again(crunching: Jobs, owner: Principal, tmp_path: Path) -> None:
    inputs = [(None, Work(folder=tmp_path, name=f"n{number}")) for number in range(20)]
    await crunching.enqueue_many("crunch", inputs, tenant=owner.tenant)
    await crunching.worker().run_until_idle()
    assert Counter(job.state for job in await crunching.list(owner)) == {"completed": 20}
    used = Counter(pids(tmp_path))
    assert 1 <= len(used) <= (psutil.cpu_count() or 1)
    assert not any(map(psutil.pid_exists, used)), "they end with the worker"


async def test_a_killed_process_fails_its_own_attempt_only(crunching: Jobs, owner: Principal, tmp_path: Path) -> None:
    bystander = await crunching.enqueue("crunch", Work(do="wait", folder=tmp_path, name="by"), tenant=owner.tenant)
    async with working(crunching.worker()):
        await until(lambda: (tmp_path / "by.1").exists())
        victim = await crunching.enqueue("crunch", Work(do="kill", folder=tmp_path), tenant=owner.tenant)
        if (psutil.cpu_count() or 1) > 1:
            await until(lambda: (tmp_path / "work.1").exists())
            assert (await crunching.get(owner, bystander)).state == "running"
        (tmp_path / "go").touch()

        async def over() -> bool:
            return all([(await crunching.get(owner, id)).state == "completed" for id in (bystander, victim)])

        await until(over)
    found = [await crunching.get(owner, id) for id in (bystander, victim)]
    assert [job.attempt for job in found] == [1, 2]


async def test_a_job_that_kills_its_process_each_time_is_discarded_with_the_reason(
    jobs: Jobs, owner: Principal, tmp_path: Path
) -> None:
    jobs.handler("fatal", crunch, Work, pool="process", retry=Retry(max_attempts=1))
    id = await jobs.enqueue("fatal", Work(do="kill", folder=tmp_path), tenant=owner.tenant)
    await jobs.worker().run_until_idle()
    job = await jobs.get(owner, id)
    assert (job.state, job.error) == ("discarded", "its process died (signal 9)")


@pytest.mark.parametrize("seconds", [5.0, 10.0])
async def test_a_timeout_kills_the_process_and_its_children(
    jobs: Jobs, owner: Principal, tmp_path: Path, seconds: float
) -> None:
    """Short ones have a timer, long ones are looked at now and then."""
    jobs.handler("spin", crunch, Work, pool="process", retry=Retry(max_attempts=1), timeout=timedelta(seconds=seconds))
    id = await jobs.enqueue("spin", Work(do="spin", folder=tmp_path), tenant=owner.tenant)
    await jobs.worker().run_until_idle()
    job = await jobs.get(owner, id)
    assert (job.state, "timeout" in (job.error or "")) == ("discarded", True)
    [pid] = pids(tmp_path, "work.1")
    await until(lambda: not _runs(pid) and not _runs(int((tmp_path / "child").read_text())))


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_cancelling_kills_the_process(crunching: Jobs, owner: Principal, tmp_path: Path) -> None:
    id = await crunching.enqueue("crunch", Work(do="spin", folder=tmp_path), tenant=owner.tenant)
    async with working(crunching.worker()):
        await until(lambda: (tmp_path / "child").exists())
        await crunching.cancel(owner, id)

        async def cancelled() -> bool:
            return (await crunching.get(owner, id)).state == "cancelled"

        await until(cancelled)
        await until(lambda: not _runs(pids(tmp_path, "work.1")[0]))


@pytest.mark.parametrize(
    ("do", "state", "attempt", "error"),
    [
        ("snooze", "scheduled", 0, "too early"),
        ("retry", "retryable", 1, "busy"),
        ("cancel", "cancelled", 1, "not needed"),
        ("discard", "discarded", 1, "broken"),
        ("fail", "discarded", 2, "Unpicklable: cannot be pickled"),
    ],
)
async def test_outcomes_come_back(
    crunching: Jobs, owner: Principal, tmp_path: Path, do: str, state: str, attempt: int, error: str
) -> None:
    id = await crunching.enqueue("crunch", Work(do=do, folder=tmp_path), tenant=owner.tenant)
    await crunching.worker().run_until_idle()
    job = await crunching.get(owner, id)
    assert (job.state, job.attempt, job.error) == (state, attempt, error)


async def test_progress_comes_back(crunching: Jobs, owner: Principal, tmp_path: Path) -> None:
    id = await crunching.enqueue("crunch", Work(do="tell", folder=tmp_path), tenant=owner.tenant)

    async def told() -> bool:
        return (await crunching.get(owner, id)).progress_note == "half of it"

    async with working(crunching.worker()):
        await until(told)
        (tmp_path / "go").touch()


def test_the_processes_of_a_worker_that_is_killed_end_in_the_middle_of_their_work(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", LONELY, str(tmp_path)], env={**os.environ, "PATHS": PATHS})
    try:
        ends = time.monotonic() + 30
        while not (tmp_path / "child").exists():
            assert time.monotonic() < ends
            time.sleep(0.05)
        [pid] = pids(tmp_path, "work.1")
        assert _runs(pid)
    finally:
        worker.kill()
        worker.wait(10)
    psutil.Process(int((tmp_path / "child").read_text())).kill()
    ends = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < ends
        time.sleep(0.05)


PATHS = os.pathsep.join(sys.path)
LONELY = f"""
import asyncio, os, sys
sys.path[:] = os.environ["PATHS"].split(os.pathsep)
from types import SimpleNamespace
from backstay.jobs.processes import Processes
from {crunch.__module__} import Work
context = SimpleNamespace(tenant=None, job=None, name="", queue="", attempt=1, fence=1, deadline=None)
handler = SimpleNamespace(place="{crunch.__module__}:crunch")
asyncio.run(Processes(1).run(handler, context, Work(do="spin", folder=sys.argv[1])))
"""


def test_what_another_process_cannot_find_is_refused(jobs: Jobs) -> None:
    def local(context: ProcessContext, note: Note) -> None: ...

    async def coroutine(context: JobContext, note: Note) -> None: ...

    with pytest.raises(ConfigurationError, match="top of a module"):
        jobs.handler("local", local, Note, pool="process")
    coroutine.__qualname__ = "coroutine"
    with pytest.raises(ConfigurationError, match="not `async def`"):
        jobs.handler("coroutine", coroutine, Note, pool="process")
