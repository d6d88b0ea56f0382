"""A worker whose run has a large output recorded and a step under way, for a test that kills it there.

    python scanner.py DATABASE_URL DATA_DIR MASTER_KEY

It writes a line once that step has begun, and then waits to be killed.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable

from pydantic import BaseModel

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.settings import Settings
from backstay.workflows import Run, Workflow, Workflows

LEASE = 1.0  # seconds
LARGE = random.Random(7).randbytes(40_000).hex()  # nothing that Postgres could compress to a small row


class Scan(BaseModel):
    page: str


def services(db: Database, config: Settings) -> tuple[Jobs, Workflows]:
    jobs = Jobs(db, SystemClock(), config)
    return jobs, Workflows(
        db, SystemClock(), jobs, Audit(db, SystemClock(), Vault.of(config)), Events(db, SystemClock())
    )


def register(
    workflows: Workflows, read: Callable[[str], Awaitable[str]], measure: Callable[[str], Awaitable[int]]
) -> Workflow[Scan, int]:
    @workflows.workflow(name="scan")
    async def scan(run: Run, input: Scan) -> int:
        text = await run.step(read, input.page, name="read")
        return await run.step(measure, text, name="measure")

    return scan


async def main(config: Settings) -> None:
    async def read(page: str) -> str:
        return page * 2

    async def measure(text: str) -> int:
        print("begun", flush=True)
        await asyncio.Event().wait()
        return len(text)

    async with Database(config.database_url, config) as db:
        jobs, workflows = services(db, config)
        register(workflows, read, measure)
        await jobs.worker(queues=["workflows"]).run(asyncio.Event())


if __name__ == "__main__":
    url, directory, key = sys.argv[1:]
    asyncio.run(
        main(Settings.load(database_url=url, data_dir=directory, master_key=key, lease_seconds=LEASE, pool_size=4))
    )
