"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from psycopg import OperationalError

from ..kernel import sql
from ..kernel.db import Tx
from ..kernel.errors import Unavailable
from .models import Appended, End, NewEvent, Orphan, StoredEvent, Stream

TRANSIENT = (OperationalError, Unavailable)
"""What a write may fail with and be repeated: the database is away for a moment."""

_queries = sql.load(__package__)


async def add(
    tx: Tx, tenant: UUID, id: UUID, run: UUID | None, patience: timedelta, now: datetime, expires_at: datetime
) -> bool:
    """Returns whether the stream is new."""
    added = await _queries.add.run(tx, tenant=tenant, id=id, run=run, patience=patience, now=now, expires_at=expires_at)
    return added == 1


async def get(tx: Tx, tenant: UUID, id: UUID) -> Stream | None:
    return await _queries.get.maybe(tx, Stream, tenant=tenant, id=id)


async def take(tx: Tx, tenant: UUID, id: UUID, now: datetime) -> Appended | None:
    return await _queries.take.maybe(tx, Appended, tenant=tenant, id=id, now=now)


async def append(
    tx: Tx,
    tenant: UUID,
    id: UUID,
    events: Sequence[NewEvent],
    now: datetime,
    *,
    epoch: int | None = None,
    expected: int | None = None,
    ends: End | None = None,
    replaces: bool = False,
) -> Appended | None:
    return await _queries.append.maybe(
        tx,
        Appended,
        tenant=tenant,
        id=id,
        types=[event.type for event in events],
        data=[event.data for event in events],
        now=now,
        epoch=epoch,
        expected=expected,
        ends=ends,
        replaces=replaces,
    )


async def page(tx: Tx, tenant: UUID, id: UUID, after: int, limit: int, max_bytes: int) -> list[StoredEvent]:
    return await _queries.page.all(tx, StoredEvent, tenant=tenant, id=id, after=after, limit=limit, bytes=max_bytes)


async def newest(tx: Tx, tenant: UUID, id: UUID, type: str) -> StoredEvent | None:
    return await _queries.newest.maybe(tx, StoredEvent, tenant=tenant, id=id, type=type)


async def request_cancel(tx: Tx, tenant: UUID, id: UUID, now: datetime) -> bool:
    """Returns whether the stream was still open."""
    return await _queries.request_cancel.run(tx, tenant=tenant, id=id, now=now) == 1


async def orphans(tx: Tx, now: datetime, limit: int) -> list[Orphan]:
    return await _queries.orphans.all(tx, Orphan, now=now, limit=limit)


async def empty(tx: Tx, now: datetime, limit: int) -> int:
    return await _queries.empty.run(tx, now=now, limit=limit)


async def forget(tx: Tx, before: datetime, limit: int) -> int:
    return await _queries.forget.run(tx, before=before, limit=limit)
