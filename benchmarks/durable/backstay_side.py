"""Backstay on the stage."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from pydantic import BaseModel
from stage import LANES, Desk, run

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import JobContext, Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.migrate import Migrations
from backstay.kernel.roles import bootstrap
from backstay.kernel.settings import Settings
from backstay.kernel.telemetry import configure_logging
from backstay.workflows import Run, Workflow, Workflows

STEPS, BATCHES = True, True
TENANT = UUID(int=7)


class Number(BaseModel):
    number: int


def settings(url: str) -> Settings:
    return Settings.load(database_url=url, master_key="benchmark-" * 4)


def build(db: Database, config: Settings, desk: Desk | None = None) -> tuple[Jobs, Workflow[Number, int]]:
    jobs, clock = Jobs(db, SystemClock(), config), SystemClock()
    workflows = Workflows(db, clock, jobs, Audit(db, clock, Vault.of(config)), Events(db, clock))

    async def nothing(context: JobContext, input: Number) -> None:
        desk.count()

    async def stamp(context: JobContext, input: Number) -> None:
        desk.stamp(input.number)

    async def step() -> int:
        desk.count()
        return 1

    @workflows.workflow(name="bench.steps")
    async def steps(run: Run, input: Number) -> int:
        for _ in range(input.number):
            await run.step(step)
        return input.number

    jobs.handler("bench.nothing", nothing, Number)
    jobs.handler("bench.stamp", stamp, Number)
    return jobs, steps


class Sender:
    def __init__(self, jobs: Jobs, steps: Workflow[Number, int]) -> None:
        self._jobs, self._steps = jobs, steps

    async def job(self, number: int) -> None:
        await self._jobs.enqueue("bench.nothing", Number(number=number), tenant=TENANT)

    async def batch(self, numbers: Iterable[int]) -> None:
        await self._jobs.enqueue_many("bench.nothing", [(None, Number(number=n)) for n in numbers], tenant=TENANT)

    async def stamped(self, number: int) -> None:
        await self._jobs.enqueue("bench.stamp", Number(number=number), tenant=TENANT)

    async def run(self, steps: int) -> None:
        await self._steps.start(Number(number=steps), tenant=TENANT)


@asynccontextmanager
async def sender(url: str) -> AsyncIterator[Sender]:
    configure_logging("error", "json")
    config = settings(url)
    async with Database(url, config) as db:
        yield Sender(*build(db, config))


def setup(url: str) -> None:
    asyncio.run(bootstrap(url))
    Migrations(url).up()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("insert into backstay.tenant values (%s, 'bench', 'Bench', now())", [TENANT])


def clear(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate backstay.job, backstay.job_done, backstay.run, backstay.worker cascade")


def work(url: str, desk: Desk) -> None:
    async def main() -> None:
        configure_logging("error", "json")
        config = settings(url)
        async with Database(url, config) as db:
            jobs: Any = build(db, config, desk)[0]
            await asyncio.to_thread(desk.open)
            await jobs.worker(concurrency=LANES).run(asyncio.Event())

    run(main())
