"""Rows of workers in other languages: one function per query, no decisions. Each is for one tenant."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import orjson

from ...kernel import sql
from ...kernel.db import Tx
from ..models import Claimed
from .models import HeldClaim, RemoteJob, RemoteWorker

_queries = sql.load(__package__)


class Held(NamedTuple):
    """A running job that is locked and still the claim's own."""

    name: str
    attempt: int
    cancelling: bool


async def register(
    tx: Tx, *, tenant: UUID, id: UUID, name: str, queues: Sequence[str], names: Sequence[str], lease: float
) -> None:
    await _queries.register_remote.run(
        tx, tenant_id=tenant, id=id, name=name, queues=list(queues), names=list(names), lease=lease
    )


async def declare(tx: Tx, tenant: UUID, jobs: Sequence[RemoteJob], now: datetime) -> None:
    rows = orjson.dumps([job.model_dump() for job in jobs]).decode()
    await _queries.declare_remote.run(tx, tenant_id=tenant, rows=rows, now=now)


async def lock_declared(tx: Tx, tenant: UUID) -> None:
    await _queries.lock_declared.rows(tx, tenant_id=tenant)


async def count_declared(tx: Tx, tenant: UUID) -> int:
    count: int = await _queries.count_declared.value(tx, tenant_id=tenant)
    return count


class Overdue(NamedTuple):
    """An attempt that takes longer than it may."""

    fence: int
    attempt: int
    max_attempts: int
    base_seconds: float
    cap_seconds: float
    timeout_seconds: float


async def overdue(tx: Tx, now: datetime, limit: int) -> list[Overdue]:
    """Locked."""
    return [Overdue(*row) for row in await _queries.remote_overdue.rows(tx, now=now, limit=limit)]


async def declared(tx: Tx, tenant: UUID, names: Sequence[str]) -> dict[str, RemoteJob]:
    found = await _queries.declared.all(tx, RemoteJob, tenant_id=tenant, names=list(names))
    return {job.name: job for job in found}


async def workers(tx: Tx, tenant: UUID, limit: int) -> list[RemoteWorker]:
    return await _queries.remote_workers.all(tx, RemoteWorker, tenant_id=tenant, limit=limit)


async def beat(tx: Tx, tenant: UUID, worker: UUID) -> float | None:
    """The lease's length in seconds; None: there is no such worker any more."""
    seconds: float | None = await _queries.remote_beat.value(tx, tenant_id=tenant, worker=worker)
    return seconds


async def claims(tx: Tx, tenant: UUID, worker: UUID) -> list[HeldClaim]:
    rows = await _queries.remote_claims.rows(tx, tenant_id=tenant, worker=worker)
    return [HeldClaim(job=row[0], claim=str(row[1]), cancelling=row[2]) for row in rows]


async def leave(tx: Tx, tenant: UUID, worker: UUID) -> bool:
    return await _queries.remote_leave.run(tx, tenant_id=tenant, worker=worker) == 1


async def claim(tx: Tx, tenant: UUID, worker: UUID, room: int, now: datetime) -> list[Claimed] | None:
    """None: there is no such worker any more."""
    rows = await _queries.remote_claim.rows(tx, tenant_id=tenant, worker=worker, room=room, now=now)
    return [Claimed(*row[1:]) for row in rows if row[1] is not None] if rows[0][0] else None


async def hold(tx: Tx, tenant: UUID, worker: UUID, job: UUID, fence: int) -> Held | None:
    rows = await _queries.remote_hold.rows(tx, tenant_id=tenant, worker=worker, id=job, fence=fence)
    return Held(*rows[0][:3]) if rows else None


async def complete(tx: Tx, tenant: UUID, worker: UUID, job: UUID, fence: int, now: datetime) -> tuple[str, bool] | None:
    """The job's queue, and whether others may have waited for its end; None: it is not this claim's any more."""
    rows = await _queries.remote_complete.rows(tx, tenant_id=tenant, worker=worker, id=job, fence=fence, now=now)
    return (rows[0][0], rows[0][1]) if rows else None


async def input(tx: Tx, tenant: UUID, worker: UUID, job: UUID, fence: int) -> list[str | None]:
    """The input's JSON text in a list; an empty one: it is not this claim's any more."""
    rows = await _queries.remote_input.rows(tx, tenant_id=tenant, worker=worker, id=job, fence=fence)
    return [row[0] for row in rows]


async def progress(
    tx: Tx, tenant: UUID, worker: UUID, job: UUID, fence: int, fraction: float, note: str | None
) -> bool | None:
    """Whether the job is to be cancelled; None: it is not this claim's any more."""
    cancelling: bool | None = await _queries.remote_progress.value(
        tx, tenant_id=tenant, worker=worker, id=job, fence=fence, fraction=fraction, note=note
    )
    return cancelling


async def lock_limits(tx: Tx, tenant: UUID, worker: UUID) -> None:
    await _queries.remote_lock_limits.rows(tx, tenant_id=tenant, worker=worker)
