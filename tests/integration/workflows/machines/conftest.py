from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import tuple_row

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import Jobs
from backstay.kernel.clock import Clock, ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.settings import Settings
from backstay.workflows.machines import Definition, GuardRefused, Instance, Machine, Machines, State, Transition

WAIT = timedelta(hours=1)


def is_small(instance: Instance, data: dict[str, Any]) -> bool:
    return int(data.get("amount", 0)) <= 100


async def has_reason(instance: Instance, data: dict[str, Any]) -> bool:
    if not data.get("reason"):
        raise GuardRefused("say why")
    return True


def review(version: str = "1", **changes: Any) -> Definition:
    """A review: draft → waiting → approved | escalated | rejected | expired."""
    given: dict[str, Any] = {
        "name": "review",
        "version": version,
        "initial": "draft",
        "states": [
            "draft",
            State("waiting", timeout=WAIT, on_timeout="expire"),
            "escalated",
            State("approved", final=True),
            State("rejected", final=True),
            State("expired", final=True),
        ],
        "transitions": [
            Transition("submit", "draft", "waiting"),
            Transition("remind", "waiting", "waiting"),
            Transition("approve", "waiting", "approved", guard=is_small),
            Transition("approve", "waiting", "escalated"),
            Transition("approve", "escalated", "approved"),
            Transition("reject", ["waiting", "escalated"], "rejected", guard=has_reason),
            Transition("expire", "waiting", "expired"),
        ],
    }
    return Definition(**{**given, **changes})


def process(db: Database, clock: Clock, settings: Settings, vault: Vault) -> tuple[Machines, Jobs]:
    """The machines and jobs of a process of its own, on the same database."""
    jobs = Jobs(db, clock, settings)
    return Machines(db, clock, jobs, Audit(db, clock, vault), Events(db, clock)), jobs


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A lease that a busy machine cannot miss."""
    return settings.model_copy(update={"lease_seconds": 30.0})


@pytest.fixture
def both(db: Database, manual_clock: ManualClock, settings: Settings, vault: Vault) -> tuple[Machines, Jobs]:
    return process(db, manual_clock, settings, vault)


@pytest.fixture
def machines(both: tuple[Machines, Jobs]) -> Machines:
    """On a clock that stands still."""
    return both[0]


@pytest.fixture
def jobs(both: tuple[Machines, Jobs]) -> Jobs:
    return both[1]


@pytest.fixture
def reviews(machines: Machines) -> Machine:
    return machines.machine(review())


@asynccontextmanager
async def session(url: str, role: str, tenant: UUID) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
    """A connection as anybody could open it with that role, fenced to the tenant."""
    options = f"-c role={role} -c backstay.tenant_id={tenant}"
    async with await psycopg.AsyncConnection.connect(
        url, autocommit=True, options=options, row_factory=tuple_row
    ) as made:
        yield made


async def rows(db: Database, query: str, *values: object) -> list[tuple[Any, ...]]:
    async with db.system_tx() as tx:
        return [tuple(row) for row in await (await tx.execute(query, values)).fetchall()]
