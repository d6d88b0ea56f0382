import asyncio
import os
import signal
import sys
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from backstay.kernel.clock import ManualClock
from backstay.streams import TERMINAL, NewEvent, ProducerFenced, StreamEnded, Streams

PRODUCER = """
import asyncio, sys
from uuid import UUID
from backstay.kernel.clock import SystemClock
from backstay.kernel.db import Database
from backstay.kernel.settings import Settings
from backstay.streams import Streams

async def main(url, key, tenant, stream):
    settings = Settings.load(database_url=url, master_key=key, lease_seconds=1.0)
    async with Database(url, settings) as db:
        async with Streams(db, SystemClock(), settings).writer(UUID(tenant), UUID(stream)) as writer:
            for number in range(1_000_000):
                await writer.write("text.delta", {"text": str(number)})
                await asyncio.sleep(0.002)

asyncio.run(main(*sys.argv[1:]))
"""


async def events(streams, owner, id):
    return [event async for event in streams.read(owner, id)]


@pytest.mark.parametrize("round", range(12))
async def test_one_end_whoever_races_for_it(streams, replica, owner, round):
    stream = await streams.create(owner, patience=timedelta(microseconds=1))
    await streams.append(owner, stream.id, [NewEvent.of("text.delta", {"text": "x"})])

    async def produce(side, end):
        try:
            async with side.writer(owner.tenant, stream.id) as writer:
                await getattr(writer, end)({})
        except (StreamEnded, ProducerFenced):
            return 0
        return 1

    async def append(side):
        try:
            await side.append(owner, stream.id, [NewEvent.of("error", {"detail": "x"})])
        except StreamEnded:
            return 0
        return 1

    won = await asyncio.gather(
        produce(streams, "done"),
        produce(replica, "error"),
        append(replica),
        streams.reap(),
        replica.reap(),
        produce(streams, "cancelled"),
    )
    types = [event.type for event in await events(streams, owner, stream.id)]
    assert sum(won) == 1
    assert [kind for kind in types if kind in TERMINAL] == types[-1:]


async def test_a_producer_does_not_take_the_reapers_end_for_its_own(db, settings, owner, manual_clock):
    streams = Streams(db, manual_clock, settings)
    stream = await streams.create(owner)
    async with streams.writer(owner.tenant, stream.id) as writer:
        manual_clock.advance(timedelta(hours=1))
        assert await streams.reap() == 1
        with pytest.raises(StreamEnded):
            await writer.error({"detail": "of its own"})
    assert (await events(streams, owner, stream.id))[0].data["code"] == "stream_producer_lost"


async def test_the_database_itself_refuses_a_second_end(streams, db, owner):
    stream = await streams.create(owner)
    await streams.append(owner, stream.id, [NewEvent.of("done", {})])
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with db.tenant_tx(owner.tenant) as tx:
            await tx.execute(
                "insert into backstay.stream_event (tenant_id, stream_id, seq, type, data) "
                "values (%s, %s, 2, 'error', '{}')",
                [owner.tenant, stream.id],
            )


async def test_a_silent_producer_ends_in_error_after_its_patience_and_not_before(
    db, settings, owner, manual_clock: ManualClock
):
    streams = Streams(db, manual_clock, settings)
    stream = await streams.create(owner, patience=timedelta(seconds=30))
    await streams.append(owner, stream.id, [NewEvent.of("text.delta", {"text": "so far"})])
    manual_clock.advance(timedelta(seconds=30))
    assert await streams.reap() == 0
    manual_clock.advance(timedelta(seconds=1))
    assert await streams.reap() == 1
    assert await streams.reap() == 0
    first, last = await events(streams, owner, stream.id)
    assert first.data == {"text": "so far"}
    assert (last.type, last.data["code"], last.data["status"]) == ("error", "stream_producer_lost", 503)


async def test_a_silent_producer_that_was_asked_to_stop_counts_as_cancelled(db, settings, owner, manual_clock):
    streams = Streams(db, manual_clock, settings)
    stream = await streams.create(owner)
    await streams.append(owner, stream.id, [NewEvent.of("text.delta", {"text": "so far"})])
    await streams.cancel(owner, stream.id)
    manual_clock.advance(timedelta(minutes=1))
    assert await streams.reap() == 1
    assert (await streams.get(owner, stream.id)).state == "cancelled"


async def test_the_stream_of_a_run_waits_for_the_run_to_be_resumed(db, settings, owner, manual_clock):
    streams = Streams(db, manual_clock, settings)
    stream = await streams.create(owner, run=uuid4())
    async with streams.writer(owner.tenant, stream.id) as writer:
        await writer.write("text.delta", {"text": "so far"})
    manual_clock.advance(timedelta(minutes=14))
    assert await streams.reap() == 0
    manual_clock.advance(timedelta(minutes=2))
    assert await streams.reap() == 1


async def test_a_queued_stream_waits_for_its_first_producer_until_it_expires(db, settings, owner, manual_clock):
    streams = Streams(db, manual_clock, settings)
    stream = await streams.create(owner, expires_in=timedelta(hours=3))
    manual_clock.advance(timedelta(hours=2))
    assert await streams.reap() == 0
    manual_clock.advance(timedelta(hours=2))
    assert await streams.reap() == 1
    assert (await streams.get(owner, stream.id)).state == "error"


async def test_a_producer_killed_with_kill_9_leaves_a_stream_that_ends_in_error(streams, owner, database_url, settings):
    stream = await streams.create(owner)
    stop = asyncio.Event()
    keeping = asyncio.create_task(streams.keep(stop))
    producer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PRODUCER, database_url, settings.master_key.get_secret_value(),
        str(owner.tenant), str(stream.id),
    )  # fmt: skip
    seen = []
    async with asyncio.timeout(20):
        async for event in streams.read(owner, stream.id):
            seen.append(event)
            if len(seen) == 50:
                os.kill(producer.pid, signal.SIGKILL)
                await producer.wait()
    stop.set()
    await keeping
    assert len(seen) >= 51
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert [event.data["text"] for event in seen[:-1]] == [str(number) for number in range(len(seen) - 1)]
    assert (seen[-1].type, seen[-1].data["code"]) == ("error", "stream_producer_lost")
