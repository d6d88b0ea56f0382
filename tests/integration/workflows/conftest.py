from datetime import timedelta

import pytest
from pydantic import BaseModel

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import Jobs, Retry
from backstay.kernel.clock import ManualClock, SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.settings import Settings
from backstay.workflows import Workflows

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
