"""Decides what may happen to a stream, and ends those that nobody produces any more."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from uuid import UUID

from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import Invalid, Unavailable
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from ..kernel.settings import Settings
from . import store
from .models import (
    TERMINAL,
    Appended,
    End,
    EventType,
    NewEvent,
    Orphan,
    ProducerLost,
    Stream,
    StreamEvent,
    StreamExpired,
    StreamNotFound,
)
from .reader import LINGER, TOPIC, StreamReader, checked
from .writer import CANCEL_TOPIC, StreamWriter, unwritable

RUN_PATIENCE = timedelta(minutes=15)
"""How long a run's stream waits for the run to be resumed by another worker."""
MAX_BATCH = 1000
_LONGEST = timedelta(days=90)
_log = telemetry.log("streams")
_reaped = telemetry.counter("backstay_streams_reaped_total", "Streams ended because their producer vanished.")


class Streams:
    """Streams of one process' App."""

    def __init__(self, db: Database, clock: Clock, settings: Settings) -> None:
        self._db, self._clock = db, clock
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._open: set[StreamReader] = set()

    async def create(
        self,
        by: Principal,
        *,
        id: UUID | None = None,
        run: UUID | None = None,
        expires_in: timedelta = timedelta(days=1),
        patience: timedelta | None = None,
        tx: Tx | None = None,
    ) -> Stream:
        """A new stream, or the one that stands under `id`. Joins `tx` when given.

        `expires_in` (at most 90 days) later its events are deleted. `patience` is how long it waits for a
        producer that went silent before it ends in `error`: the worker's lease by default, 15 minutes for the
        stream of a `run`, which another worker resumes.

        Raises:
            Invalid: a time span out of range (422).
        """
        if not timedelta(0) < expires_in <= _LONGEST:
            raise Invalid(f"a stream can live for at most {_LONGEST.days} days")
        if patience is None:
            patience = RUN_PATIENCE if run else self._lease
        if not timedelta(0) < patience <= _LONGEST:
            raise Invalid("patience must be a positive time span, and shorter than the longest life of a stream")
        id, now = id or new_id(), self._clock.now()
        async with self._db.join(tx, by.tenant) as tx:
            await store.add(tx, by.tenant, id, run, patience, now, now + expires_in)
            return await self._standing(tx, by.tenant, id)

    async def get(self, by: Principal, stream: UUID, *, tx: Tx | None = None) -> Stream:
        """Raises StreamNotFound (404)."""
        async with self._db.join(tx, by.tenant) as tx:
            return await self._standing(tx, by.tenant, stream)

    async def newest(self, tenant: UUID, stream: UUID, type: EventType) -> StreamEvent | None:
        """The newest event of this type: how a producer learns what an earlier one has sent."""
        async with self._db.tenant_tx(tenant) as tx:
            found = await store.newest(tx, tenant, stream, type)
        return None if found is None else found.parsed()

    def writer(self, tenant: UUID, stream: UUID) -> StreamWriter:
        """The stream's next producer, from when its context is entered."""
        return StreamWriter(self._db, self._clock, tenant, stream)

    async def append(
        self, by: Principal, stream: UUID, events: Sequence[NewEvent], *, epoch: int | None = None, tx: Tx | None = None
    ) -> Appended:
        """Appends events for a producer outside this process, and renews its lease (no events: only that).

        `epoch` is the one an earlier append returned. Without it the caller becomes the newest producer. A
        terminal event must be the last one.

        Raises:
            StreamNotFound, StreamExpired, StreamEnded, ProducerFenced: the stream does not take it (404, 410,
            409). Invalid: more than 1,000 events, or one after the terminal event (422).
        """
        if len(events) > MAX_BATCH:
            raise Invalid(f"{len(events)} events in one append; send at most {MAX_BATCH}")
        if any(event.type in TERMINAL for event in events[:-1]):
            raise Invalid("a terminal event must be the last one")
        now = self._clock.now()
        async with self._db.join(tx, by.tenant) as tx:
            standing = await store.get(tx, by.tenant, stream)
            if standing is None or standing.ended or standing.expires_at <= now:
                raise unwritable(standing, stream, self._clock)
            if epoch is None:
                taken = await store.take(tx, by.tenant, stream, now)
                epoch = taken.epoch if taken else standing.producer_epoch
            last = events[-1].type if events else None
            ends: End | None = last if last in ("done", "error", "cancelled") else None
            appended = await store.append(tx, by.tenant, stream, events, now, epoch=epoch, ends=ends)
            if appended is None:
                raise unwritable(await store.get(tx, by.tenant, stream), stream, self._clock, epoch)
            tx.notify(TOPIC, str(stream))
            return appended

    async def reader(self, by: Principal, stream: UUID, after: int = 0) -> StreamReader:
        """A reader that starts behind event `after` (0: from the beginning).

        Raises:
            StreamNotFound, StreamExpired, ResumePointInvalid: it cannot be read (404, 410, 422).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            standing = await store.get(tx, by.tenant, stream)
        return StreamReader(self._db, self._clock, checked(standing, stream, after, self._clock), after, self._open)

    async def read(self, by: Principal, stream: UUID, after: int = 0) -> AsyncIterator[StreamEvent]:
        """Every event behind `after`, once and in order, live; ends with the terminal event.

        Raises:
            StreamNotFound, StreamExpired, ResumePointInvalid: as for `reader`.
            Unavailable: this process stops; read on from another one (503).
        """
        with await self.reader(by, stream, after) as reader:
            while not reader.ended:
                for event in await reader.page(timeout=60):
                    yield event.parsed()
                if reader.released:
                    raise Unavailable("this process stops; read on from another one, behind the last event received")

    def release_readers(self) -> None:
        """Lets every reader of this process go, so that a stop need not wait for their streams to end."""
        for reader in tuple(self._open):
            reader.release()

    async def cancel(self, by: Principal, stream: UUID, *, tx: Tx | None = None) -> Stream:
        """Asks the producer to stop, on whichever replica it runs; the producer ends the stream with
        `cancelled`.

        A stream that waits for no one (no run, and no producer yet) ends at once. Nothing happens to an ended
        one.

        Raises:
            StreamNotFound, StreamExpired: (404, 410).
        """
        now = self._clock.now()
        async with self._db.join(tx, by.tenant) as tx:
            if await store.request_cancel(tx, by.tenant, stream, now):
                tx.notify(CANCEL_TOPIC, str(stream))
            standing = await self._standing(tx, by.tenant, stream)
            if standing.expires_at <= now:
                raise StreamExpired(f"stream {stream} expired at {standing.expires_at.isoformat()}")
            if not standing.ended and standing.run is None and standing.lease_until is None:
                await self._close(tx, by.tenant, stream, "cancelled", NewEvent.of("cancelled", {}))
                return await self._standing(tx, by.tenant, stream)
            return standing

    async def reap(self, limit: int = 100) -> int:
        """Ends open streams whose producer has been silent for longer than their patience, or whose time is
        up.

        Returns how many. Safe to call from every process at once.
        """
        async with self._db.system_tx() as tx:
            orphans = await store.orphans(tx, self._clock.now(), limit)
            for orphan in orphans:
                event = _last_event(orphan)
                ends: End = "cancelled" if event.type == "cancelled" else "error"
                await self._close(tx, orphan.tenant, orphan.id, ends, event)
        if orphans:
            _reaped.inc(len(orphans))
            _log.warning("ended streams without a producer", count=len(orphans))
        return len(orphans)

    async def prune(self, limit: int = 100) -> int:
        """Deletes the events of expired streams, and a week later their rows. Returns how many streams it
        emptied.
        """
        now = self._clock.now()
        async with self._db.system_tx() as tx:
            await store.forget(tx, now - LINGER, limit)
            return await store.empty(tx, now, limit)

    async def keep(self, stop: asyncio.Event) -> None:
        """Reaps and prunes until `stop` is set; every process may run it."""
        while not stop.is_set():
            try:
                full = await self.reap() >= 100 or await self.prune() >= 100
            except store.TRANSIENT as error:
                _log.warning("stream upkeep postponed", error=str(error))
                full = False
            try:
                async with asyncio.timeout(0.01 if full else self._lease.total_seconds() / 3):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _standing(self, tx: Tx, tenant: UUID, id: UUID) -> Stream:
        stream = await store.get(tx, tenant, id)
        if stream is None:
            raise StreamNotFound(f"there is no stream {id}")
        return stream

    async def _close(self, tx: Tx, tenant: UUID, id: UUID, ends: End, event: NewEvent) -> None:
        if await store.append(tx, tenant, id, [event], self._clock.now(), ends=ends, replaces=True) is not None:
            tx.notify(TOPIC, str(id))
            tx.notify(CANCEL_TOPIC, str(id))  # a producer that still lives learns that it is over


def _last_event(orphan: Orphan) -> NewEvent:
    if orphan.cancel_requested:
        return NewEvent.of("cancelled", {})
    if orphan.expired:
        return NewEvent.of("error", StreamExpired("the stream's time was up before its producer ended it").problem())
    return NewEvent.of("error", ProducerLost("the producer went silent; what it sent so far stands").problem())
