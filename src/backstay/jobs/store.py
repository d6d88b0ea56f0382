"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from psycopg import errors

from ..kernel import sql
from ..kernel.db import Tx
from .models import Buried, Claimed, JobDetail, JobNotRetryable, JobView, Memory, Turn, Verdict

_queries = sql.load(__package__)
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)
_NOTHING = Memory("[]", "[]", "[]")


async def enqueue(
    tx: Tx,
    *,
    tenant: UUID,
    queue: str,
    name: str,
    state: str,
    priority: int,
    run_at: datetime,
    now: datetime,
    rows: bytes,
    remote: bool = False,
) -> Callable[[], Awaitable[list[tuple[Any, ...]]]]:
    """`rows` is a JSON array of {id, unique_key, payload}. Returns what reads the id and key of each new or standing
    job; in a pipeline after its end."""
    return await _queries.enqueue.send_rows(
        tx,
        tenant_id=tenant,
        queue=queue,
        name=name,
        state=state,
        priority=priority,
        run_at=run_at,
        now=now,
        rows=rows.decode(),
        remote=remote,
    )


async def add_blobs(tx: Tx, tenant: UUID, rows: bytes, now: datetime) -> None:
    await _queries.add_blobs.run(tx, tenant_id=tenant, rows=rows.decode(), now=now)


async def turn(
    tx: Tx,
    *,
    worker: UUID,
    first_fence: int,
    fences: Sequence[int],
    queues: Sequence[str],
    names: Sequence[str],
    room: int,
    now: datetime,
    memory: Memory = _NOTHING,
) -> Callable[[], Awaitable[Turn]]:
    """Returns what reads it; in a pipeline after its end."""
    rows = await _queries.turn.send_rows(
        tx,
        worker=worker,
        first_fence=first_fence,
        fences=list(fences),
        queues=list(queues),
        names=list(names),
        room=room,
        now=now,
        first=_FIRST,
        last=_LAST,
        **memory._asdict(),
    )

    async def read() -> Turn:
        *claimed, summary = await rows()
        told = orjson.loads(summary[10])
        return Turn(
            finished=told["finished"],
            alive=bool(told["alive"]),
            claimed=[Claimed(*row) for row in claimed],
            flows=told["flows"],
            read=told["read"] or 0,
            weights=told["weights"] or [],
            ended=told["ended"] or [],
            full=told["full"] or [],
            wait=told["wait"],
        )

    return read


async def lock_limits(tx: Tx, queues: Sequence[str], names: Sequence[str]) -> None:
    await _queries.lock_limits.rows(tx, queues=list(queues), names=list(names))


async def limited(tx: Tx, queues: Sequence[str], names: Sequence[str]) -> bool:
    return bool(await _queries.limited.value(tx, queues=list(queues), names=list(names)))


async def blob(tx: Tx, tenant: UUID, id: UUID) -> str | None:
    body: str | None = await _queries.blob.value(tx, tenant_id=tenant, id=id)
    return body


async def settle(tx: Tx, verdicts: Sequence[Verdict], now: datetime) -> set[int] | None:
    """The fences that were still the worker's own. None: a newer job with the same key came in between; do it again
    in a new transaction, which will see it."""
    try:
        rows = await _queries.settle.rows(tx, verdicts=orjson.dumps(list(verdicts)).decode(), now=now)
    except errors.UniqueViolation:
        return None
    return {row[0] for row in rows}


async def promote(tx: Tx, now: datetime, limit: int) -> list[str]:
    return [row[0] for row in await _queries.promote.rows(tx, now=now, limit=limit)]


async def next_due(tx: Tx) -> datetime | None:
    at: datetime | None = await _queries.next_due.value(tx)
    return at


async def add_worker(tx: Tx, id: UUID, name: str, queues: Sequence[str], lease: float) -> int:
    """The worker's number, of which its fences are made."""
    fence: int = await _queries.add_worker.value(tx, id=id, name=name, queues=list(queues), lease=lease)
    return fence


async def beat(tx: Tx, id: UUID, lease: float) -> bool:
    return await _queries.beat.run(tx, id=id, lease=lease) == 1


