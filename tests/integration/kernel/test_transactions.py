"""A transaction commits whole or not at all, and leaves its connection clean whatever happens to it."""

import asyncio
import contextlib
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from backstay.events import Events
from backstay.kernel import db as database_module
from backstay.kernel.clock import SystemClock
from backstay.kernel.db import APP, SYSTEM, Database, Tx
from backstay.kernel.errors import ConfigurationError, Conflict, TenantMismatch, Unavailable
from backstay.kernel.settings import Settings


class Oops(Exception):
    pass


@pytest.fixture
def events(db: Database) -> Events:
    return Events(db, SystemClock())


async def written(db: Database) -> int:
    async with db.system_tx() as tx:
        return int((await (await tx.execute("select count(*) from backstay.outbox")).fetchone())[0])  # type: ignore[index]


async def test_a_transaction_commits_at_the_end_of_its_block(db: Database, tenant: UUID, events: Events) -> None:
    before = await written(db)
    async with db.tenant_tx(tenant) as tx:
        await events.emit(tx, "thing.happened", {})
        assert await written(db) == before
    assert await written(db) == before + 1


async def test_an_error_rolls_everything_back_and_is_not_swallowed(db: Database, tenant: UUID, events: Events) -> None:
    before = await written(db)
    with pytest.raises(Oops):
        async with db.tenant_tx(tenant) as tx:
            await events.emit(tx, "thing.happened", {})
            raise Oops
    assert await written(db) == before


async def test_a_signal_of_control_flow_rolls_back_too(db: Database, tenant: UUID, events: Events) -> None:
    class Suspend(BaseException):
        pass

    before = await written(db)
    with pytest.raises(Suspend):
        async with db.tenant_tx(tenant) as tx:
            await events.emit(tx, "thing.happened", {})
            raise Suspend
    assert await written(db) == before


async def test_a_swallowed_database_error_is_a_conflict_and_commits_nothing(
    db: Database, tenant: UUID, events: Events
) -> None:
    before, called = await written(db), []
    with pytest.raises(Conflict, match="nothing was committed"):
        async with db.tenant_tx(tenant) as tx:
            await events.emit(tx, "thing.happened", {})
            tx.after_commit(lambda: called.append("wrongly"))
            with pytest.raises(psycopg.errors.DivisionByZero):
                await tx.execute("select 1/0")
    assert await written(db) == before
    assert called == []


async def test_a_savepoint_lets_the_caller_survive_a_failed_statement(
    db: Database, tenant: UUID, events: Events
) -> None:
    before = await written(db)
    async with db.tenant_tx(tenant) as tx:
        await events.emit(tx, "thing.happened", {})
        with pytest.raises(psycopg.errors.DivisionByZero):
            async with tx.connection.transaction():
                await tx.execute("select 1/0")
    assert await written(db) == before + 1


