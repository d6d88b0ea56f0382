import asyncio
from datetime import timedelta

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from backstay.kernel.clock import ManualClock
from backstay.kernel.notify import Subscription
from backstay.streams import NewEvent, ResumePointInvalid, StreamExpired, StreamNotFound, Streams, reader, store


async def collect(streams, by, id, after=0):
    return [event async for event in streams.read(by, id, after)]


async def test_a_live_reader_on_another_replica_gets_every_event_once_and_in_order(streams, replica, owner):
    stream = await streams.create(owner)
    reading = asyncio.create_task(collect(replica, owner, stream.id))
    async with streams.writer(owner.tenant, stream.id) as writer:
        for number in range(500):
            await writer.write("text.delta", {"text": str(number)})
            if number % 50 == 0:
                await asyncio.sleep(0)
        await writer.done({"words": 500})
    events = await asyncio.wait_for(reading, 10)
    assert [event.seq for event in events] == list(range(1, 502))
    assert [event.data["text"] for event in events[:-1]] == [str(number) for number in range(500)]
    assert events[-1].type == "done"
    assert events[-1].data == {"words": 500}


async def test_a_reader_that_leaves_anywhere_resumes_without_loss_or_repeat(streams, replica, owner):
    stream = await streams.create(owner)

    async def produce():
        async with streams.writer(owner.tenant, stream.id) as writer:
            for number in range(300):
                await writer.write("text.delta", {"text": str(number)})
                await asyncio.sleep(0.001)
            await writer.done()

    producing = asyncio.create_task(produce())
    seen, sides = [], [streams, replica]
    while not seen or seen[-1].type != "done":
        sides.reverse()  # each resume lands on the other replica
        got = 0
        reading = sides[0].read(owner, stream.id, seen[-1].seq if seen else 0)
        async for event in reading:
            seen.append(event)
            got += 1
            if got == 37:
                break
        await reading.aclose()
    await producing
    assert [event.seq for event in seen] == list(range(1, 302))


async def test_an_event_wakes_readers_elsewhere_before_the_producer_writes_the_next(
    streams, replica, owner, monkeypatch
):
    monkeypatch.setattr(reader, "_FIRST_LOOK", 60.0)  # nobody looks: it takes the wake-up
    stream = await streams.create(owner)
    async with streams.writer(owner.tenant, stream.id) as writer:
        reading = replica.read(owner, stream.id)
        for number in range(5):
            await writer.write("text.delta", {"text": str(number)})
            event = await asyncio.wait_for(anext(reading), 5)
            assert event.data == {"text": str(number)}
        await writer.done()
        assert (await asyncio.wait_for(anext(reading), 5)).type == "done"
        with pytest.raises(StopAsyncIteration):
            await anext(reading)


async def test_a_lost_wake_up_delays_a_reader_but_loses_nothing(streams, db, clock, owner, monkeypatch, eventually):
    waits = []
    monkeypatch.setattr(reader, "_FIRST_LOOK", 0.2)
    real = Subscription.wait

    async def wait(self, timeout):
        waits.append(self.topic)
        return await real(self, timeout)

    monkeypatch.setattr(Subscription, "wait", wait)
    stream = await streams.create(owner)
    reading = asyncio.create_task(collect(streams, owner, stream.id))
    await eventually(lambda: len(waits) > 2)  # it has looked, found nothing, and waits
    async with db.tenant_tx(owner.tenant) as tx:  # commits without a notification
        event = NewEvent.of("done", {"quiet": True})
        await store.append(tx, owner.tenant, stream.id, [event], clock.now(), ends="done")
    events = await asyncio.wait_for(reading, 5)
    assert [event.data for event in events] == [{"quiet": True}]


