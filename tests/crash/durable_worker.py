"""Workers for the crash tests: this process imports everything once and forks a worker for each line it reads.

    python durable_worker.py DATABASE_URL LEASE_SECONDS

Each line on standard input starts a worker; its process id is written to standard output. A line with the name of one
of the store's functions starts one that freezes in the middle of that function's transaction, once the test has let it
`freeze`. `effect` and `outside` are tables of the test: the first is written by transaction steps, the second stands
for a service outside that counts how often it was called with which idempotency key.
"""

import asyncio
import gc
import os
import random
import signal
import sys
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import JobContext, JobLost, Jobs, Retry, store
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database, Tx
from backstay.kernel.settings import Settings
from backstay.kernel.telemetry import configure_logging
from backstay.workflows import Run, Workflow, Workflows

MASTER_KEY = "crash-test-master-key-0123456789abcdef"
TRANSACTIONS = 3


class Parcel(BaseModel):
    number: int


def settings(url: str, lease: float) -> Settings:
    return Settings.load(database_url=url, master_key=MASTER_KEY, lease_seconds=lease, pool_size=8)


def build(db: Database, config: Settings) -> tuple[Jobs, Workflows, Workflow[Parcel, int]]:
    """The services, with the workflow of the test."""
    clock = SystemClock()
    jobs = Jobs(db, clock, config)
    workflows = Workflows(db, clock, jobs, Audit(db, clock, Vault.of(config)), Events(db, clock))
    tenant_of: dict[UUID, UUID] = {}

    async def call_outside(run: UUID, *, idempotency_key: str) -> str:
        async with db.tenant_tx(tenant_of[run]) as tx:
            await tx.execute("insert into public.outside values (%s, %s)", [run, idempotency_key])
        await asyncio.sleep(random.uniform(0, 0.02))
        return idempotency_key

    async def write(tx: Tx, run: UUID, step: int) -> int:
        await tx.execute("insert into public.effect values (%s, %s)", [run, step])
        await asyncio.sleep(random.uniform(0, 0.01))
        return step

    @workflows.workflow(name="deliver", retry=Retry(max_attempts=50, base=timedelta(milliseconds=20)))
    async def deliver(run: Run, parcel: Parcel) -> int:
        tenant_of[run.id] = run.tenant
        chance = await run.random()
        for number in range(TRANSACTIONS):
            key = await run.step(call_outside, run.id)
            assert key.startswith(str(run.id))
            assert await run.transaction(write, run.id, number) == number
        assert await run.random() != chance
        return parcel.number

    async def slow(context: JobContext, parcel: Parcel) -> None:
        """Says that it has begun, waits for `go on`, and then writes: but only while its claim stands."""

        async def say(what: str) -> None:
            async with db.tenant_tx(context.tenant) as tx:
                await tx.execute("insert into public.outside values (%s, %s)", [context.job, what])

        await say(f"begun {context.fence}")
        try:
            while True:
                async with db.tenant_tx(context.tenant) as tx:
                    if await (await tx.execute("select 1 from public.outside where key = 'go on'")).fetchone():
                        break
                await asyncio.sleep(0.02)
            async with context.transaction() as tx:
                await tx.execute("insert into public.effect values (%s, %s)", [context.job, parcel.number])
        except (JobLost, asyncio.CancelledError):
            await asyncio.shield(say("lost"))
            raise

    async def mark(context: JobContext, parcel: Parcel) -> None:
        async with db.tenant_tx(context.tenant) as tx:
            await tx.execute("insert into public.effect values (%s, %s)", [context.job, parcel.number])

    jobs.handler("slow", slow, Parcel)
    jobs.handler("mark", mark, Parcel)
    return jobs, workflows, deliver


def freeze_in(name: str) -> None:
    """Stops this process after a statement and before its commit, when a row of `outside` says so."""
    statement = getattr(store, name)

    async def frozen(tx: Tx, *args: Any, **kwargs: Any) -> Any:
        result = await statement(tx, *args, **kwargs)
        if await (await tx.execute("select 1 from public.outside where key = 'freeze'")).fetchone():
            os.kill(os.getpid(), signal.SIGSTOP)
        return result

    setattr(store, name, frozen)


async def work(url: str, lease: float) -> None:
    config = settings(url, lease)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Database(url, config) as db:
        jobs, _, _ = build(db, config)
        await jobs.worker(concurrency=8).run(stop)


def main(url: str, lease: float) -> None:
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the killed ones
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.close(0)
            os.dup2(2, 1)  # standard output is for process ids
            configure_logging("warning", "json")
            random.seed(os.getpid())
            if line.strip():
                freeze_in(line.strip())
            asyncio.run(work(url, lease))
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
