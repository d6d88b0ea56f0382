"""Rows in, models out: one function per query, no decisions."""

from datetime import datetime
from uuid import UUID

from ...kernel import json, sql
from ...kernel.db import Tx
from ..models import Accepted
from .models import Due, Fire, NewSchedule, ScheduleView

_queries = sql.load(__package__)


async def put(
    tx: Tx, tenant: UUID, name: str, new: NewSchedule, accepted: Accepted, next_at: datetime | None, now: datetime
) -> ScheduleView:
    # As the job's model gives it back, which seals what must not be stored in clear; without what was not said.
    given = accepted.input.model_dump(mode="json", exclude_unset=True)
    values = new.model_dump() | {
        "input": json.dumps(given).decode(),
        "queue": new.queue or accepted.queue,
        "remote": accepted.remote,
    }
    return await _queries.put.one(tx, ScheduleView, tenant_id=tenant, name=name, next_at=next_at, now=now, **values)


async def find(tx: Tx, tenant: UUID, name: str) -> ScheduleView | None:
    return await _queries.find.maybe(tx, ScheduleView, tenant_id=tenant, name=name)


async def page(tx: Tx, tenant: UUID, after: str | None, limit: int) -> list[ScheduleView]:
    return await _queries.page.all(tx, ScheduleView, tenant_id=tenant, after=after, limit=limit)


async def pause(tx: Tx, tenant: UUID, name: str, *, paused: bool, next_at: datetime | None, now: datetime) -> None:
    await _queries.pause.run(tx, tenant_id=tenant, name=name, paused=paused, next_at=next_at, now=now)


async def delete(tx: Tx, tenant: UUID, name: str) -> bool:
    return await _queries.delete.run(tx, tenant_id=tenant, name=name) == 1


async def due(tx: Tx, now: datetime, limit: int) -> list[Due]:
    return await _queries.due.all(tx, Due, now=now, limit=limit)


async def next_due(tx: Tx) -> datetime | None:
    at: datetime | None = await _queries.next_due.value(tx)
    return at


async def take_fire(tx: Tx, due: Due, at: datetime, now: datetime) -> bool:
    """False when this time has been fired for already."""
    row = await _queries.take_fire.value(tx, tenant_id=due.tenant_id, schedule=due.name, at=at, now=now)
    return row is not None


async def note_job(tx: Tx, due: Due, at: datetime, job: UUID) -> None:
    await _queries.note_job.run(tx, tenant_id=due.tenant_id, schedule=due.name, at=at, job_id=job)


async def advance(tx: Tx, due: Due, next_at: datetime | None, last_at: datetime | None) -> None:
    await _queries.advance.run(tx, tenant_id=due.tenant_id, name=due.name, next_at=next_at, last_at=last_at)


async def fires(tx: Tx, tenant: UUID, name: str, before: datetime | None, limit: int) -> list[Fire]:
    return await _queries.fires.all(tx, Fire, tenant_id=tenant, name=name, before=before, limit=limit)


async def prune(tx: Tx, before: datetime, limit: int) -> int:
    return await _queries.prune.run(tx, before=before, limit=limit)
