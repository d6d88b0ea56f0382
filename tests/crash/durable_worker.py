"""Workers for the crash tests: this process imports everything once and forks a worker for each line it reads.

    python durable_worker.py DATABASE_URL LEASE_SECONDS OUTSIDE

Each line on standard input starts a worker; its process id is written to standard output. A line with the name of one
of the store's functions starts one that freezes in the middle of that function's transaction, once the test has let it
`freeze`. SIGUSR1 makes the clock of a worker jump: up to an hour back, or a few seconds ahead.

The file OUTSIDE stands for a service that no transaction reaches: each call adds a line with its idempotency key.
`effect` and `outside` are tables of the tests: transaction steps write the first, handlers of jobs talk to the test
through the second.
"""

import asyncio
import gc
import os
import random
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import JobContext, JobLost, Jobs, Retry, store
from backstay.kernel.clock import Clock, SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database, Tx
from backstay.kernel.settings import Settings
from backstay.kernel.telemetry import configure_logging
from backstay.workflows import Run, Workflow, Workflows

MASTER_KEY = "crash-test-master-key-0123456789abcdef"
TRANSACTIONS = 3
LONG = random.Random(7).randbytes(40_000).hex()  # an answer that does not fit into the step's row
OUTSIDE_STEPS = 2 * TRANSACTIONS
WAITS = 4  # ways to wait: for a person, for a time, for a signal, for a child; each run waits in one of them


class Parcel(BaseModel):
    number: int


class Refund(BaseModel):
    parcel: int


class JumpingClock:
    """The clock of a machine that is set right, and wrong again, while it works."""

    def __init__(self) -> None:
        self._off = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._off

    def jump(self, *_: object) -> None:
        self._off = timedelta(seconds=random.choice([0, random.uniform(-3600, 0), random.uniform(0, 3)]))


def settings(url: str, lease: float) -> Settings:
    return Settings.load(database_url=url, master_key=MASTER_KEY, lease_seconds=lease, pool_size=8)


def build(
    db: Database, config: Settings, outside: Path | None = None, clock: Clock | None = None
) -> tuple[Jobs, Workflows, Workflow[Parcel, int]]:
    """The services, with the workflow of the test."""
    clock = clock or SystemClock()
    jobs = Jobs(db, clock, config)
    workflows = Workflows(db, clock, jobs, Audit(db, clock, Vault.of(config)), Events(db, clock))

    async def call_outside(answer: str, *, idempotency_key: str) -> str:
        assert outside is not None
        with outside.open("ab", buffering=0) as file:  # one write at the end of the file: lines do not mix
            file.write(f"{idempotency_key}\n".encode())
        await asyncio.sleep(random.uniform(0, 0.02))
        return f"{idempotency_key}:{answer}"

    async def write(tx: Tx, run: UUID, step: int) -> int:
        await tx.execute("insert into public.effect values (%s, %s)", [run, step])
        await asyncio.sleep(random.uniform(0, 0.01))
        return step

    @workflows.workflow(name="weigh")
    async def weigh(run: Run, parcel: Parcel) -> int:
        return await run.transaction(write, run.id, parcel.number)

    async def wait(run: Run, parcel: Parcel) -> None:
        match parcel.number % WAITS:
            case 0:
                assert (await run.approve(Refund(parcel=parcel.number))).approved
            case 1:
                await run.sleep(timedelta(milliseconds=300))
            case 2:
                assert await run.signal("paid", int) == parcel.number
            case 3:
                assert await run.child(weigh, parcel) == parcel.number

    @workflows.workflow(name="deliver", retry=Retry(max_attempts=50, base=timedelta(milliseconds=20)))
    async def deliver(run: Run, parcel: Parcel) -> int:
        chance = await run.random()
        for number in range(TRANSACTIONS):
            answers = await asyncio.gather(*(run.step(call_outside, answer) for answer in ("short", LONG)))
            assert [answer.split(":")[::2] for answer in answers] == [[str(run.id), "short"], [str(run.id), LONG]]
            assert await run.transaction(write, run.id, number) == number
            if number == 0:
                await wait(run, parcel)
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


async def work(url: str, lease: float, outside: Path) -> None:
    config, clock = settings(url, lease), JumpingClock()
    signal.signal(signal.SIGUSR1, clock.jump)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Database(url, config) as db:
        from correspondence import correspond  # beside this file, where only a script finds it
        from journeys import travel

        jobs, workflows, _ = build(db, config, outside, clock)
        correspond(workflows)
        travel(workflows, outside)
        await jobs.worker(concurrency=8).run(stop)


def main(url: str, lease: float, outside: Path) -> None:
    gc.freeze()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a worker that has just been forked has no clock yet
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
            asyncio.run(work(url, lease, outside))
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
