"""Statements of a pipelined transaction go to the server together, and fail and commit together."""

import asyncio
from uuid import UUID

import psycopg
import pytest

from backstay.kernel.clock import SystemClock
from backstay.kernel.db import APP, Database, Tx
from backstay.kernel.pipeline import gathered

_LOCKS = "select count(*) > 0 from pg_locks where pid = %s"
_ADD = "insert into backstay.gateway_process (id, started_at, seen_at) values (gen_random_uuid(), %s, %s)"
_COUNT = "select count(*) from backstay.gateway_process"


async def _one(tx: Tx, query: str, *params: object) -> object:
    row = await (await tx.execute(query, params)).fetchone()
    return row[0] if row else None


async def _add(tx: Tx) -> None:
    await tx.execute(_ADD, [SystemClock().now()] * 2)


async def test_nothing_reaches_the_server_before_rows_are_fetched(db: Database) -> None:
    async with db.system_tx() as watching, db.system_tx(pipelined=True) as tx:
        pid = tx.connection.info.backend_pid
        await _add(tx)
        await _add(tx)
        assert await _one(watching, _LOCKS, pid) is False
        assert await _one(tx, _COUNT) == 2
        assert await _one(watching, _LOCKS, pid) is True


async def test_what_was_sent_with_the_commit_is_committed(db: Database) -> None:
    async with db.system_tx(pipelined=True) as tx:
        await _add(tx)
        assert await _one(tx, _COUNT) == 1
        await _add(tx)
    async with db.system_tx() as tx:
        assert await _one(tx, _COUNT) == 2


@pytest.mark.parametrize("fetching", [False, True])
async def test_a_statement_that_fails_takes_the_others_with_it(db: Database, fetching: bool) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with db.system_tx(pipelined=True) as tx:
            await _add(tx)
            cursor = await tx.execute("select 1 / 0")
            await _add(tx)
            if fetching:
                await cursor.fetchall()
    async with db.system_tx(pipelined=True) as tx:
        assert await _one(tx, _COUNT) == 0


async def test_a_transaction_that_is_cancelled_before_it_was_sent_leaves_nothing(db: Database) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def half() -> None:
        async with db.system_tx(pipelined=True) as tx:
            await _add(tx)
            begun.set()
            await never.wait()

    task = asyncio.create_task(half())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with db.system_tx(pipelined=True) as tx:
        assert await _one(tx, _COUNT) == 0


async def test_more_than_the_sockets_hold_passes_in_both_directions(db: Database) -> None:
    """The server answers the first statement while the second is still on its way."""
    long = "x" * 8_000_000
    async with asyncio.timeout(60), db.system_tx(pipelined=True) as tx:
        first = await tx.execute("select %s::text", [long])
        second = await tx.execute("select %s::text", [long])
        assert (await second.fetchone()) == (long,)
        assert (await first.fetchone()) == (long,)


async def test_a_pipeline_inside_of_one_keeps_the_order(db: Database) -> None:
    async with db.system_tx(pipelined=True) as tx:
        await _add(tx)
        async with tx.connection.pipeline():
            await _add(tx)
            assert await _one(tx, _COUNT) == 2
        await _add(tx)
        assert await _one(tx, _COUNT) == 3


async def test_a_connection_is_its_own_again_after_a_pipeline(db: Database) -> None:
    async with db.system_tx() as tx:
        async with gathered(tx.connection):
            await _add(tx)
        assert await _one(tx, _COUNT) == 1


async def test_a_tenants_pipeline_is_fenced_before_its_first_statement(db: Database, tenant: UUID) -> None:
    fence = "select current_setting('backstay.tenant_id', true)"
    async with db.tenant_tx(tenant, pipelined=True) as tx:
        assert await _one(tx, fence) == str(tenant)
        assert await _one(tx, "select current_user::text") == APP
    async with db.join_system(None) as tx:
        assert await _one(tx, fence) in (None, "")
