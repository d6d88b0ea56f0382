"""Runs that wait for signals, timers and children while their workers are killed with `kill -9`.

Signals come from several processes, in the middle of their runs' deaths. At the end every run has ended, every letter
has come once and in its herald's order, and every child was started once.
"""

import asyncio
import os
import random
import time
from pathlib import Path
from uuid import UUID

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.workflows import RunHandle, Workflows

from .correspondence import Collection, Office, correspond
from .crew import LEASE, crew
from .durable_worker import settings

COLLECTORS, HERALDS, LETTERS = 4, 3, 5
KILLS = 12
LIMIT = 60.0  # seconds


async def test_no_wake_up_is_lost_while_workers_are_killed(database_url: str, tenant: UUID, tmp_path: Path) -> None:
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(2**32))
    print(f"CRASH_SEED={seed}")
    chance, config = random.Random(seed), settings(database_url, LEASE)
    async with Database(database_url, config) as db:
        jobs = Jobs(db, SystemClock(), config)
        audit, events = Audit(db, SystemClock(), Vault.of(config)), Events(db, SystemClock())
        collect, office = correspond(Workflows(db, SystemClock(), jobs, audit, events))
        wanted = Collection(letters=HERALDS * LETTERS)
        collectors = [await collect.start(wanted, tenant=tenant) for _ in range(COLLECTORS)]
        offices = [
            await office.start(Office(to=to.id, heralds=HERALDS, letters=LETTERS), tenant=tenant) for to in collectors
        ]
        async with crew(database_url, tmp_path, 3) as workers:
            began = time.monotonic()
            while workers.killed < KILLS or await unfinished(collectors + offices):
                assert time.monotonic() - began < LIMIT, f"{await unfinished(collectors + offices)}, seed {seed}"
                await asyncio.sleep(chance.uniform(0.02, 0.15))
                if workers.killed < KILLS:
                    await workers.kill(chance)
                await workers.tend()
        for handle in offices:
            assert await handle.result(1) == HERALDS * LETTERS
        for handle in collectors:
            letters = await handle.result(1)
            assert sorted(letters) == list(range(HERALDS * LETTERS)), f"seed {seed}"
            for herald in range(HERALDS):
                own = [letter for letter in letters if letter // LETTERS == herald]
                assert own == sorted(own), f"a herald's letters changed places, seed {seed}"
        async with db.system_tx() as tx:
            runs = await (await tx.execute("select workflow, count(*) from backstay.run group by 1")).fetchall()
        assert dict(runs) == {"collect": COLLECTORS, "office": COLLECTORS, "herald": COLLECTORS * HERALDS}
        print(f"{workers.killed} killed, {time.monotonic() - began:.1f} s, seed {seed}")


async def unfinished(handles: list[RunHandle]) -> list[str]:
    runs = [await handle.get() for handle in handles]
    return [f"{run.workflow} is {run.state}" for run in runs if not run.state.finished]
