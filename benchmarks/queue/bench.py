"""Measures the queue on a throw-away embedded database: enqueue, throughput of one worker, start latency.

python benchmarks/queue/bench.py --jobs 100000
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
from uuid import UUID

import psutil
import uvloop
from pydantic import BaseModel

from backstay.jobs import JobContext, Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.db import Database
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.ids import new_id
from backstay.kernel.migrate import Migrations
from backstay.kernel.roles import bootstrap
from backstay.kernel.settings import Settings

BATCH = 1_000


class Nothing(BaseModel):
    number: int


async def enqueue(jobs: Jobs, tenant: UUID, count: int) -> float:
    """Seconds to enqueue `count` jobs in batches."""
    began = time.perf_counter()
    for first in range(0, count, BATCH):
        rows = [(None, Nothing(number=number)) for number in range(first, min(first + BATCH, count))]
        await jobs.enqueue_many("bench.nothing", rows, tenant=tenant)
    return time.perf_counter() - began


async def enqueue_singly(jobs: Jobs, tenant: UUID, count: int) -> float:
    """Seconds to enqueue `count` jobs, each in a transaction of its own, 8 at a time."""
    began = time.perf_counter()

    async def some() -> None:
        for number in range(count // 8):
            await jobs.enqueue("bench.nothing", Nothing(number=number), tenant=tenant)

    await asyncio.gather(*(some() for _ in range(8)))
    return time.perf_counter() - began


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


async def main(count: int, idle: int, concurrency: int) -> None:
    with tempfile.TemporaryDirectory(prefix="backstay-bench-") as folder, EmbeddedPostgres(Path(folder)) as server:
        await bootstrap(server.url)
        Migrations(server.url).up()
        settings = Settings.load(database_url=server.url, master_key="benchmark-" * 4, data_dir=Path(folder))
        async with Database(server.url, settings) as db:
            await measure(db, settings, count, idle, concurrency)


async def measure(db: Database, settings: Settings, count: int, idle: int, concurrency: int) -> None:
    jobs, tenant = Jobs(db, SystemClock(), settings), new_id()
    left, done = 0, asyncio.Event()
    begun: list[float] = []

    async def nothing(context: JobContext, input: Nothing) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    async def stamp(context: JobContext, input: Nothing) -> None:
        begun.append(time.perf_counter())
        done.set()

    jobs.handler("bench.nothing", nothing, Nothing)
    jobs.handler("bench.stamp", stamp, Nothing)
    print(f"machine    {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    print(f"command    python {shlex.join(sys.argv)}")
    seconds = await enqueue(jobs, tenant, count)
    print(f"enqueue    {count / seconds:10,.0f} jobs/s   in transactions of {BATCH:,}")
    seconds = await enqueue_singly(jobs, tenant, 4_000)
    print(f"enqueue    {4_000 / seconds:10,.0f} jobs/s   one in each transaction, 8 at a time")
    left = count + 4_000
    stop = asyncio.Event()
    gc.collect()
    began, ours, theirs = time.perf_counter(), time.process_time(), server_seconds(settings.data_dir)
    worker = asyncio.create_task(jobs.worker(concurrency=concurrency).run(stop))
    await done.wait()
    seconds = time.perf_counter() - began
    ours, theirs = time.process_time() - ours, server_seconds(settings.data_dir) - theirs
    print(f"throughput {(count + 4_000) / seconds:10,.0f} jobs/s   one worker, {concurrency} lanes, no-op handlers")
    each = 1e6 / (count + 4_000)
    print(f"CPU        {ours * each:10.1f} µs a job in the worker, {theirs * each:.1f} µs in Postgres")
    print(f"load       {os.getloadavg()[0]:10.1f} runnable processes in the last minute")
    from_call, from_commit = [], []
    for number in range(idle):
        await asyncio.sleep(0.01)
        done.clear()
        asked = time.perf_counter()
        await jobs.enqueue("bench.stamp", Nothing(number=number), tenant=tenant)
        committed = time.perf_counter()
        await done.wait()
        from_call.append((begun[-1] - asked) * 1000)
        from_commit.append((begun[-1] - committed) * 1000)
    stop.set()
    await worker
    for what, times in (("commit", from_commit), ("call", from_call)):
        p99 = statistics.quantiles(times, n=100)[98]
        median = statistics.median(times)
        print(f"latency    {median:10.2f} ms median, {p99:.2f} ms p99, from enqueue's {what} to the handler")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs to work off")
    parser.add_argument("--idle", type=int, default=300, help="jobs to time one by one")
    parser.add_argument("--concurrency", type=int, default=32, help="lanes of the worker")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    if options.profile:
        import cProfile
        import pstats

        profile = cProfile.Profile()
        profile.enable()
    uvloop.run(main(options.jobs, options.idle, options.concurrency))
    if options.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
