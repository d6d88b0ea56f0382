"""Wake-ups cross processes, in bundles, and a lost connection costs time but no work."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import psycopg
import pytest

from backstay.kernel.db import APP, SYSTEM, Database
from backstay.kernel.errors import Unavailable
from backstay.kernel.notify import Notifier, Subscription
from backstay.kernel.settings import Settings

LONG = 10.0  # seconds; reached only by a failing test


@pytest.fixture
async def other(database_url: str, settings: Settings) -> AsyncIterator[Database]:
    """A second Database on the same database, as another process has."""
    async with Database(database_url, settings) as database:
        yield database


async def listening(subscription: Subscription) -> None:
    assert await subscription.wait(LONG), "it never listened"  # the first wake-up says that LISTEN stands


async def test_a_committed_transaction_wakes_the_other_process(db: Database, other: Database, tenant: UUID) -> None:
    with other.notifier.subscribe("jobs", "mail") as subscription:
        await listening(subscription)
        async with db.tenant_tx(tenant) as tx:
            tx.notify("jobs", "mail")
        assert await subscription.wait(LONG)


async def test_each_of_two_processes_wakes_the_other_at_once(db: Database, other: Database) -> None:
    with db.notifier.subscribe("ping") as here, other.notifier.subscribe("pong") as there:
        await listening(here)
        await listening(there)
        db.notifier.notify("pong")
        other.notifier.notify("ping")
        assert await here.wait(LONG)
        assert await there.wait(LONG)


async def test_a_process_wakes_its_own_subscribers_without_the_database(db: Database) -> None:
    with db.notifier.subscribe("jobs", "mail") as subscription:
        db.notifier.notify("jobs", "mail")
        assert await subscription.wait(0)


async def test_its_own_notification_does_not_come_back_to_it(db: Database, other: Database) -> None:
    with db.notifier.subscribe("jobs") as own, other.notifier.subscribe("jobs") as there:
        await listening(own)
        await listening(there)
        db.notifier.notify("jobs")
        assert await own.wait(0)
        assert await there.wait(LONG)
        other.notifier.notify("unrelated")
        with db.notifier.subscribe("unrelated") as later:
            await later.wait(LONG)
        assert not await own.wait(0)


async def test_a_rolled_back_transaction_wakes_nobody(db: Database, tenant: UUID) -> None:
    with db.notifier.subscribe("jobs") as subscription:
        await listening(subscription)
        with pytest.raises(ZeroDivisionError):
            async with db.tenant_tx(tenant) as tx:
                tx.notify("jobs")
                raise ZeroDivisionError
        assert not await subscription.wait(0.05)


async def test_only_subscribers_of_the_key_are_woken(db: Database, other: Database) -> None:
    with (
        other.notifier.subscribe("jobs", "mail") as mail,
        other.notifier.subscribe("jobs", "bills") as bills,
        other.notifier.subscribe("jobs") as every,
        other.notifier.subscribe("job", "mail") as neighbour,
    ):
        for subscription in (mail, bills, every, neighbour):
            await listening(subscription)
        db.notifier.notify("jobs", "mail")
        assert await mail.wait(LONG)
        assert await every.wait(LONG)
        assert not await bills.wait(0)
        assert not await neighbour.wait(0)


@pytest.mark.parametrize("key", ["k" * 5_000, "ü" * 5_000, "with spaces in it", "two\nlines", ""])
async def test_any_key_reaches_its_subscriber_in_the_other_process(db: Database, other: Database, key: str) -> None:
    with other.notifier.subscribe("jobs", key) as subscription:
        await listening(subscription)
        db.notifier.notify("jobs", key)
        assert await subscription.wait(LONG)


async def test_a_wake_up_between_look_and_wait_is_not_lost(db: Database) -> None:
    with db.notifier.subscribe("jobs") as subscription:
        await listening(subscription)
        db.notifier.notify("jobs")  # after the look, before the wait
        assert await subscription.wait(LONG)
        assert not await subscription.wait(0)  # and it is used up


async def test_nothing_is_lost_while_a_consumer_looks(db: Database, other: Database) -> None:
    """The loop that every consumer writes, against a producer in another process."""
    total, seen, done = 200, 0, asyncio.Event()
    work: list[int] = []

    async def consume() -> None:
        nonlocal seen
        with other.notifier.subscribe("work") as subscription:
            while seen < total:
                taken, work[:] = len(work), []
                seen += taken
                if taken:
                    await asyncio.sleep(0)  # busy: wake-ups come in meanwhile
                elif not await subscription.wait(LONG):
                    pytest.fail(f"a wake-up was lost after {seen}")
        done.set()

    consumer = asyncio.create_task(consume())
    for number in range(total):
        work.append(number)
        db.notifier.notify("work")
        await asyncio.sleep(0.002 if number % 3 else 0)
    await asyncio.wait_for(consumer, 2 * LONG)
    assert done.is_set()


async def test_wake_ups_leave_in_bundles() -> None:
    sent: list[list[str]] = []

    async def send(lines: list[str]) -> None:
        sent.append(lines)

    async def connect() -> psycopg.AsyncConnection[object]:
        raise psycopg.OperationalError("nobody listens here")

    notifier = Notifier(connect, send, interval=0.01)
    for number in range(1_000):
        notifier.notify("jobs", f"queue-{number % 10}")
    await notifier.close()
    assert len(sent) == 1
    assert len(sent[0]) == 1
    assert len(sent[0][0].split("\n")) == 1 + 10


async def test_the_first_wake_up_after_a_pause_leaves_at_once_and_the_next_wait_for_each_other() -> None:
    sent: list[list[str]] = []
    left = asyncio.Event()

    async def send(lines: list[str]) -> None:
        sent.append(lines)
        left.set()

    async def connect() -> psycopg.AsyncConnection[object]:
        raise psycopg.OperationalError("nobody listens here")

    notifier = Notifier(connect, send, interval=3_600)
    notifier.notify("jobs", "a")
    await asyncio.wait_for(left.wait(), LONG)
    notifier.notify("jobs", "b")
    notifier.notify("jobs", "c")
    for _ in range(10):
        await asyncio.sleep(0)
    assert [line.split("\n")[1:] for [line] in sent] == [["jobs a"]]
    assert notifier._pending == {"jobs b", "jobs c"}
    assert notifier._flusher is not None
    notifier._flusher.cancel()


async def test_the_listener_comes_back_and_wakes_everyone_for_what_it_missed(
    db: Database, other: Database, database_url: str
) -> None:
    with other.notifier.subscribe("jobs") as subscription:
        await listening(subscription)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            cursor = await admin.execute(
                "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity"
                " where datname = current_database() and application_name = 'backstay/listen'"
            )
            assert await cursor.fetchone() == (1,)
        assert await subscription.wait(LONG), "what was sent while it was away may be lost: everyone must look"
        db.notifier.notify("jobs")
        assert await subscription.wait(LONG)


async def test_wake_ups_that_cannot_be_sent_break_neither_work_nor_shutdown(
    database_url: str, settings: Settings, tenant: UUID
) -> None:
    database = Database(database_url, settings)
    await database.open()
    pool = database._pools[SYSTEM]
    await pool.resize(1, 1)
    pool.timeout = 0.01
    async with database.system_tx():  # no connection is left to send with
        async with database.tenant_tx(tenant) as tx:
            tx.notify("jobs")
        flusher = database.notifier._flusher
        assert flusher is not None
        await asyncio.wait([flusher])
        assert flusher.exception() is None
    await database.close()
    assert all(pool.closed for pool in database._pools.values())


async def test_no_connection_of_the_pools_is_kept_by_listening(db: Database, tenant: UUID) -> None:
    for name in (APP, SYSTEM):
        await db._pools[name].resize(1, 1)
        db._pools[name].timeout = 1
    with db.notifier.subscribe("jobs") as subscription:
        await listening(subscription)
        try:
            async with db.tenant_tx(tenant), db.system_tx():
                pass
        except Unavailable:
            pytest.fail("the listener holds a pooled connection")
