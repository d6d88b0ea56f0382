"""A worker process of its own, with limits; prints each start and each end. Run by the race test of limits."""

import asyncio
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from backstay.jobs import JobContext, Jobs, PerKey
from backstay.kernel.clock import SystemClock
from backstay.kernel.db import Database
from backstay.kernel.settings import Settings


class Order(BaseModel):
    customer: str


def register(jobs: Jobs) -> None:
    async def ship(context: JobContext, order: Order) -> None:
        print(f"begin {time.monotonic()} {order.customer}", flush=True)
        await asyncio.sleep(0.01)
        print(f"end {time.monotonic()} {order.customer}", flush=True)

    jobs.handler("ship", ship, Order, concurrency=PerKey(2, lambda order: order.customer))


async def main(url: str, folder: str) -> None:
    settings = Settings.load(database_url=url, master_key="limiting--" * 4, data_dir=Path(folder))
    async with Database(url, settings) as db:
        jobs = Jobs(db, SystemClock(), settings)
        register(jobs)
        await jobs.worker(concurrency=8).run_until_idle()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
