"""Jobs of real worker processes: a frozen one writes nothing when it thaws; killed ones lose no job."""

import asyncio
import os
import random
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psutil
import psycopg
import pytest

from backstay.jobs import Jobs
from backstay.kernel.db import Database

from .crew import LEASE, crew
from .durable_worker import Parcel, build, settings
from .test_workflows_crash import rows


@pytest.fixture
def tables(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create table public.effect (run uuid, step int)")
        connection.execute("create table public.outside (run uuid, key text)")
        connection.execute("grant all on public.effect, public.outside to backstay_app, backstay_system")


async def until(db: Database, query: str, expected: object, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = (await rows(db, query))[0][0]
            if found == expected:
                return
            await asyncio.sleep(0.02)


async def test_a_frozen_worker_that_thaws_writes_nothing(
    database_url: str, tenant: UUID, tables: None, tmp_path: Path
) -> None:
    config = settings(database_url, LEASE)
    async with Database(database_url, config) as db, crew(database_url, tmp_path, size=1) as workers:
        jobs: Jobs = build(db, config)[0]
        [zombie] = workers.alive
        job = await jobs.enqueue("slow", Parcel(number=1), tenant=tenant)
        # it says so once it is in the middle of its handler, where it waits until this table has a row
        await until(db, "select count(*) from outside where key like 'begun %'", 1)
        os.kill(zombie, signal.SIGSTOP)
        await workers.hire()
        await until(db, "select count(*) >= 2 from outside where key like 'begun %'", True)
        async with db.tenant_tx(tenant) as tx:
            await tx.execute("insert into public.outside values (%s, 'go on')", [job])
        await until(db, "select count(*) from backstay.job_done where state = 'completed'", 1)
        before = await rows(db, "select attempt, rescues, finished_at from backstay.job_done")
        os.kill(zombie, signal.SIGCONT)
        await until(db, "select count(*) >= 1 from outside where key = 'lost'", True)
        assert await rows(db, "select count(*) from effect") == [(1,)]
        assert await rows(db, "select attempt, rescues, finished_at from backstay.job_done") == before
        assert before[0][0] == 1
        assert before[0][1] >= 1, "it was not rescued"


@pytest.mark.parametrize("statement", ["beat", "turn", "promote", "hold"])
async def test_a_worker_frozen_in_a_transaction_keeps_no_lock_for_long(
    database_url: str, tenant: UUID, tables: None, tmp_path: Path, statement: str
) -> None:
    config = settings(database_url, LEASE)
    async with Database(database_url, config) as db, crew(database_url, tmp_path, size=0) as workers:
        jobs: Jobs = build(db, config)[0]
        if statement == "turn":  # without a limit it goes to the server together with its commit
            await jobs.limit("default", 100)
        await workers.hire(freezes_in=statement)
        [zombie] = workers.alive
        job = await jobs.enqueue("slow", Parcel(number=1), tenant=tenant)
        await until(db, "select count(*) from outside where key like 'begun %'", 1)
        async with db.tenant_tx(tenant) as tx:
            soon = datetime.now(UTC) + timedelta(seconds=0.1)
            await jobs.enqueue("mark", Parcel(number=2), tenant=tenant, tx=tx)
            await jobs.enqueue("mark", Parcel(number=3), tenant=tenant, at=soon, tx=tx)
            await tx.execute("insert into public.outside values (%s, 'freeze')", [job])
            if statement == "hold":  # where the handler's own writing begins
                await tx.execute("insert into public.outside values (%s, 'go on')", [job])
        async with asyncio.timeout(10):
            while psutil.Process(zombie).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        async with db.tenant_tx(tenant) as tx:
            await tx.execute("update public.outside set key = 'go on' where key = 'freeze'")
        await workers.hire()
        await until(db, "select count(*) from backstay.job_done where state = 'completed'", 3, 20)
        os.kill(zombie, signal.SIGCONT)
        await until(db, "select count(*) from backstay.worker where expires_at > now()", 2)
        assert await rows(db, "select count(*) from effect where step = 1") == [(1,)]


async def test_no_job_is_lost_when_workers_are_killed(
    database_url: str, tenant: UUID, tables: None, tmp_path: Path
) -> None:
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(2**32))
    print(f"CRASH_SEED={seed}")
    chance, count = random.Random(seed), 2_000
    config = settings(database_url, LEASE)
    async with Database(database_url, config) as db:
        jobs: Jobs = build(db, config)[0]
        await jobs.enqueue_many("mark", [(None, Parcel(number=number)) for number in range(count)], tenant=tenant)
        async with crew(database_url, tmp_path) as workers:
            for _ in range(12):
                await asyncio.sleep(chance.uniform(0.05, 0.2))
                await workers.kill(chance)
            await until(db, "select count(*) from backstay.job", 0, 40)
        assert await rows(db, "select count(*), count(distinct id) from backstay.job_done") == [(count, count)]
        assert await rows(db, "select count(distinct step) from effect") == [(count,)], f"seed {seed}"
