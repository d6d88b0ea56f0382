"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg

from ...kernel import sql
from ...kernel.db import Tx

_queries = sql.load(__package__)

DatabaseError = psycopg.Error


@dataclass(frozen=True, slots=True)
class Near:
    """The nearest answer, sealed."""

    key: bytes
    answer: bytes
    similarity: float


async def nearest(
    tx: Tx, tenant: UUID, rest: bytes, vector: Sequence[float], threshold: float, since: datetime, now: datetime
) -> Near | None:
    return await _queries.nearest.maybe(
        tx, Near, tenant_id=tenant, rest=rest, e=_literal(vector), threshold=threshold, since=since, now=now
    )


async def keep(
    tx: Tx,
    tenant: UUID,
    rest: bytes,
    key: bytes,
    vector: Sequence[float],
    answer: bytes,
    now: datetime,
    expires_at: datetime,
) -> None:
    await _queries.keep.run(
        tx,
        tenant_id=tenant,
        rest=rest,
        key=key,
        e=_literal(vector),
        answer=answer,
        now=now,
        expires_at=expires_at,
    )


async def trim(tx: Tx, tenant: UUID, rest: bytes, most: int) -> int:
    return await _queries.trim.run(tx, tenant_id=tenant, rest=rest, most=most)


async def sweep(tx: Tx, now: datetime, limit: int) -> int:
    return await _queries.sweep.run(tx, now=now, limit=limit)


def _literal(vector: Sequence[float]) -> str:
    return f"[{','.join(map('{:.6g}'.format, vector))}]"
