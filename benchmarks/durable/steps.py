"""Measures recorded steps on a throw-away embedded database, with commits that wait for the disk as in production: over
many runs of one worker process, and one by one in a single run.

python benchmarks/durable/steps.py --runs 256 --steps 200
"""

import argparse
import asyncio
import gc
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
import uvloop
from pydantic import BaseModel

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.ids import new_id
from backstay.kernel.migrate import Migrations
from backstay.kernel.roles import bootstrap
from backstay.kernel.settings import Settings
from backstay.kernel.telemetry import configure_logging
from backstay.workflows import Run, Workflow, Workflows

ROUNDS = 3


class Plan(BaseModel):
    steps: int


class Bench:
    """One workflow whose steps do nothing, and the moments between which its runs are in full swing."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._clock = SystemClock()
        self._db, self._tenant = db, new_id()
        self._folder = settings.data_dir
        self._jobs = Jobs(db, self._clock, settings)
        audit = Audit(db, self._clock, Vault.of(settings))
        workflows = Workflows(db, self._clock, self._jobs, audit, Events(db, self._clock))
        self._workflow: Workflow[Plan, int] = workflows.workflow(name="bench")(self._run)
        self._gate, self._ready, self._waiting, self._left = asyncio.Event(), asyncio.Event(), 0, 0
        self._done = asyncio.Event()

    async def _run(self, run: Run, plan: Plan) -> int:
        async def work(number: int) -> int:
            return number

        self._waiting -= 1
        if self._waiting == 0:
            self._ready.set()
        await self._gate.wait()
        total = 0
        for number in range(plan.steps):
            total += await run.step(work, number)
        self._left -= 1
        if self._left == 0:
            self._done.set()
        return total

    async def measure(self, runs: int, steps: int) -> tuple[float, float, float]:
        """Steps a second while `runs` runs take `steps` steps each; CPU µs a step in this process and in Postgres."""
        for event in (self._gate, self._ready, self._done):
            event.clear()
        self._waiting = self._left = runs
        for _ in range(runs):
            await self._workflow.start(Plan(steps=steps), tenant=self._tenant)
        stop = asyncio.Event()
        worker = asyncio.create_task(self._jobs.worker(concurrency=runs).run(stop))
        await self._ready.wait()
        gc.collect()
        began, ours, theirs = time.perf_counter(), time.process_time(), server_seconds(self._folder)
        self._gate.set()
        await self._done.wait()
        seconds = time.perf_counter() - began
        ours, theirs = time.process_time() - ours, server_seconds(self._folder) - theirs
        stop.set()
        await worker
        await self._check(runs, steps)
        count = runs * steps
        return count / seconds, ours * 1e6 / count, theirs * 1e6 / count

    async def _check(self, runs: int, steps: int) -> None:
        async with self._db.system_tx() as tx:
            found = await tx.execute("select count(*), count(*) filter (where state = 'completed') from backstay.step")
            assert await found.fetchone() == (runs * steps, runs * steps)
            await tx.execute("delete from backstay.step")


def server_seconds(folder: Path) -> float:
    """CPU time of the Postgres processes that run in `folder`."""
    total = 0.0
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder.resolve()):
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            continue  # it has ended meanwhile, or is not ours to look at
    return total


def disk_microseconds(folder: Path) -> float:
    """What one write that waits for the disk costs here: the floor of a commit."""
    path, page = folder / "probe", b"x" * 8192
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        times = []
        for number in range(200):
            began = time.perf_counter()
            os.pwrite(descriptor, page, 8192 * (number % 50))
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1e6
    finally:
        os.close(descriptor)
        path.unlink()


async def main(runs: int, steps: int, singles: int) -> None:
    with tempfile.TemporaryDirectory(prefix="backstay-bench-") as folder, EmbeddedPostgres(Path(folder)) as server:
        await bootstrap(server.url)
        Migrations(server.url).up()
        settings = Settings.load(database_url=server.url, master_key="benchmark-" * 4, data_dir=Path(folder))
        print(f"machine    {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
        print(f"command    python {shlex.join(sys.argv)}")
        print(f"disk       {disk_microseconds(Path(folder)):10.0f} µs a write that waits for it, median")
        async with Database(server.url, settings) as db:
            bench = Bench(db, settings)
            for _ in range(ROUNDS):
                await report(bench, runs, steps)
            for _ in range(ROUNDS):
                await report(bench, 1, singles)
        print(f"load       {os.getloadavg()[0]:10.1f} runnable processes in the last minute")


async def report(bench: Bench, runs: int, steps: int) -> None:
    speed, ours, theirs = await bench.measure(runs, steps)
    what = "one by one in one run" if runs == 1 else f"over {runs} runs"
    print(f"steps      {speed:10,.0f} steps/s   {what}, {ours:.0f} µs CPU a step here, {theirs:.0f} µs in Postgres")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=256, help="runs at once")
    parser.add_argument("--steps", type=int, default=200, help="steps of each")
    parser.add_argument("--singles", type=int, default=5_000, help="steps of the single run")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    configure_logging("warning")
    if options.profile:
        import cProfile
        import pstats

        profile = cProfile.Profile()
        profile.enable()
    uvloop.run(main(options.runs, options.steps, options.singles))
    if options.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
