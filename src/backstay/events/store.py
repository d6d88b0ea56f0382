"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from ..kernel import json, sql
from ..kernel.db import Tx
from .models import Event

_queries = sql.load(__package__)


async def emit(tx: Tx, event: Event) -> None:
    await _queries.emit.run(
        tx, tenant_id=event.tenant_id, id=event.id, at=event.at, type=event.type, payload=event.payload
    )


async def emit_many(
    tx: Tx, tenant: UUID, at: datetime, type: str, ids: Sequence[UUID], payloads: Sequence[Mapping[str, Any]]
) -> None:
    written = [json.dumps(payload).decode() for payload in payloads]
    await _queries.emit_many.run(tx, tenant_id=tenant, at=at, type=type, ids=list(ids), payloads=written)


async def page(tx: Tx, tenant: UUID, after: UUID | None, limit: int, type: str | None) -> list[Event]:
    return await _queries.page.all(tx, Event, tenant_id=tenant, after=after, limit=limit, type=type)
