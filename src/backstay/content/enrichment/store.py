"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from ...kernel import sql
from ...kernel.db import Tx
from .models import Enriched, Enrichment, EnrichmentStanding, Failed

_queries = sql.load(__package__)


async def declare(tx: Tx, tenant: UUID, collection: str, field: str, enrichment: Enrichment, now: datetime) -> bool:
    """Whether that is new."""
    values = enrichment.model_dump() | {"revision": enrichment.revision}
    named = {"tenant": tenant, "collection": collection, "field": field, "now": now}
    return await _queries.declare.value(tx, **named, **values) is not None


async def remove(tx: Tx, tenant: UUID, collection: str, field: str) -> bool:
    return await _queries.remove.run(tx, tenant=tenant, collection=collection, field=field) == 1


async def enrichments(tx: Tx, tenant: UUID, collection: str) -> dict[str, Enrichment]:
    rows: list[dict[str, Any]] = await _queries.enrichments.all(tx, dict, tenant=tenant, collection=collection)
    return {row.pop("field"): Enrichment(**row) for row in rows}


async def standings(tx: Tx, tenant: UUID, collection: str) -> list[EnrichmentStanding]:
    return await _queries.standings.all(tx, EnrichmentStanding, tenant=tenant, collection=collection)


async def lock_documents(tx: Tx, tenant: UUID, collection: str, ids: Sequence[str]) -> None:
    await _queries.lock_documents.rows(tx, tenant=tenant, collection=collection, ids=list(ids))


async def enriched(tx: Tx, tenant: UUID, collection: str, ids: Sequence[str]) -> dict[tuple[str, str], Enriched]:
    """By document and field."""
    found = await _queries.enriched.all(tx, Enriched, tenant=tenant, collection=collection, ids=list(ids))
    return {(row.content_id, row.field): row for row in found}


async def want(tx: Tx, tenant: UUID, collection: str, wanted: Sequence[tuple[str, str, bytes]], now: datetime) -> None:
    """Each is a document, a field and the source of what is asked."""
    ids, fields, sources = map(list, zip(*wanted, strict=True))
    await _queries.want.run(tx, tenant=tenant, collection=collection, ids=ids, fields=fields, sources=sources, now=now)


async def take(
    tx: Tx, tenant: UUID, collection: str, id: str, *, job: UUID, now: datetime, lost: datetime
) -> dict[str, bytes]:
    """The fields that `job` is to have filled, with the source of what is asked."""
    named = {"tenant": tenant, "collection": collection, "id": id}
    return dict(await _queries.take.rows(tx, **named, job=job, now=now, lost=lost))


async def forget(tx: Tx, tenant: UUID, collection: str, given: Sequence[tuple[str, str]]) -> None:
    ids, fields = map(list, zip(*given, strict=True))
    await _queries.forget.run(tx, tenant=tenant, collection=collection, ids=ids, fields=fields)


async def answered(
    tx: Tx,
    tenant: UUID,
    collection: str,
    id: str,
    field: str,
    source: bytes,
    *,
    value: str | None,
    error: str | None,
    cost: Decimal,
) -> bool:
    """Whether it is to what was still asked; its cost counts in any case."""
    named = {"tenant": tenant, "collection": collection, "id": id, "field": field}
    kept = await _queries.answered.run(tx, **named, source=source, value=value, error=error, cost=cost) == 1
    if not kept:
        await _queries.paid.run(tx, **named, cost=cost)
    return kept


async def failed(tx: Tx, tenant: UUID, collection: str, field: str, after: str | None, limit: int) -> list[Failed]:
    return await _queries.failed.all(
        tx, Failed, tenant=tenant, collection=collection, field=field, after=after, limit=limit
    )


async def again(tx: Tx, tenant: UUID, collection: str, field: str, limit: int, now: datetime) -> list[str]:
    rows = await _queries.again.rows(tx, tenant=tenant, collection=collection, field=field, limit=limit, now=now)
    return [id for (id,) in rows]
