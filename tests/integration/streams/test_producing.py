import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from backstay.kernel.errors import Invalid
from backstay.kernel.ids import new_id
from backstay.streams import (
    EventTooLarge,
    NewEvent,
    ProducerFenced,
    StreamEnded,
    StreamExpired,
    StreamNotFound,
    Streams,
)
from backstay.streams import writer as writing

HELLO = NewEvent.of("text.delta", {"text": "hello"})


async def texts(streams, owner, id):
    return [event.data.get("text") async for event in streams.read(owner, id)]


async def test_an_older_producer_is_refused_and_leaves_nothing(streams, replica, owner):
    stream = await streams.create(owner)
    async with streams.writer(owner.tenant, stream.id) as older:
        await older.write("text.delta", {"text": "one"})
        await older.flush()
        async with replica.writer(owner.tenant, stream.id) as newer:
            assert newer.resumed
            assert newer.epoch == older.epoch + 1
            await older.write("text.delta", {"text": "zombie"})
            with pytest.raises(ProducerFenced):
                await older.flush()
            with pytest.raises(ProducerFenced):
                await older.done()
            await newer.write("text.delta", {"text": "two"})
            await newer.done()
    assert await texts(streams, owner, stream.id) == ["one", "two", None]


async def test_creating_again_with_the_same_id_returns_what_stands(streams, owner):
    id = new_id()
    first = await streams.create(owner, id=id)
    async with streams.writer(owner.tenant, id) as writer:
        await writer.done()
    again = await streams.create(owner, id=id)
    assert again.created_at == first.created_at
    assert again.state == "done"


async def test_a_stream_exists_if_and_only_if_its_transaction_commits(streams, db, owner):
    id = new_id()

    async def create_and_fail():
        async with db.tenant_tx(owner.tenant) as tx:
            await streams.create(owner, id=id, tx=tx)
            await streams.append(owner, id, [HELLO], tx=tx)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await create_and_fail()
    with pytest.raises(StreamNotFound):
        await streams.get(owner, id)


async def test_the_first_event_leaves_at_once_and_the_following_in_batches(streams, owner, monkeypatch, eventually):
    monkeypatch.setattr(writing, "BATCH_SECONDS", 3600)
    stream = await streams.create(owner)
    async with streams.writer(owner.tenant, stream.id) as writer:
        await writer.write("text.delta", {"text": "first"})

        async def first_is_stored():
            return (await streams.get(owner, stream.id)).last_seq == 1

        await eventually(first_is_stored)
        for number in range(31):
            await writer.write("text.delta", {"text": str(number)})
        assert (await streams.get(owner, stream.id)).last_seq == 1
        await writer.write("text.delta", {"text": "fills the batch"})
        assert (await streams.get(owner, stream.id)).last_seq == 33


async def test_a_commit_whose_answer_was_lost_is_not_written_twice(streams, db, owner, monkeypatch):
    stream = await streams.create(owner)
    real, lost = db.tenant_tx, []

    @asynccontextmanager
    async def loses_the_answer(tenant):
        async with real(tenant) as tx:
            yield tx
        if len(lost) < 3:
            lost.append(1)
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    async with streams.writer(owner.tenant, stream.id) as writer:
        monkeypatch.setattr(db, "tenant_tx", loses_the_answer)
        await writer.write("text.delta", {"text": "once"})
        await writer.flush()
        await writer.write("text.delta", {"text": "and for all"})
        await writer.done()
        monkeypatch.undo()
    assert len(lost) == 3
    assert await texts(streams, owner, stream.id) == ["once", "and for all", None]


async def test_a_batch_whose_sender_was_cancelled_is_written_once(streams, owner):
    stream = await streams.create(owner)
    async with streams.writer(owner.tenant, stream.id) as writer:
        for number in range(200):
            await writer.write("text.delta", {"text": str(number)})
            flushing = asyncio.create_task(writer.flush())
            for _ in range(number % 9):
                await asyncio.sleep(0)
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
        await writer.done()
    assert await texts(streams, owner, stream.id) == [*map(str, range(200)), None]


