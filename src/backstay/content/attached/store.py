"""Rows in, models out: one function per query, no decisions. The user's own table is in table_store.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from ...kernel import sql
from ...kernel.db import Tx
from ..models import Standing
from .models import AttachedState, Attachment, Fill, FillState, Key, Place, Shadow, TableDefinition

_queries = sql.load(__package__)


async def found(tx: Tx, name: str) -> Attachment | None:
    return await _queries.found.maybe(tx, Attachment.of, name=name)


async def found_by_id(tx: Tx, id: int) -> Attachment | None:
    return await _queries.found_by_id.maybe(tx, Attachment.of, id=id)


async def names(tx: Tx, after: str | None, limit: int) -> list[str]:
    return [name for (name,) in await _queries.names.rows(tx, after=after, limit=limit)]


async def lock_name(tx: Tx, name: str) -> None:
    await _queries.lock_name.run(tx, name=name)


async def put(
    tx: Tx,
    name: str,
    definition: TableDefinition,
    *,
    expression: str,
    watched: Sequence[str],
    by: UUID,
    now: datetime,
) -> int:
    id: int = await _queries.put.value(
        tx,
        name=name,
        table=definition.table,
        key=list(definition.key),
        tenant_column=definition.tenant,
        owner=definition.owner,
        text=definition.text,
        expression=expression,
        columns=list(definition.columns),
        watched=list(watched),
        embedder=definition.embedder,
        format=definition.format.value,
        chunk_size=definition.chunk_size,
        overlap=definition.overlap,
        by=by,
        now=now,
    )
    return id


async def taken(tx: Tx, name: str, owner: UUID | None) -> UUID | None:
    tenant: UUID | None = await _queries.taken.value(tx, name=name, owner=owner)
    return tenant


async def put_state(tx: Tx, id: int, state: AttachedState, trouble: str | None = None) -> bool:
    """Whether that is news."""
    return await _queries.put_state.run(tx, id=id, state=state.value, trouble=trouble) == 1


async def break_off(tx: Tx, id: int, trouble: str) -> bool:
    """Whether it was followed until now."""
    return await _queries.break_off.run(tx, id=id, trouble=trouble) == 1


async def standing(tx: Tx) -> list[int]:
    return [id for (id,) in await _queries.standing.rows(tx)]


async def fill_all(tx: Tx, id: int, owner: UUID | None, now: datetime) -> None:
    await _queries.fill_all.run(tx, id=id, owner=owner, now=now)


async def purge_all(tx: Tx, id: int, now: datetime) -> None:
    await _queries.purge_all.run(tx, id=id, now=now)


async def drop_fills(tx: Tx, id: int) -> None:
    await _queries.drop_fills.run(tx, id=id)


async def drop_changes(tx: Tx, id: int) -> None:
    await _queries.drop_changes.run(tx, id=id)


async def drop_purged(tx: Tx) -> None:
    await _queries.drop_purged.run(tx)


async def take_marks(tx: Tx) -> list[tuple[int, UUID | None]]:
    return [(id, owner) for id, owner in await _queries.take_marks.rows(tx)]


async def due(tx: Tx, limit: int) -> list[tuple[UUID, int]]:
    return [(tenant, id) for tenant, id in await _queries.due.rows(tx, limit=limit)]


async def backlog(tx: Tx, now: datetime) -> tuple[int, float]:
    ((waiting, lag),) = await _queries.backlog.rows(tx, now=now)
    return waiting, lag


async def counts(tx: Tx, id: int, now: datetime) -> dict[str, Any]:
    return await _queries.counts.one(tx, dict, id=id, now=now)


@dataclass(frozen=True, slots=True)
class Condition:
    """What of an attached table is still as it was; `place` is None when it is gone."""

    place: Place | None
    kind: str | None
    triggers: int
    missing: tuple[str, ...]
    tenant_type: str | None
    readable: bool
    rows: int

    @property
    def key_types(self) -> tuple[str, ...]:
        return self.place.key_types if self.place else ()


async def condition(tx: Tx, id: int) -> Condition:
    row: dict[str, Any] = await _queries.condition.one(tx, dict, id=id)
    gone = row["table"] is None
    place = None if gone else Place(row["schema"], row["table"], tuple(row["key_types"]))
    rest = (row["tenant_type"], row["readable"], 0 if gone else row["rows"])
    return Condition(place, row["kind"], row["triggers"], tuple(row["missing"]), *rest)


async def begin_following(tx: Tx, tenant: UUID, id: int, now: datetime) -> None:
    await _queries.begin_following.run(tx, tenant=tenant, id=id, now=now)


async def hold_fill(tx: Tx, tenant: UUID, id: int) -> Fill | None:
    rows = await _queries.hold_fill.rows(tx, tenant=tenant, id=id)
    return Fill(FillState(rows[0][0]), rows[0][1]) if rows else None


async def advance(tx: Tx, tenant: UUID, id: int, fill: Fill, seen: int, now: datetime) -> None:
    after = None if fill.after is None else orjson.dumps(fill.after).decode()
    await _queries.advance.run(tx, tenant=tenant, id=id, state=fill.state.value, after=after, seen=seen, now=now)


async def refuse(tx: Tx, tenant: UUID, id: int, rows: int, trouble: str) -> None:
    await _queries.refuse.run(tx, tenant=tenant, id=id, rows=rows, trouble=trouble)


async def end_purge(tx: Tx, tenant: UUID, id: int) -> None:
    await _queries.end_purge.run(tx, tenant=tenant, id=id)


async def bind(tx: Tx, tenant: UUID, standing: Standing, id: int | None) -> None:
    await _queries.bind.run(tx, tenant=tenant, collection=standing.name, id=id)


async def take_changes(tx: Tx, tenant: UUID, id: int, limit: int) -> list[Key]:
    return [key for (key,) in await _queries.take_changes.rows(tx, tenant=tenant, id=id, limit=limit)]


async def shadows(tx: Tx, tenant: UUID, collection: str, after: str | None, limit: int) -> list[Shadow]:
    return await _queries.shadows.all(tx, Shadow, tenant=tenant, collection=collection, after=after, limit=limit)
