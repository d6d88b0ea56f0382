"""The caller's own connection as a transaction: their rows and ours commit together, when they commit."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection as SqlAlchemyConnection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from backstay.audit import Audit
from backstay.events import Events
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import APP, SYSTEM, Database, Tx
from backstay.kernel.errors import Conflict, Invalid
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

Connect = Callable[[], AbstractAsyncContextManager[Any]]


@pytest.fixture
def events(db: Database) -> Events:
    return Events(db, SystemClock())


@pytest.fixture
def audit(db: Database, vault: Vault) -> Audit:
    return Audit(db, SystemClock(), vault)


@pytest.fixture
async def engine(db: Database, own_table: None) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(db.url_for(APP).replace("postgresql://", "postgresql+psycopg://", 1))
    yield engine
    await engine.dispose()


@pytest.fixture
async def own_table(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
        await admin.execute("create table public.ticket (id uuid primary key, title text)")


@pytest.fixture(params=["psycopg", "psycopg with dict rows", "SQLAlchemy session", "SQLAlchemy connection"])
def connect(request: pytest.FixtureRequest, db: Database, engine: AsyncEngine) -> Connect:
    """Opens the caller's connection, of each kind that may be adopted."""

    @asynccontextmanager
    async def with_psycopg(row_factory: Any = None) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        connection = await psycopg.AsyncConnection.connect(db.url_for(APP), row_factory=row_factory)
        try:
            yield connection
        finally:
            await connection.close()

    kinds: dict[str, Connect] = {
        "psycopg": with_psycopg,
        "psycopg with dict rows": lambda: with_psycopg(dict_row),
        "SQLAlchemy session": lambda: AsyncSession(engine),
        "SQLAlchemy connection": engine.connect,
    }
    return kinds[str(request.param)]


async def insert_ticket(connection: Any, id: UUID) -> None:
    """As the caller would: with their own library."""
    if isinstance(connection, AsyncSession | SqlAlchemyConnection):
        await connection.execute(text("insert into public.ticket values (:id, 'broken')"), {"id": id})
    else:
        await connection.execute("insert into public.ticket values (%s, 'broken')", [id])


async def everything(db: Database, ticket: UUID) -> tuple[int, int, int]:
    """How many tickets, entries and events there are of this ticket."""
    async with db.system_tx() as tx:
        entries = await tx.execute(
            "select count(*) from backstay.audit_entry where resource = %s", [f"ticket:{ticket}"]
        )
        events = await tx.execute("select count(*) from backstay.outbox where payload->>'id' = %s", [str(ticket)])
        counts = [(await cursor.fetchone() or (0,))[0] for cursor in (entries, events)]
    async with await psycopg.AsyncConnection.connect(db.url) as admin:
        tickets = await admin.execute("select count(*) from public.ticket where id = %s", [ticket])
        row = await tickets.fetchone()
    assert row is not None
    return row[0], counts[0], counts[1]


async def write_ours(tx: Tx, owner: Principal, audit: Audit, events: Events, ticket: UUID) -> None:
    await audit.record(tx, owner, "ticket.opened", f"ticket:{ticket}", payload={"title": "broken"}, subject="ada")
    await events.emit(tx, "ticket.opened", {"id": str(ticket)})


async def test_their_row_our_entry_and_our_event_commit_together(
    db: Database, owner: Principal, audit: Audit, events: Events, connect: Connect
) -> None:
    ticket = uuid4()
    async with connect() as connection:
        await insert_ticket(connection, ticket)
        async with db.adopt(connection, owner.tenant) as tx:
            await write_ours(tx, owner, audit, events, ticket)
        assert await everything(db, ticket) == (0, 0, 0)  # it is the caller who commits
        await connection.commit()
    assert await everything(db, ticket) == (1, 1, 1)


async def test_they_roll_back_together(
    db: Database, owner: Principal, audit: Audit, events: Events, connect: Connect
) -> None:
    ticket = uuid4()
    async with connect() as connection:
        async with db.adopt(connection, owner.tenant) as tx:
            await write_ours(tx, owner, audit, events, ticket)
        await insert_ticket(connection, ticket)
        await connection.rollback()
    assert await everything(db, ticket) == (0, 0, 0)


async def test_a_swallowed_database_error_is_told_before_the_caller_commits(
    db: Database, owner: Principal, audit: Audit, events: Events, connect: Connect
) -> None:
    # COMMIT of a failed transaction answers ROLLBACK, and drivers take that for success
    ticket = uuid4()
    async with connect() as connection:
        with pytest.raises(Conflict, match="failed"):
            async with db.adopt(connection, owner.tenant) as tx:
                await write_ours(tx, owner, audit, events, ticket)
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await tx.execute("select 1/0")
        await connection.rollback()
    assert await everything(db, ticket) == (0, 0, 0)


async def test_the_adopted_transaction_is_fenced(
    db: Database, tenant: UUID, other_owner: Principal, audit: Audit, connect: Connect
) -> None:
    async with connect() as connection, db.adopt(connection, tenant) as tx:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await audit.record(tx, other_owner, "a.b", "c")
        await connection.rollback()


