import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from pydantic import BaseModel
from typer.testing import CliRunner

from backstay.audit import Audit
from backstay.commands import commands
from backstay.events import Events
from backstay.jobs import Jobs, Retry
from backstay.kernel.clock import ManualClock, SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.settings import Settings
from backstay.workflows import Workflows
from conftest import MASTER_KEY

SOON = Retry(max_attempts=3, base=timedelta(milliseconds=5))


class Order(BaseModel):
    """The input of the tests' workflows."""

    number: int = 0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A lease that a busy machine cannot miss."""
    return settings.model_copy(update={"lease_seconds": 30.0})


@pytest.fixture
def jobs(db: Database, clock: SystemClock, settings: Settings) -> Jobs:
    return Jobs(db, clock, settings)


@pytest.fixture
def workflows(db: Database, clock: SystemClock, jobs: Jobs, vault: Vault) -> Workflows:
    return Workflows(db, clock, jobs, Audit(db, clock, vault), Events(db, clock))


@pytest.fixture
def slow_clock(settings: Settings, db: Database, vault: Vault, manual_clock: ManualClock) -> tuple[Workflows, Jobs]:
    """Workflows whose clock the test moves."""
    jobs = Jobs(db, manual_clock, settings)
    return Workflows(db, manual_clock, jobs, Audit(db, manual_clock, vault), Events(db, manual_clock)), jobs


@pytest.fixture
async def effects(database_url: str) -> None:
    """A domain table `effect` that the app role may write."""
    import psycopg

    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("create table public.effect (run text, step int)")
        await connection.execute("grant all on public.effect to backstay_app, backstay_system")


Cli = Callable[..., Awaitable[Result]]


@pytest.fixture
def cli(database_url: str, tmp_path: Path) -> Cli:
    """Runs `backstay …` on the test's database, in a thread: the command has an event loop of its own."""
    environment = {
        "BACKSTAY_DATABASE_URL": database_url,
        "BACKSTAY_DATA_DIR": str(tmp_path),
        "BACKSTAY_MASTER_KEY": MASTER_KEY,
        "COLUMNS": "200",
    }

    async def call(*arguments: object) -> Result:
        return await asyncio.to_thread(CliRunner(env=environment).invoke, commands, [*map(str, arguments)])

    return call