async def claims(tx: Tx, worker: UUID, since: int) -> tuple[dict[int, bool], int]:
    """Every fence from `since` on that a worker holds, and whether that job is to be cancelled; how many entries of
    the index were read for it."""
    *held, (read, _) = await _queries.claims.rows(tx, worker=worker, since=since)
    return dict(held), read


async def remove_worker(tx: Tx, id: UUID) -> None:
    await _queries.remove_worker.run(tx, id=id)


async def bury_workers(tx: Tx) -> list[Buried]:
    return await _queries.bury_workers.all(tx, Buried)


async def rescue(tx: Tx, now: datetime) -> list[tuple[str, str]] | None:
    """Queue and name of each rescued job. None: as in `settle`."""
    try:
        rows = await _queries.rescue.rows(tx, now=now)
    except errors.UniqueViolation:
        return None
    return [(row[0], row[1]) for row in rows]


async def hold(tx: Tx, tenant: UUID, id: UUID, fence: int, patience: timedelta) -> bool:
    milliseconds = int(patience.total_seconds() * 1000)
    held = await _queries.hold.value(tx, tenant_id=tenant, id=id, fence=fence, milliseconds=milliseconds)
    return held is not None


async def find(tx: Tx, tenant: UUID, id: UUID) -> JobDetail | None:
    return await _queries.find.maybe(tx, JobDetail, tenant_id=tenant, id=id)


async def page(
    tx: Tx,
    tenant: UUID,
    *,
    after: UUID | None,
    limit: int,
    state: str | None,
    queue: str | None,
    name: str | None,
) -> list[JobView]:
    return await _queries.page.all(
        tx,
        JobView,
        tenant_id=tenant,
        after=after or _LAST,
        limit=limit,
        state=state,
        queue=queue,
        name=name,
    )


async def revive(tx: Tx, tenant: UUID, id: UUID, now: datetime) -> str | None:
    try:
        queue: str | None = await _queries.revive.value(tx, tenant_id=tenant, id=id, now=now)
    except errors.UniqueViolation:
        raise JobNotRetryable("a newer job with the same key is waiting already; it does the work") from None
    return queue


async def hasten(tx: Tx, tenant: UUID, id: UUID, now: datetime) -> str | None:
    queue: str | None = await _queries.hasten.value(tx, tenant_id=tenant, id=id, now=now)
    return queue


async def cancel_waiting(tx: Tx, tenant: UUID, id: UUID, now: datetime) -> bool:
    return await _queries.cancel_waiting.run(tx, tenant_id=tenant, id=id, now=now) == 1


async def ask_to_cancel(tx: Tx, tenant: UUID, id: UUID) -> bool:
    return await _queries.ask_to_cancel.run(tx, tenant_id=tenant, id=id) == 1


async def queues(tx: Tx, tenant: UUID) -> list[dict[str, Any]]:
    return await _queries.queues.all(tx, dict, tenant_id=tenant)


async def depths(tx: Tx) -> list[tuple[str, str, int]]:
    return [(row[0], row[1], row[2]) for row in await _queries.depths.rows(tx)]


async def waiting(tx: Tx, queues: Sequence[str], now: datetime) -> bool:
    return bool(await _queries.waiting.value(tx, queues=list(queues), now=now))


async def keep_partitions(tx: Tx, today: date, ahead: int, keep_from: date) -> int:
    changed: int = await _queries.keep_partitions.value(tx, today=today, ahead=ahead, keep_from=keep_from)
    return changed


async def prune_blobs(tx: Tx, before: datetime, limit: int) -> int:
    return await _queries.prune_blobs.run(tx, before=before, limit=limit)


async def ready_queues(tx: Tx) -> list[str]:
    return [row[0] for row in await _queries.ready_queues.rows(tx)]


async def report_progress(tx: Tx, told: Mapping[int, tuple[float, str | None]]) -> set[int]:
    """Returns the fences written; the others were locked, or their jobs are another's."""
    rows = [{"fence": fence, "fraction": fraction, "note": note} for fence, (fraction, note) in told.items()]
    return {row[0] for row in await _queries.report_progress.rows(tx, rows=orjson.dumps(rows).decode())}
