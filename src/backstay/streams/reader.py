"""One reader of one stream: pulls pages from the database, woken by the producer's commit.

It pulls, so a slow reader costs one page of memory (at most 256 events or about 1 MiB) and delays nobody:
what it has not asked for yet waits in the database. It holds no connection while it waits.
"""

import time
from datetime import timedelta
from types import TracebackType
from uuid import UUID

from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database
from . import store
from .models import TERMINAL, ResumePointInvalid, StoredEvent, Stream, StreamExpired, StreamNotFound

PAGE_EVENTS = 256
PAGE_BYTES = 1024 * 1024
TOPIC = "stream"
# Wake-ups can be lost, so a waiting reader also looks: soon while the stream is lively, rarely when it is
# quiet.
_FIRST_LOOK, _LAST_LOOK = 1.0, 10.0
DATABASE_AWAY = 30.0  # seconds a reader bears
_log = telemetry.log("streams")
_readers = telemetry.gauge("backstay_stream_readers", "Readers connected to streams.")


class StreamReader:
    """Reads a stream from after one event to its end. Use it as a context manager.

    `ended` turns true once the terminal event has been handed out (or was before the resume point). `released` turns
    true when this process stops: the reader gets nothing more here and resumes from another one.
    """

    def __init__(self, db: Database, clock: Clock, stream: Stream, after: int, open_: "set[StreamReader]") -> None:
        self._db, self._clock = db, clock
        self._tenant, self.id, self._expires_at = stream.tenant, stream.id, stream.expires_at
        self.after = after
        self.ended = stream.ended and after >= stream.last_seq
        self.released = False
        self._open = open_
        self._lost_since = 0.0
        self._subscription = db.notifier.subscribe(TOPIC, str(stream.id))
        self._look = _FIRST_LOOK

    def __enter__(self) -> "StreamReader":
        self._subscription.__enter__()
        self._open.add(self)
        _readers.inc()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._subscription.__exit__(kind, error, trace)
        self._open.discard(self)
        _readers.dec()

    def release(self) -> None:
        """Lets the reader go: its `page` returns what it has and then nothing."""
        self.released = True
        self._subscription.wake()

    async def page(self, timeout: float) -> list[StoredEvent]:
        """The next events, as soon as there are some; an empty list after `timeout` seconds, or at the end.

        Raises:
            StreamExpired: the stream's time is up and its events are gone.
            Unavailable, OperationalError: the database has been away for half a minute.
        """
        left = timeout
        while not self.ended and not self.released:
            events = await self._next()
            if events:
                self._look = _FIRST_LOOK
                self.after = events[-1].seq
                self.ended = events[-1].type in TERMINAL
                return events
            if self.ended or left <= 0:
                break
            pause = min(self._look, left)
            left -= pause
            if await self._subscription.wait(timeout=pause):
                self._look = _FIRST_LOOK
            else:
                self._look = min(self._look * 2, _LAST_LOOK)
        return []

    async def _next(self) -> list[StoredEvent]:
        try:
            async with self._db.tenant_tx(self._tenant) as tx:
                events = await store.page(tx, self._tenant, self.id, self.after, PAGE_EVENTS, PAGE_BYTES)
        except store.TRANSIENT as error:
            # A database that restarts is no reason to drop every reader: this look found nothing, the next one may.
            self._lost_since = self._lost_since or time.monotonic()
            if time.monotonic() - self._lost_since > DATABASE_AWAY:
                raise
            _log.warning("stream read repeated", stream=str(self.id), error=str(error))
            return []
        self._lost_since = 0.0
        if not events and self._expires_at <= self._clock.now():
            raise StreamExpired(f"stream {self.id} expired at {self._expires_at.isoformat()}")
        return events


def checked(stream: Stream | None, id: UUID, after: int, clock: Clock) -> Stream:
    """The stream, if it can be read from after event `after`.

    Raises:
        StreamNotFound: the tenant has no such stream (404).
        StreamExpired: its time is up (410).
        ResumePointInvalid: `after` lies beyond the last event of an open stream (422).
    """
    if stream is None:
        raise StreamNotFound(f"there is no stream {id}")
    if stream.expires_at <= clock.now():
        raise StreamExpired(f"stream {id} expired at {stream.expires_at.isoformat()}")
    if after < 0 or (after > stream.last_seq and not stream.ended):
        raise ResumePointInvalid(
            f"event {after} does not exist yet, the last one is {stream.last_seq}: resume with the id of the last "
            "event received, or with 0 for all of them"
        )
    return stream


LINGER = timedelta(days=7)
"""How long the row of an expired stream stays, so that its readers get 410 and not 404."""
