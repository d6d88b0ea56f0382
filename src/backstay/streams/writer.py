"""One producer of one stream: buffers events, stores them in batches, and notices when it has to stop.

The first event after a pause is stored at once, the following ones together every 25 ms or 32 events,
whichever comes first. `write` waits when a batch is full, so a producer that is faster than the database is
slowed down, not buffered.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any
from uuid import UUID

from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database
from . import store
from .models import (
    TERMINAL,
    Appended,
    End,
    EventType,
    NewEvent,
    ProducerFenced,
    Stream,
    StreamEnded,
    StreamExpired,
    StreamNotFound,
)
from .reader import TOPIC

BATCH_EVENTS = 32
BATCH_SECONDS = 0.025
_BEAT_SECONDS = (0.05, 300.0)  # how often the lease is renewed, at most and at least
CANCEL_TOPIC = "stream.cancel"
_RETRIES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # seconds between attempts while the database is away
_log = telemetry.log("streams")
_events = telemetry.counter("backstay_stream_events_total", "Events appended to streams.")
_batches = telemetry.counter("backstay_stream_batches_total", "Batches of events appended to streams.")
_fenced = telemetry.counter("backstay_stream_fenced_total", "Producers refused because a newer one took over.")


class StreamWriter:
    """The stream's producer while the context is open.

    Entering takes the next epoch: whoever produced before is refused from then on. Leaving stores what is
    buffered and leaves the stream open unless `done`, `error` or `cancelled` was called; another producer may
    carry on, and if none does the stream ends in `error` once its patience is over.

    After a write failed for good (a newer producer, the stream ended, the database gone) every later one
    raises the same error.
    """

    def __init__(self, db: Database, clock: Clock, tenant: UUID, stream: UUID) -> None:
        self._db, self._clock, self._tenant, self.id = db, clock, tenant, stream
        self._lock = asyncio.Lock()
        self._due = asyncio.Event()
        self._cancel = asyncio.Event()
        self._buffer: list[NewEvent] = []
        self._inflight: list[NewEvent] = []
        self._ends: End | None = None
        self._closed = False
        self._failure: Exception | None = None
        self._epoch = 0
        self._seq = 0
        self._resumed = False
        self._patience = timedelta(0)
        self._flushed_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def epoch(self) -> int:
        """This producer's number; it rises with each producer of the stream."""
        return self._epoch

    @property
    def resumed(self) -> bool:
        """Whether an earlier producer has left events in this stream."""
        return self._resumed

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked the stream to stop. Known within milliseconds, or a third of the patience at
        worst.
        """
        return self._cancel.is_set()

    async def wait_cancelled(self) -> None:
        """Returns when somebody asks the stream to stop."""
        await self._cancel.wait()

    async def __aenter__(self) -> "StreamWriter":
        """Takes the next epoch.

        Raises:
            StreamNotFound, StreamExpired, StreamEnded: there is nothing to write to.
        """
        async with self._db.tenant_tx(self._tenant) as tx:
            taken = await store.take(tx, self._tenant, self.id, self._clock.now())
            stream = await store.get(tx, self._tenant, self.id)
            if taken is None or stream is None:
                raise unwritable(stream, self.id, self._clock)
        self._learn(taken)
        self._epoch, self._seq, self._patience = taken.epoch, taken.last_seq, stream.patience
        self._resumed = taken.last_seq > 0
        self._tasks = [
            asyncio.create_task(self._flush_in_batches(), name=f"stream-flush-{self.id}"),
            asyncio.create_task(self._keep_lease(), name=f"stream-lease-{self.id}"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._failure is None and not self._closed:
            try:
                await self.flush()
            except Exception as failure:
                if error is None:
                    raise
                # The block's own error matters more; this one must not hide it.
                _log.warning("last events of a stream not stored", stream=str(self.id), error=str(failure))

    async def write(self, type: EventType, data: Mapping[str, Any]) -> None:
        """Adds an event. Returns at once unless a batch is full; the event is stored within about 25 ms.

        Raises:
            ProducerFenced: a newer producer has taken over.
            StreamEnded: the stream has its terminal event.
            EventTooLarge, Invalid: the data is too large or not JSON.
        """
        if type in TERMINAL:
            raise ValueError(f"a {type} event ends the stream: call {type}() instead")
        self._check()
        self._buffer.append(NewEvent.of(type, data))
        if len(self._buffer) >= BATCH_EVENTS:
            await self.flush()
        else:
            self._due.set()

    async def flush(self) -> None:
        """Returns when everything written so far is stored."""
        self._check()
        await self._store()

    async def done(self, data: Mapping[str, Any] | None = None) -> None:
        """Ends the stream well, together with what is still buffered."""
        await self._end("done", data or {})

    async def error(self, problem: Mapping[str, Any]) -> None:
        """Ends the stream with a problem document."""
        await self._end("error", problem)

    async def cancelled(self, data: Mapping[str, Any] | None = None) -> None:
        """Ends the stream because somebody asked for it."""
        await self._end("cancelled", data or {})

    async def _end(self, end: End, data: Mapping[str, Any]) -> None:
        self._check()
        self._buffer.append(NewEvent.of(end, data))
        self._ends = end
        await self._store()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed or self._ends:
            raise StreamEnded(f"stream {self.id} has its terminal event; nothing can follow it")

    async def _store(self) -> None:
        async with self._lock:
            while (self._buffer or self._inflight) and not self._closed:
                if not self._inflight:
                    self._inflight, self._buffer = self._buffer, []
                await self._append(self._inflight)
                _events.inc(len(self._inflight))
                _batches.inc()
                self._inflight = []
                self._flushed_at = time.monotonic()

    async def _append(self, events: Sequence[NewEvent]) -> None:
        """One batch, exactly once: a repeat after a lost answer is recognised by the expected last event."""
        ends = self._ends if events and events[-1].type == self._ends else None
        pauses = iter(_RETRIES)
        while True:
            try:
                appended = await self._attempt(events, ends)
                break
            except store.TRANSIENT as error:
                pause = next(pauses, None)
                if pause is None:
                    self._failure = error
                    raise
                _log.warning("stream write repeated", stream=str(self.id), error=str(error), seconds=pause)
                await asyncio.sleep(pause)
            except Exception as error:
                if isinstance(error, ProducerFenced):
                    _fenced.inc()
                self._failure = error
                self._due.set()
                raise
        self._seq = appended.last_seq
        self._learn(appended)
        self._closed = self._closed or ends is not None

    async def _attempt(self, events: Sequence[NewEvent], ends: End | None) -> Appended:
        now = self._clock.now()
        async with self._db.tenant_tx(self._tenant) as tx:
            appended = await store.append(
                tx, self._tenant, self.id, events, now, epoch=self._epoch, expected=self._seq, ends=ends
            )
            if appended is not None:
                if events:
                    tx.notify(TOPIC, str(self.id))
                return appended
            stream = await store.get(tx, self._tenant, self.id)
        if (
            stream is not None
            and stream.producer_epoch == self._epoch
            and stream.last_seq == self._seq + len(events)
            and stream.state == (ends or "open")
        ):
            # An earlier attempt was committed, only its answer got lost.
            return Appended(stream.last_seq, self._epoch, stream.cancel_requested_at is not None)
        raise unwritable(stream, self.id, self._clock, self._epoch)

    def _learn(self, appended: Appended) -> None:
        if appended.cancel_requested:
            self._cancel.set()

    async def _flush_in_batches(self) -> None:
        while self._failure is None:
            await self._due.wait()
            self._due.clear()
            pause = BATCH_SECONDS - (time.monotonic() - self._flushed_at)
            if pause > 0:
                await asyncio.sleep(pause)
            with contextlib.suppress(Exception):  # kept in _failure, the next write raises it
                await self._store()

    async def _keep_lease(self) -> None:
        often, seldom = _BEAT_SECONDS
        beat = min(max(self._patience.total_seconds() / 3, often), seldom)
        with self._db.notifier.subscribe(CANCEL_TOPIC, str(self.id)) as subscription:
            while self._failure is None and not self._closed:
                asked = await subscription.wait(timeout=beat)
                if not asked and time.monotonic() - self._flushed_at < beat / 2:
                    continue
                with contextlib.suppress(Exception):  # kept in _failure, the next write raises it
                    await self._store()  # a batch whose sender was cancelled may be left
                    async with self._lock:
                        if not self._closed:
                            await self._append([])


def unwritable(stream: Stream | None, id: UUID, clock: Clock, epoch: int | None = None) -> Exception:
    """Why a write to `stream` is refused, as the error to raise."""
    if stream is None:
        return StreamNotFound(f"there is no stream {id}")
    if stream.expires_at <= clock.now():
        return StreamExpired(f"stream {id} expired at {stream.expires_at.isoformat()}")
    if stream.ended:
        return StreamEnded(f"stream {id} ended with `{stream.state}`; nothing can follow it")
    if epoch is not None and stream.producer_epoch != epoch:
        return ProducerFenced(
            f"producer {epoch} of stream {id} was replaced by producer {stream.producer_epoch}: stop writing"
        )
    return StreamEnded(f"stream {id} stands at event {stream.last_seq}, which this producer did not write")