async def test_the_fence_ends_with_the_callers_transaction(db: Database, tenant: UUID, connect: Connect) -> None:
    async with connect() as connection:
        async with db.adopt(connection, tenant) as tx:
            raw = tx.connection
        await connection.commit()
        cursor = await raw.execute("select nullif(current_setting('backstay.tenant_id', true), '') as tenant")
        row = await cursor.fetchone()
        assert dict(row)["tenant"] is None if isinstance(row, dict) else row == (None,)
        await connection.rollback()


async def test_subscribers_are_woken_by_the_callers_commit_and_not_before(
    db: Database, tenant: UUID, settings: Settings, connect: Connect
) -> None:
    async with Database(db.url, settings) as other_process:
        with other_process.notifier.subscribe("tickets", "a") as subscription:
            await subscription.wait(10)  # the first wake-up: it listens now
            async with connect() as connection:
                async with db.adopt(connection, tenant) as tx:
                    tx.notify("tickets", "a")
                async with db.system_tx() as fence:  # a notification of ours that is surely later
                    fence.notify("after", "")
                assert not await subscription.wait(0.1)
                await connection.commit()
            assert await subscription.wait(10)


async def test_no_one_is_woken_when_the_caller_rolls_back(
    db: Database, tenant: UUID, settings: Settings, connect: Connect
) -> None:
    async with Database(db.url, settings) as other_process:
        with (
            other_process.notifier.subscribe("tickets", "a") as subscription,
            other_process.notifier.subscribe("later") as later,
        ):
            await subscription.wait(10)
            await later.wait(10)
            async with connect() as connection:
                async with db.adopt(connection, tenant) as tx:
                    tx.notify("tickets", "a")
                await connection.rollback()
            db.notifier.notify("later")
            assert await later.wait(10)  # notifications arrive in order, so the other one would be here
            assert not await subscription.wait(0)


async def test_a_very_long_key_does_not_break_the_callers_transaction(
    db: Database, tenant: UUID, connect: Connect
) -> None:
    async with connect() as connection:
        async with db.adopt(connection, tenant) as tx:
            tx.notify("tickets", "ü" * 20_000)
        await connection.commit()


async def test_nobody_can_wait_for_a_commit_that_is_not_ours(db: Database, tenant: UUID, connect: Connect) -> None:
    async with connect() as connection:
        async with db.adopt(connection, tenant) as tx:
            with pytest.raises(RuntimeError, match="caller commits"):
                tx.after_commit(lambda: None)
        await connection.rollback()


class TestRefused:
    async def test_a_connection_in_autocommit_mode(self, db: Database, tenant: UUID) -> None:
        async with await psycopg.AsyncConnection.connect(db.url_for(APP), autocommit=True) as connection:
            with pytest.raises(Invalid, match="open a transaction on it first"):
                async with db.adopt(connection, tenant):
                    pytest.fail("it was adopted")

    async def test_but_not_with_a_transaction_open_on_it(self, db: Database, tenant: UUID) -> None:
        async with (
            await psycopg.AsyncConnection.connect(db.url_for(APP), autocommit=True) as connection,
            connection.transaction(),
            db.adopt(connection, tenant) as tx,
        ):
            await tx.execute("select 1")

    async def test_a_superuser(self, db: Database, tenant: UUID) -> None:
        async with await psycopg.AsyncConnection.connect(db.url) as connection:
            with pytest.raises(Invalid, match="url_for"):
                async with db.adopt(connection, tenant):
                    pytest.fail("it was adopted")
            await connection.rollback()

    async def test_the_role_that_crosses_tenants(self, db: Database, tenant: UUID) -> None:
        async with await psycopg.AsyncConnection.connect(db.url_for(SYSTEM)) as connection:
            with pytest.raises(Invalid, match="url_for"):
                async with db.adopt(connection, tenant):
                    pytest.fail("it was adopted")
            await connection.rollback()

    async def test_a_login_that_inherits_the_role_which_crosses_tenants(self, db: Database, tenant: UUID) -> None:
        # what an ordinary login looks like after `bootstrap`: a member of every role, policies of all of them hold
        login = f"login_{uuid4().hex[:8]}"
        async with await psycopg.AsyncConnection.connect(db.url, autocommit=True) as admin:
            await admin.execute(f"create role {login} nosuperuser in role {APP}, {SYSTEM}")  # type: ignore[arg-type]
            try:
                async with await psycopg.AsyncConnection.connect(db.url, options=f"-c role={login}") as connection:
                    with pytest.raises(Invalid, match="url_for"):
                        async with db.adopt(connection, tenant):
                            pytest.fail("it was adopted")
                    await connection.rollback()
            finally:
                await admin.execute(f"drop role {login}")  # type: ignore[arg-type]

    @pytest.mark.parametrize("thing", [None, object(), "postgresql://"])
    async def test_anything_else(self, db: Database, tenant: UUID, thing: object) -> None:
        with pytest.raises(Invalid, match="psycopg AsyncConnection"):
            async with db.adopt(thing, tenant):
                pytest.fail("it was adopted")

    async def test_a_synchronous_connection(self, db: Database, tenant: UUID) -> None:
        with psycopg.connect(db.url_for(APP)) as connection, pytest.raises(Invalid, match="psycopg AsyncConnection"):
            async with db.adopt(connection, tenant):
                pytest.fail("it was adopted")
