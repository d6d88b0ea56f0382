"""What any worker does for all: due jobs become available, dead workers' jobs wait again, old days are dropped."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database
from . import metrics, store
from .handlers import Handler
from .queues import store as queue_store
from .topics import DUE, READY

KEEP_DAYS = 7
_DAYS_AHEAD = 3
_BATCH = 1_000
_log = telemetry.log("jobs")
_measured: set[tuple[str, str]] = set()  # every queue and state that had jobs in this process' time


async def promote(db: Database, now: datetime) -> int:
    """Makes the jobs that are due at `now` available. Returns how many."""
    total = 0
    while True:
        async with db.system_tx(indexed=True) as tx:
            queues = await store.promote(tx, now, _BATCH)
            for queue in set(queues):
                tx.notify(READY, queue)
        total += len(queues)
        if len(queues) < _BATCH:
            return total


async def rescue(db: Database, now: datetime) -> int:
    """Declares silent workers dead and gives their jobs back. Returns how many jobs."""
    while True:
        try:
            async with db.system_tx(indexed=True) as tx:
                dead = await store.bury_workers(tx)
                jobs = await store.rescue(tx, now)
                if jobs is None:
                    raise _Again
                for queue in {queue for queue, _ in jobs}:
                    tx.notify(READY, queue)
            break
        except _Again:
            continue
    for worker in dead:
        metrics.buried.inc()
        _log.warning("worker declared dead", worker=str(worker.id), name=worker.name, silent=round(worker.silent, 2))
    for (queue, kind), count in Counter(jobs).items():
        metrics.rescued.labels(queue, kind).inc(count)
        _log.warning("jobs rescued", queue=queue, kind=kind, count=count)
    return len(jobs)


class _Again(Exception):
    """A newer job with the same key came in between."""


async def prune(db: Database, now: datetime) -> None:
    """Keeps a partition for each of the next days, drops those past keeping, and blobs nobody refers to."""
    today = now.astimezone(UTC).date()
    async with db.system_tx() as tx:
        await store.keep_partitions(tx, today, _DAYS_AHEAD, today - timedelta(days=KEEP_DAYS))
        await queue_store.prune_starts(tx)
    while True:
        async with db.system_tx() as tx:
            if await store.prune_blobs(tx, now - timedelta(days=KEEP_DAYS), _BATCH) < _BATCH:
                return


async def declare(db: Database, handlers: Mapping[str, Handler]) -> None:
    """Before a worker's first claim: the limits that its handlers were registered with hold for every worker."""
    limits = {name: handler.limits for name, handler in handlers.items()}
    none = [name for name, row in limits.items() if row is None]
    async with db.system_tx() as tx:
        await queue_store.declare_limits(tx, [row for row in limits.values() if row], none)


async def measure(db: Database) -> None:
    """Sets the depth gauge. What was there and is no more is set to zero: shared metrics cannot be removed."""
    async with db.system_tx() as tx:
        rows = await store.depths(tx)
    found = {(queue, state): count for queue, state, count in rows}
    _measured.update(found)
    for place in _measured:
        metrics.depth.labels(*place).set(found.get(place, 0))


async def repeat(name: str, what: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Calls `what` now and every `seconds`, for ever. A failure is logged and does not end it: the database may be
    away for a while."""
    while True:
        try:
            await what()
        except Exception as error:
            _log.error("upkeep failed; it is tried again", what=name, seconds=seconds, exc_info=error)
        await asyncio.sleep(seconds)


async def promote_when_due(db: Database, clock: Clock, poll: float) -> None:
    """Promotes at the very time that the next job is due, and looks at least every `poll` seconds."""
    with db.notifier.subscribe(DUE) as changed:
        while True:
            wait = poll
            try:
                await promote(db, clock.now())
                async with db.system_tx(indexed=True) as tx:
                    at = await store.next_due(tx)
                if at is not None:
                    wait = min(poll, max(0.001, (at - clock.now()).total_seconds()))
            except Exception as error:
                _log.error("due jobs could not be promoted; trying again", exc_info=error)
            await changed.wait(wait)
