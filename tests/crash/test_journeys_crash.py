"""Runs that take steps side by side, fail and undo them while their workers are killed with `kill -9`.

At the end every run has failed and undone all it booked, the last first, and was told of once; nothing was called
outside that was not intended.
"""

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path
from uuid import UUID

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.workflows import RunDetail, RunState, Workflows

from .crew import LEASE, OUTSIDE, crew
from .durable_worker import settings
from .journeys import BOOKINGS, Journey, travel

RUNS, KILLS = 40, 12
LIMIT = 60.0  # seconds


async def test_runs_undo_what_they_did_while_workers_are_killed(
    database_url: str, tenant: UUID, tmp_path: Path
) -> None:
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(2**32))
    print(f"CRASH_SEED={seed}")
    chance, config = random.Random(seed), settings(database_url, LEASE)
    async with Database(database_url, config) as db:
        jobs = Jobs(db, SystemClock(), config)
        audit, events = Audit(db, SystemClock(), Vault.of(config)), Events(db, SystemClock())
        journey = travel(Workflows(db, SystemClock(), jobs, audit, events), None)
        handles = [await journey.start(Journey(number=number), tenant=tenant) for number in range(RUNS)]
        async with crew(database_url, tmp_path, 3) as workers:
            began = time.monotonic()
            while workers.killed < KILLS or any([not (await handle.get()).state.finished for handle in handles]):
                assert time.monotonic() - began < LIMIT, f"not ended, seed {seed}"
                await asyncio.sleep(chance.uniform(0.02, 0.2))
                if workers.killed < KILLS:
                    await workers.kill(chance)
                await workers.tend()
        lines = (tmp_path / OUTSIDE).read_text().split("\n")
        calls = Counter(line.rpartition(" ")[2] for line in lines if line)
        for handle in handles:
            verify(await handle.get(), calls, seed)
        async with db.system_tx() as tx:
            told = await (await tx.execute("select type, count(*) from backstay.outbox group by 1")).fetchall()
        assert {type: count for type, count in told if type != "run.started"} == dict.fromkeys(
            ("journey.booked", "run.undoing", "run.failed"), RUNS
        ), f"seed {seed}"
        print(f"{workers.killed} killed, {calls.total()} calls of {RUNS * 2 * BOOKINGS} steps, seed {seed}")


def verify(run: RunDetail, calls: Counter[str], seed: int) -> None:
    assert run.state == RunState.FAILED, f"{run.error}, seed {seed}"
    undone = [step for step in run.steps if step.name.startswith("undo")]
    assert len(undone) == BOOKINGS, f"seed {seed}"
    booked = [step for step in run.steps if step.kind == "step" and step.name.endswith("book")]
    for step in undone + booked:
        assert 1 <= calls[f"{run.id}:{step.seq}"] <= step.attempt, f"called more often than intended, seed {seed}"
    ends = [step.finished_at for step in undone]
    assert ends == sorted(ends, reverse=True), f"undone in the wrong order, seed {seed}"  # type: ignore[type-var]
