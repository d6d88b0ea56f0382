"""Batches of jobs: one function per query, no decisions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from ...kernel import sql
from ...kernel.db import Tx
from .models import JobFilter

_queries = sql.load(__package__)


class Batch(NamedTuple):
    """What one transaction of many did. `last`: the id it went up to; None: there was nothing."""

    seen: int
    changed: int
    last: UUID | None
    queues: list[str]


async def revive_many(
    tx: Tx,
    tenant: UUID,
    states: Sequence[str],
    which: JobFilter,
    until: datetime,
    after: UUID,
    limit: int,
    now: datetime,
) -> Batch:
    chosen = _chosen(tenant, which, after, limit) | {"until": until}
    return Batch(*(await _queries.revive_many.rows(tx, states=list(states), now=now, **chosen))[0])


async def hasten_many(
    tx: Tx, tenant: UUID, which: JobFilter, until: datetime, after: UUID, limit: int, now: datetime
) -> Batch:
    chosen = _chosen(tenant, which, after, limit) | {"until": until}
    return Batch(*(await _queries.hasten_many.rows(tx, now=now, **chosen))[0])


async def cancel_many(
    tx: Tx, tenant: UUID, states: Sequence[str], which: JobFilter, after: UUID, limit: int, now: datetime
) -> Batch:
    chosen = _chosen(tenant, which, after, limit)
    return Batch(*(await _queries.cancel_many.rows(tx, states=list(states), now=now, **chosen))[0])


async def ask_many(tx: Tx, tenant: UUID, which: JobFilter, after: UUID, limit: int) -> Batch:
    return Batch(*(await _queries.ask_many.rows(tx, **_chosen(tenant, which, after, limit)))[0])


def _chosen(tenant: UUID, which: JobFilter, after: UUID, limit: int) -> dict[str, Any]:
    fields = {"name": which.name, "queue": which.queue, "error": which.error}
    return {**fields, "since": which.since, "until": which.until, "tenant_id": tenant, "after": after, "limit": limit}
