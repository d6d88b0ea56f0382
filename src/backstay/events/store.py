"""Rows in, models out: one function per query, no decisions."""

from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx
from .models import Event

_queries = sql.load(__package__)


async def emit(tx: Tx, event: Event) -> None:
    await _queries.emit.run(
        tx, tenant_id=event.tenant_id, id=event.id, at=event.at, type=event.type, payload=event.payload
    )


async def page(tx: Tx, tenant: UUID, after: UUID | None, limit: int, type: str | None) -> list[Event]:
    return await _queries.page.all(tx, Event, tenant_id=tenant, after=after, limit=limit, type=type)
