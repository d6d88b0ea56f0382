"""The promise of the project: their row, the run, the budget, the audit entry, the event and the embedding job commit
together, or not at all; in a transaction of ours and in one of theirs.
"""

import asyncio
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from backstay import Run
from backstay.app import App
from backstay.kernel.db import APP, OWNER, Tx
from backstay.kernel.principal import Principal

TABLES = {
    "public.tickets": 1,
    "backstay.run": 1,
    "backstay.budget": 1,
    "backstay.content": 1,
    "backstay.outbox": 1,
    "backstay.audit_entry": 1,
    "backstay.job": 2,  # one resumes the run, one embeds the document
}


class Oops(Exception):
    """Something goes wrong after everything was written."""


class Ticket(BaseModel):
    id: int
    text: str


async def answer(run: Run, ticket: Ticket) -> str:
    return ticket.text


@pytest.fixture
async def tickets(database_url: str) -> None:
    """A table of the user's, made the way their migrations make it."""
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(f"set role {OWNER}")
        await connection.execute("create table public.tickets (id int primary key, text text not null)")


async def write_everything(app: App, by: Principal, tx: Tx) -> UUID:
    """One business act through the public API."""
    await tx.execute("insert into public.tickets values (%s, %s)", [1, "It is broken"])
    run = await app.workflow(answer).start(Ticket(id=1, text="It is broken"), key="1", by=by, tx=tx)
    await app.gateway.budgets.create(by, "feature", "desk", Decimal(20), "day", tx=tx)
    await app.audit.record(tx, by, "ticket.opened", "ticket:1", payload={"text": "It is broken"})
    await app.events.emit(tx, "ticket.opened", {"id": 1})
    await app.collection("tickets").put("1", {"body": "It is broken"}, by=by, tx=tx)
    return run.id


def counts(database_url: str) -> dict[str, int]:
    with psycopg.connect(database_url) as connection:
        found = {}
        for table in TABLES:
            row = connection.execute(f"select count(*) from {table}").fetchone()
            found[table] = int(row[0]) if row else 0
        return found


def grew(database_url: str, before: dict[str, int]) -> dict[str, int]:
    return {table: count - before[table] for table, count in counts(database_url).items()}


@pytest.mark.usefixtures("tickets")
async def test_all_of_it_commits_in_our_transaction(app: App, owner: Principal, database_url: str) -> None:
    before = counts(database_url)
    async with app.transaction(owner.tenant) as tx:
        await write_everything(app, owner, tx)
        assert grew(database_url, before) == dict.fromkeys(TABLES, 0), "seen before the commit"
    after = grew(database_url, before)
    assert all(after[table] >= least for table, least in TABLES.items()), after


@pytest.mark.usefixtures("tickets")
async def test_none_of_it_commits_when_the_block_fails(app: App, owner: Principal, database_url: str) -> None:
    before = counts(database_url)
    with pytest.raises(Oops):
        async with app.transaction(owner.tenant) as tx:
            await write_everything(app, owner, tx)
            raise Oops
    assert grew(database_url, before) == dict.fromkeys(TABLES, 0)


@pytest.mark.usefixtures("tickets")
@pytest.mark.parametrize("commits", [True, False])
async def test_a_callers_psycopg_connection_decides(
    app: App, owner: Principal, database_url: str, commits: bool
) -> None:
    before = counts(database_url)
    async with await AsyncConnection.connect(app.db.url_for(APP)) as connection:
        async with app.transaction(owner.tenant, using=connection) as tx:
            await write_everything(app, owner, tx)
        await (connection.commit() if commits else connection.rollback())
    after = grew(database_url, before)
    assert all((after[table] >= least) if commits else after[table] == 0 for table, least in TABLES.items()), after


@pytest.mark.usefixtures("tickets")
@pytest.mark.parametrize("commits", [True, False])
async def test_a_callers_sqlalchemy_session_decides(
    app: App, owner: Principal, database_url: str, commits: bool
) -> None:
    before = counts(database_url)
    engine = create_async_engine(app.db.url_for(APP).replace("postgresql:", "postgresql+psycopg:", 1))
    async with AsyncSession(engine) as session:
        await session.execute(text("insert into public.tickets values (2, 'theirs')"))
        async with app.transaction(owner.tenant, using=session) as tx:
            await write_everything(app, owner, tx)
        await (session.commit() if commits else session.rollback())
    await engine.dispose()
    after = grew(database_url, before)
    assert after["public.tickets"] == (2 if commits else 0)
    assert all((after[table] >= least) if commits else after[table] == 0 for table, least in TABLES.items()), after


@pytest.mark.usefixtures("tickets")
async def test_kill_9_before_the_commit_leaves_nothing(app: App, owner: Principal, database_url: str) -> None:
    before = counts(database_url)
    script = Path(__file__).with_name("die_before_commit.py")
    environment = {**os.environ, "BACKSTAY_DATABASE_URL": database_url, "BACKSTAY_MASTER_KEY": "k" * 40}
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, str(owner.tenant), stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"written\n"
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    with psycopg.connect(database_url, autocommit=True) as connection:  # until the server has noticed
        while connection.execute(
            "select 1 from pg_stat_activity where datname = current_database() and state = 'idle in transaction'"
        ).fetchone():
            pass
    assert grew(database_url, before) == dict.fromkeys(TABLES, 0)
