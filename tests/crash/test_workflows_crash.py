"""200 runs while their workers are killed with `kill -9` and frozen with SIGSTOP at random.

At the end there is no unfinished run and no duplicate database effect, and the outside was called at most as often as
intents are recorded. `CRASH_SEED=… pytest tests/crash/test_workflows_crash.py` repeats a seed.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO
from uuid import UUID

import psycopg

from backstay.kernel.db import Database
from backstay.kernel.settings import Settings

from .durable_worker import TRANSACTIONS, Parcel, build, settings

RUNS, WORKERS, LEASE = 200, 3, 1.0
KILLS, FREEZES = 25, 4
LIMIT = 55.0  # seconds for everything to end


class Crew:
    """Real worker processes that are killed, frozen, thawed and replaced."""

    def __init__(self, spawner: asyncio.subprocess.Process) -> None:
        self._spawner = spawner
        self.alive: set[int] = set()
        self.frozen: dict[int, float] = {}
        self.killed = self.thawed = 0

    async def hire(self, freezes_in: str = "") -> None:
        assert self._spawner.stdin is not None
        assert self._spawner.stdout is not None
        self._spawner.stdin.write(f"{freezes_in}\n".encode())
        await self._spawner.stdin.drain()
        self.alive.add(int(await self._spawner.stdout.readline()))

    async def kill(self, chance: random.Random) -> None:
        victim = chance.choice(sorted(self.alive))
        os.kill(victim, signal.SIGKILL)
        self.alive.discard(victim)
        self.killed += 1
        await self.hire()

    async def freeze(self, chance: random.Random, seconds: float) -> None:
        victim = chance.choice(sorted(self.alive))
        os.kill(victim, signal.SIGSTOP)
        self.alive.discard(victim)
        self.frozen[victim] = time.monotonic() + seconds
        await self.hire()

    def thaw(self) -> None:
        """Lets zombies go on whose time is over: others have their work by now."""
        for pid, at in list(self.frozen.items()):
            if time.monotonic() >= at:
                os.kill(pid, signal.SIGCONT)
                del self.frozen[pid]
                self.alive.add(pid)
                self.thawed += 1

    def end(self) -> None:
        for pid in self.alive | self.frozen.keys():
            os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def crew(url: str, log: IO[bytes], size: int = WORKERS) -> AsyncIterator[Crew]:
    spawner = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("durable_worker.py")),
        url,
        str(LEASE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
    )
    workers = Crew(spawner)
    try:
        for _ in range(size):
            await workers.hire()
        yield workers
    finally:
        workers.end()
        assert spawner.stdin is not None
        spawner.stdin.close()
        await spawner.wait()


async def test_200_runs_survive_kills_and_zombies(database_url: str, tenant: UUID, tmp_path: Path) -> None:
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(2**32))
    print(f"CRASH_SEED={seed}")
    chance = random.Random(seed)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create table public.effect (run uuid, step int)")
        connection.execute("create table public.outside (run uuid, key text)")
        connection.execute("grant all on public.effect, public.outside to backstay_app, backstay_system")
    config = settings(database_url, LEASE)
    with (tmp_path / "workers.log").open("wb") as log:
        await survive(database_url, tenant, config, chance, seed, log)


async def survive(
    database_url: str, tenant: UUID, config: Settings, chance: random.Random, seed: int, log: IO[bytes]
) -> None:
    async with Database(database_url, config) as db:
        _, _, deliver = build(db, config)
        async with crew(database_url, log) as workers:
            for number in range(RUNS):
                await deliver.start(Parcel(number=number), tenant=tenant, key=str(number))
            began = time.monotonic()
            while await unfinished(db) or workers.frozen:
                assert time.monotonic() - began < LIMIT, f"{await unfinished(db)} runs unfinished, seed {seed}"
                await asyncio.sleep(chance.uniform(0.02, 0.25))
                workers.thaw()
                if workers.killed < KILLS:
                    await workers.kill(chance)
                if len(workers.frozen) + workers.thawed < FREEZES and chance.random() < 0.3:
                    await workers.freeze(chance, LEASE * chance.uniform(1.2, 2.5))
        took = time.monotonic() - began
        print(f"{workers.killed} killed, {workers.thawed} thawed as zombies, {took:.1f} s, seed {seed}")
        assert workers.killed >= 10, "the runs ended before the killing had begun in earnest"
        await verify(db, seed)


async def unfinished(db: Database) -> int:
    return (await rows(db, "select count(*) from backstay.run where state in ('pending', 'running')"))[0][0]


async def verify(db: Database, seed: int) -> None:
    states = dict(await rows(db, "select state, count(*) from backstay.run group by 1"))
    assert states == {"completed": RUNS}, f"seed {seed}"
    effects = dict(
        await rows(db, "select n, count(*) from (select count(*) n from effect group by run, step) x group by 1")
    )
    assert effects == {1: RUNS * TRANSACTIONS}, f"effects by how often they happened: {effects}, seed {seed}"
    over = await rows(
        db,
        "select o.key, count(*), max(s.attempt) from outside o join backstay.step s "
        "on s.run_id = o.run and o.key = s.run_id || ':' || s.seq group by 1 having count(*) > max(s.attempt)",
    )
    assert over == [], f"called more often than intended: {over}, seed {seed}"
    [(calls, keys)] = await rows(db, "select count(*), count(distinct key) from outside")
    assert keys == RUNS * TRANSACTIONS
    [(intents,)] = await rows(db, "select sum(attempt) from backstay.step where kind = 'step'")
    print(f"outside: {keys} steps, {calls} calls, {intents} recorded intents")
    assert keys <= calls <= intents
    [(ended,)] = await rows(db, "select count(*) from backstay.outbox where type = 'run.completed'")
    assert ended == RUNS, f"seed {seed}"
    audited = await rows(
        db, "select count(*), count(distinct run_id) from backstay.audit_entry where action = 'run.completed'"
    )
    assert audited == [(RUNS, RUNS)], f"seed {seed}"


async def rows(db: Database, query: str) -> list[tuple[int, ...]]:
    async with db.system_tx() as tx:
        await tx.execute("set local search_path = public")
        return await (await tx.execute(query)).fetchall()