async def test_a_commit_that_the_database_refuses_calls_nobody(db: Database, tenant: UUID, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
        await admin.execute(
            "create table public.pair (a int primary key, b int references public.pair (a)"
            " deferrable initially deferred)"
        )
        await admin.execute("grant all on public.pair to backstay_app")
    called: list[str] = []
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        async with db.tenant_tx(tenant) as tx:
            await tx.execute("insert into public.pair values (1, 2)")
            tx.after_commit(lambda: called.append("wrongly"))
    assert called == []


async def test_callbacks_run_after_the_commit_and_in_order(db: Database, tenant: UUID) -> None:
    called: list[int] = []
    async with db.tenant_tx(tenant) as tx:
        tx.after_commit(lambda: called.append(1))
        tx.after_commit(lambda: called.append(2))
        assert called == []
    assert called == [1, 2]


async def test_callbacks_are_forgotten_on_rollback(db: Database, tenant: UUID) -> None:
    called: list[int] = []
    with pytest.raises(Oops):
        async with db.tenant_tx(tenant) as tx:
            tx.after_commit(lambda: called.append(1))
            raise Oops
    assert called == []


async def test_the_tenant_ends_with_its_transaction(db: Database, tenant: UUID, settings: Settings) -> None:
    db._pools[APP].max_waiting = 0
    for _ in range(3):
        async with db.tenant_tx(tenant) as tx:
            assert await _setting(tx) == str(tenant)
            connection = tx.connection
        cursor = await connection.execute("select nullif(current_setting('backstay.tenant_id', true), '')")
        assert await cursor.fetchone() == (None,)


async def _setting(tx: Tx) -> str:
    row = await (await tx.execute("select current_setting('backstay.tenant_id')")).fetchone()
    assert row is not None
    return str(row[0])


async def test_a_tenant_is_never_pasted_into_sql(db: Database) -> None:
    with pytest.raises(ValueError, match=r"invalid|badly formed"):
        async with db.tenant_tx("x'; drop table backstay.tenant; --"):  # type: ignore[arg-type]
            pytest.fail("it opened")


async def test_a_joined_transaction_is_the_one_given_and_stays_open(db: Database, tenant: UUID) -> None:
    async with db.tenant_tx(tenant) as tx:
        async with db.join(tx, tenant) as joined:
            assert joined is tx
        assert tx.connection.info.transaction_status == TransactionStatus.INTRANS


async def test_a_transaction_of_another_tenant_is_not_joined(db: Database, tenant: UUID) -> None:
    async with db.tenant_tx(tenant) as tx:
        with pytest.raises(TenantMismatch):
            async with db.join(tx, uuid4()):
                pytest.fail("it was joined")


async def test_each_transaction_acts_as_its_role(db: Database, tenant: UUID) -> None:
    async with db.tenant_tx(tenant) as tx:
        assert await (await tx.execute("select current_user")).fetchone() == (APP,)
    async with db.system_tx() as tx:
        assert await (await tx.execute("select current_user")).fetchone() == (SYSTEM,)


class TestCancellation:
    async def test_in_the_middle_of_a_statement_leaves_a_clean_connection(self, db: Database, tenant: UUID) -> None:
        await self._one_connection(db)
        started = asyncio.Event()

        async def work() -> None:
            async with db.tenant_tx(tenant) as tx:
                started.set()
                await tx.execute("select pg_sleep(60)")

        task = asyncio.create_task(work())
        await started.wait()
        await asyncio.sleep(0)  # let it reach the statement
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self._clean(db, tenant)

    async def test_between_statements_rolls_back(self, db: Database, tenant: UUID, events: Events) -> None:
        await self._one_connection(db)
        before, written_once = await written(db), asyncio.Event()

        async def work() -> None:
            async with db.tenant_tx(tenant) as tx:
                await events.emit(tx, "thing.happened", {})
                written_once.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await written_once.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await written(db) == before
        await self._clean(db, tenant)

    async def test_again_and_again_while_it_rolls_back_leaks_no_connection(self, db: Database, tenant: UUID) -> None:
        await self._one_connection(db)
        for patience in range(12):
            started = asyncio.Event()

            async def work(started: asyncio.Event = started) -> None:
                async with db.tenant_tx(tenant) as tx:
                    started.set()
                    await tx.execute("select pg_sleep(60)")

            task = asyncio.create_task(work())
            await started.wait()
            while not task.done():  # a second cancel hits the clean-up of the first, at another point each time
                task.cancel()
                for _ in range(patience + 1):
                    await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            await self._clean(db, tenant)

    async def _one_connection(self, db: Database) -> None:
        await db._pools[APP].resize(1, 1)

    async def _clean(self, db: Database, tenant: UUID) -> None:
        async with asyncio.timeout(5), db.tenant_tx(tenant) as tx:
            assert await (await tx.execute("select 1")).fetchone() == (1,)
            assert await _setting(tx) == str(tenant)


class TestExhaustion:
    async def test_a_pool_without_a_free_connection_is_unavailable_for_now(self, db: Database, tenant: UUID) -> None:
        pool = db._pools[APP]
        await pool.resize(1, 1)
        pool.timeout = 0.05
        async with db.tenant_tx(tenant):
            with pytest.raises(Unavailable, match="try again"):
                async with db.tenant_tx(tenant):
                    pytest.fail("there was a second one")
        async with db.tenant_tx(tenant):
            pass

    async def test_tenants_cannot_starve_our_own_loops(self, db: Database, tenant: UUID) -> None:
        await db._pools[APP].resize(1, 1)
        async with db.tenant_tx(tenant), db.system_tx() as tx:
            assert await (await tx.execute("select 1")).fetchone() == (1,)


class TestAFrozenProcess:
    """Its sessions stay open, for its machine still holds them; its locks must not."""

    async def test_its_locks_end_wherever_it_stands_still(self, database_url: str, settings: Settings) -> None:
        config = settings.model_copy(update={"lease_seconds": 0.5, "statement_timeout": 1.0})
        async with Database(database_url, config) as db:
            assert db.patience.total_seconds() == 5
            await asyncio.gather(self._stands_still(db, 1, pipelined=False), self._stands_still(db, 2, pipelined=True))

    async def _stands_still(self, db: Database, lock: int, *, pipelined: bool) -> None:
        with pytest.raises(psycopg.Error):
            async with db.system_tx() as tx, contextlib.AsyncExitStack() as stack:
                if pipelined:
                    await stack.enter_async_context(tx.connection.pipeline())
                await tx.execute("select pg_advisory_xact_lock(%s)", [lock])
                await self._until(db, lock, held=True)
                await self._until(db, lock, held=False)
                await (await tx.execute("select 1")).fetchone()

    async def _until(self, db: Database, lock: int, *, held: bool) -> None:
        query = "select exists (select 1 from pg_locks where locktype = 'advisory' and objid = %s and granted)"
        async with asyncio.timeout(30):
            while True:
                async with db.system_tx() as tx:
                    if await (await tx.execute(query, [lock])).fetchone() == (held,):
                        return
                await asyncio.sleep(0.05)


class TestALostServer:
    async def test_a_session_that_is_ended_in_a_transaction_fails_it_and_the_next_works(
        self, db: Database, tenant: UUID, database_url: str, events: Events
    ) -> None:
        before = await written(db)
        with pytest.raises(psycopg.OperationalError):
            async with db.tenant_tx(tenant) as tx:
                await events.emit(tx, "thing.happened", {})
                await self._end_sessions(database_url)
                await tx.execute("select 1")
        assert await written(db) == before
        async with db.tenant_tx(tenant) as tx:
            assert await (await tx.execute("select 1")).fetchone() == (1,)

    async def test_idle_connections_that_died_are_replaced_before_anybody_notices(
        self, db: Database, tenant: UUID, database_url: str
    ) -> None:
        for pool in db._pools.values():
            await pool.resize(5, 5)
            await pool.wait()
        await self._end_sessions(database_url)
        for _ in range(6):
            async with db.tenant_tx(tenant) as tx:
                assert await (await tx.execute("select 1")).fetchone() == (1,)
            async with db.system_tx() as tx:
                assert await (await tx.execute("select 1")).fetchone() == (1,)

    async def test_a_statement_never_runs_twice_because_its_connection_died(
        self, db: Database, tenant: UUID, database_url: str
    ) -> None:
        attempts = 0
        with pytest.raises(psycopg.OperationalError):
            async with db.tenant_tx(tenant) as tx:
                attempts += 1
                await self._end_sessions(database_url)
                await tx.execute("select 1")
        assert attempts == 1

    async def test_a_database_that_does_not_answer_stops_the_start_with_a_mend(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "_START_LIMIT", 0.5)
        db = Database("postgresql://nobody:topsecret@127.0.0.1:1/none", settings)
        with pytest.raises(ConfigurationError) as caught:
            await db.open()
        assert "BACKSTAY_DATABASE_URL" in str(caught.value)
        assert "topsecret" not in str(caught.value)

    async def _end_sessions(self, url: str) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
            await admin.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
            )


async def test_a_cancellation_that_meets_a_connection_coming_free_is_not_lost(
    database_url: str, settings: Settings, tenant: UUID
) -> None:
    outlived = list[int]()
    async with Database(database_url, settings.model_copy(update={"pool_size": 1})) as db:

        async def loop() -> None:
            while True:
                async with db.tenant_tx(tenant):
                    await asyncio.sleep(0)

        for turns in range(12):
            connection = await db._pools[APP].getconn()
            running = asyncio.create_task(loop())
            while not db._pools[APP].get_stats().get("requests_waiting"):  # noqa: ASYNC110 (the pool tells nobody)
                await asyncio.sleep(0)
            await db._pools[APP].putconn(connection)
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()
            if (await asyncio.wait([running], timeout=2))[1]:
                outlived.append(turns)
                running.cancel()
                await asyncio.wait([running])
    assert outlived == []
