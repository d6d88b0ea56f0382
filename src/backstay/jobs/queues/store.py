"""Rows of queues' settings and limits: one function per query, no decisions."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from ...kernel import sql
from ...kernel.db import Tx
from ..limits import Rate
from .models import Share

_queries = sql.load(__package__)


async def pause(tx: Tx, name: str, paused: bool) -> None:
    await _queries.pause_queue.run(tx, name=name, paused=paused)


async def limit(tx: Tx, name: str, max_running: int | None, rate: Rate | None) -> None:
    starts, seconds = (rate.starts, rate.seconds) if rate else (None, None)
    await _queries.limit_queue.run(tx, name=name, max_running=max_running, starts=starts, seconds=seconds)


async def row(tx: Tx, name: str) -> dict[str, Any] | None:
    return await _queries.queue_row.maybe(tx, dict, name=name)


async def lock(tx: Tx, name: str) -> None:
    await _queries.lock_queue.run(tx, name=name)


async def set_share(tx: Tx, queue: str, tenant: UUID, weight: float, max_running: int | None) -> None:
    await _queries.set_share.run(tx, queue=queue, tenant_id=tenant, weight=weight, max_running=max_running)


async def drop_share(tx: Tx, queue: str, tenant: UUID) -> None:
    await _queries.drop_share.run(tx, queue=queue, tenant_id=tenant)


async def shares(tx: Tx, queue: str) -> list[Share]:
    return await _queries.shares.all(tx, Share, queue=queue)


async def declare_limits(tx: Tx, limits: Sequence[Mapping[str, Any]], others: Sequence[str]) -> None:
    """What handlers were registered with; `others` are those that have no limit."""
    await _queries.drop_limits.run(tx, names=list(others))
    if limits:
        await _queries.declare_limits.run(tx, rows=orjson.dumps(list(limits)).decode())


async def prune_starts(tx: Tx) -> int:
    return await _queries.prune_starts.run(tx)