async def test_producer_and_reader_outlive_the_loss_of_every_connection(
    streams, replica, owner, server_url, database_url
):
    stream = await streams.create(owner)
    reading = asyncio.create_task(collect(replica, owner, stream.id))
    name = conninfo_to_dict(database_url)["dbname"]
    async with streams.writer(owner.tenant, stream.id) as writer:
        for number in range(200):
            await writer.write("text.delta", {"text": str(number)})
            if number in (50, 120):
                await writer.flush()
                with psycopg.connect(server_url, autocommit=True) as admin:
                    admin.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity "
                        "where datname = %s and application_name like 'backstay/backstay_app%%'",
                        [name],
                    )
            await asyncio.sleep(0.001)
        await writer.done()
    live = await asyncio.wait_for(reading, 10)
    assert [event.seq for event in live] == list(range(1, 202))


async def test_a_page_is_bounded_by_events_and_by_bytes(streams, owner):
    many, heavy = await streams.create(owner), await streams.create(owner)
    async with streams.writer(owner.tenant, many.id) as writer:
        for _ in range(600):
            await writer.write("text.delta", {"text": "x"})
        await writer.done()
    async with streams.writer(owner.tenant, heavy.id) as writer:
        for _ in range(12):
            await writer.write("tool.result", {"output": "x" * 200_000})
        await writer.done()
    with await streams.reader(owner, many.id) as reader:
        assert len(await reader.page(timeout=1)) == 256
    sizes = []
    with await streams.reader(owner, heavy.id) as reader:
        while not reader.ended:
            sizes.append(sum(len(event.data) for event in await reader.page(timeout=1)))
    assert len(sizes) >= 2
    assert max(sizes) <= 1024 * 1024 + 256 * 1024


async def test_a_tenant_cannot_see_anothers_stream(streams, owner, other_owner):
    stream = await streams.create(owner)
    with pytest.raises(StreamNotFound):
        await streams.reader(other_owner, stream.id)
    with pytest.raises(StreamNotFound):
        await streams.cancel(other_owner, stream.id)
    with pytest.raises(StreamNotFound):
        await streams.append(other_owner, stream.id, [NewEvent.of("text.delta", {"text": "!"})])
    with pytest.raises(StreamNotFound):
        async with streams.writer(other_owner.tenant, stream.id):
            pass


async def test_a_resume_point_beyond_the_end_of_an_open_stream_is_refused(streams, owner):
    stream = await streams.create(owner)
    with pytest.raises(ResumePointInvalid):
        await streams.reader(owner, stream.id, 1)


async def test_an_expired_stream_is_gone_then_empty_then_forgotten(db, settings, owner, manual_clock: ManualClock):
    streams = Streams(db, manual_clock, settings)
    stream = await streams.create(owner, expires_in=timedelta(hours=1))
    async with streams.writer(owner.tenant, stream.id) as writer:
        await writer.write("text.delta", {"text": "secret"})
        await writer.done()
    manual_clock.advance(timedelta(minutes=59))
    assert await streams.prune() == 0
    assert len(await collect(streams, owner, stream.id)) == 2
    manual_clock.advance(timedelta(minutes=1))
    with pytest.raises(StreamExpired):
        await streams.reader(owner, stream.id)
    assert await streams.prune() == 1
    async with db.tenant_tx(owner.tenant) as tx:
        assert await store.page(tx, owner.tenant, stream.id, 0, 10, 10_000) == []
    assert await streams.prune() == 0
    with pytest.raises(StreamExpired):
        await streams.reader(owner, stream.id)
    manual_clock.advance(timedelta(days=8))
    await streams.prune()
    with pytest.raises(StreamNotFound):
        await streams.reader(owner, stream.id)


async def test_text_with_nul_and_every_line_break_comes_back_as_it_was(streams, owner):
    text = "a\x00b\r\nc\nd\u2028e \U0001f9ed"
    stream = await streams.create(owner)
    async with streams.writer(owner.tenant, stream.id) as writer:
        await writer.write("text.delta", {"text": text})
        await writer.done()
    assert (await collect(streams, owner, stream.id))[0].data == {"text": text}