async def test_leaving_stores_what_is_buffered_and_keeps_the_stream_open_for_the_next(streams, owner):
    stream = await streams.create(owner)

    async def write_and_fail():
        async with streams.writer(owner.tenant, stream.id) as writer:
            await writer.write("text.delta", {"text": "before the accident"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write_and_fail()
    standing = await streams.get(owner, stream.id)
    assert (standing.state, standing.last_seq) == ("open", 1)
    async with streams.writer(owner.tenant, stream.id) as writer:
        await writer.done()
    assert await texts(streams, owner, stream.id) == ["before the accident", None]


async def test_the_lease_is_renewed_while_the_producer_has_nothing_to_say(streams, owner):
    stream = await streams.create(owner, patience=timedelta(seconds=0.6))
    async with streams.writer(owner.tenant, stream.id) as writer:
        for _ in range(15):
            await asyncio.sleep(0.1)
            assert await streams.reap() == 0
        await writer.done()


async def test_a_cancel_from_another_replica_reaches_the_producer_and_ends_the_stream(streams, replica, owner):
    stream = await streams.create(owner, patience=timedelta(minutes=10))
    async with streams.writer(owner.tenant, stream.id) as writer:
        await writer.write("text.delta", {"text": "a long"})
        assert not writer.cancel_requested
        answer = await replica.cancel(owner, stream.id)
        assert answer.cancel_requested_at is not None
        await asyncio.wait_for(writer.wait_cancelled(), 60)  # far under the beat of 200 s: it was woken
        assert writer.cancel_requested
        await writer.cancelled()
    assert (await streams.get(owner, stream.id)).state == "cancelled"
    again = await replica.cancel(owner, stream.id)
    assert again.state == "cancelled"


async def test_a_cancel_before_the_run_produces_is_known_to_its_producer_at_once(streams, owner):
    stream = await streams.create(owner, run=uuid4())
    assert (await streams.cancel(owner, stream.id)).state == "open"
    async with streams.writer(owner.tenant, stream.id) as writer:
        assert writer.cancel_requested


async def test_a_cancel_ends_a_stream_that_nobody_was_going_to_produce(streams, owner):
    stream = await streams.create(owner)
    assert (await streams.cancel(owner, stream.id)).state == "cancelled"
    assert [event.type async for event in streams.read(owner, stream.id)] == ["cancelled"]


async def test_nothing_can_be_written_behind_the_end(streams, owner):
    stream = await streams.create(owner)
    async with streams.writer(owner.tenant, stream.id) as writer:
        await writer.done()
        with pytest.raises(StreamEnded):
            await writer.write("text.delta", {"text": "late"})
        with pytest.raises(StreamEnded):
            await writer.error({})
    with pytest.raises(StreamEnded):
        await streams.append(owner, stream.id, [HELLO])
    with pytest.raises(StreamEnded):
        async with streams.writer(owner.tenant, stream.id):
            pass


async def test_an_appending_producer_keeps_its_epoch_and_is_fenced_like_any_other(streams, owner):
    stream = await streams.create(owner)
    first = await streams.append(owner, stream.id, [HELLO])
    assert (first.last_seq, first.epoch) == (1, 1)
    assert (await streams.append(owner, stream.id, [HELLO, HELLO], epoch=1)).last_seq == 3
    second = await streams.append(owner, stream.id, [])
    assert (second.last_seq, second.epoch) == (3, 2)
    with pytest.raises(ProducerFenced):
        await streams.append(owner, stream.id, [HELLO], epoch=1)
    ended = await streams.append(owner, stream.id, [HELLO, NewEvent.of("done", {})], epoch=2)
    assert ended.last_seq == 5


async def test_bad_events_are_refused_with_a_reason(streams, owner):
    stream = await streams.create(owner)
    with pytest.raises(EventTooLarge):
        NewEvent.of("text.delta", {"text": "x" * 300_000})
    with pytest.raises(Invalid):
        NewEvent.of("text.delta", {"text": "\ud800"})
    with pytest.raises(Invalid, match="must be the last"):
        await streams.append(owner, stream.id, [NewEvent.of("done", {}), HELLO])
    with pytest.raises(Invalid, match="at most 1000"):
        await streams.append(owner, stream.id, [HELLO] * 1001)
    async with streams.writer(owner.tenant, stream.id) as writer:
        with pytest.raises(ValueError, match="call done"):
            await writer.write("done", {})
        await writer.done()


@pytest.mark.parametrize("span", [timedelta(0), timedelta(days=91)])
async def test_a_stream_needs_a_sensible_life(streams, owner, span):
    with pytest.raises(Invalid):
        await streams.create(owner, expires_in=span)


async def test_an_expired_stream_takes_no_producer(db, settings, owner, manual_clock):
    streams = Streams(db, manual_clock, settings)
    stream = await streams.create(owner, expires_in=timedelta(hours=1))
    manual_clock.advance(timedelta(hours=2))
    with pytest.raises(StreamExpired):
        async with streams.writer(owner.tenant, stream.id):
            pass
    with pytest.raises(StreamExpired):
        await streams.append(owner, stream.id, [HELLO])
