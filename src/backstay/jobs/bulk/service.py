"""Retries and cancels many jobs of a tenant by what they have in common, a batch in each transaction.

Two calls at once pass each other by: what one has locked, the other leaves, so each job is changed and counted once.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.principal import Principal
from .. import topics
from . import store
from .models import BulkCancel, BulkResult, BulkRetry

_BATCH = 500
_FIRST = UUID(int=0)
Step = Callable[[Tx, UUID, int], Awaitable[store.Batch]]


async def retry_many(db: Database, clock: Clock, by: Principal, which: BulkRetry) -> BulkResult:
    """Runs finished jobs again, with a fresh count of attempts, and waiting ones now."""
    began = clock.now() + timedelta(microseconds=1)
    until = min(which.until or began, began)  # what another call has revived and dies meanwhile is not revived again
    finished = sorted({*which.states} - {"retryable"})

    async def revive(tx: Tx, after: UUID, limit: int) -> store.Batch:
        return await store.revive_many(tx, by.tenant, finished, which, until, after, limit, clock.now())

    async def hasten(tx: Tx, after: UUID, limit: int) -> store.Batch:
        return await store.hasten_many(tx, by.tenant, which, until, after, limit, clock.now())

    steps = ([revive] if finished else []) + ([hasten] if "retryable" in which.states else [])
    result = BulkResult()
    for step in steps:
        if not result.complete:
            break
        changed, skipped, result.complete = await _walk(db, by, step, which.limit - result.changed)
        result.changed += changed
        result.skipped += skipped
    return result


async def cancel_many(db: Database, clock: Clock, by: Principal, which: BulkCancel) -> BulkResult:
    """Finishes waiting jobs as cancelled, and asks the workers of running ones to stop them."""
    waiting = sorted({*which.states} - {"running"})

    async def cancel(tx: Tx, after: UUID, limit: int) -> store.Batch:
        return await store.cancel_many(tx, by.tenant, waiting, which, after, limit, clock.now())

    async def ask(tx: Tx, after: UUID, limit: int) -> store.Batch:
        return await store.ask_many(tx, by.tenant, which, after, limit)

    result = BulkResult()
    if waiting:
        result.changed, _, result.complete = await _walk(db, by, cancel, which.limit)
    if "running" in which.states and result.complete:
        left = which.limit - result.changed
        result.asked, _, result.complete = await _walk(db, by, ask, left, topic=topics.CANCEL)
    return result


async def _walk(
    db: Database, by: Principal, step: Step, limit: int, *, topic: str = topics.READY
) -> tuple[int, int, bool]:
    """From id to id until nothing is left or `limit` are changed: how many were, how many were skipped, and whether
    nothing is left."""
    changed = skipped = 0
    after: UUID | None = _FIRST
    while after is not None and changed < limit:
        async with db.tenant_tx(by.tenant) as tx:
            batch = await step(tx, after, min(_BATCH, limit - changed))
            for queue in batch.queues:
                tx.notify(topic, queue)
        changed += batch.changed
        skipped += batch.seen - batch.changed
        after = batch.last
    return changed, skipped, after is None
