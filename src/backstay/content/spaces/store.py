"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg.errors import LockNotAvailable

from ...kernel import sql
from ...kernel.db import Tx
from ..vectors_store import on_space
from .models import Judgement, SpaceStanding, SpaceState

_queries = sql.load(__package__)
_PATIENCE = "5s"


async def lock_writes(tx: Tx, tenant: UUID, collection: str) -> bool:
    """Keeps the collection's writers away until `tx` ends. False when one of them stays too long; `tx` has failed
    then."""
    await _queries.bound_the_wait.run(tx, timeout=_PATIENCE)
    try:
        await _queries.lock_writes.run(tx, tenant=tenant, collection=collection)
    except LockNotAvailable:
        return False
    await _queries.bound_the_wait.run(tx, timeout="0")
    return True


async def spaces(tx: Tx, tenant: UUID, collection: str) -> list[SpaceStanding]:
    rows: list[dict[str, Any]] = await _queries.spaces.all(tx, dict, tenant=tenant, collection=collection)
    return [SpaceStanding(**row | {"state": SpaceState(row["state"])}) for row in rows]


async def counts(tx: Tx, tenant: UUID, collection: str, space: int) -> Mapping[str, int]:
    """Chunks, pending, parked."""
    found: dict[str, int] = await _queries.counts.one(tx, dict, tenant=tenant, collection=collection, space=space)
    return found


async def sizes(tx: Tx, tenant: UUID, collection: str) -> tuple[int, int]:
    """Chunks and their estimated tokens."""
    ((chunks, tokens),) = await _queries.sizes.rows(tx, tenant=tenant, collection=collection)
    return int(chunks), int(tokens)


async def put_state(tx: Tx, tenant: UUID, collection: str, space: int, state: SpaceState, now: datetime) -> None:
    await _queries.put_state.run(tx, tenant=tenant, collection=collection, space=space, state=state.value, now=now)


async def search_in(tx: Tx, tenant: UUID, collection: str, space: int) -> None:
    await _queries.search_in.run(tx, tenant=tenant, collection=collection, space=space)


async def backfill(
    tx: Tx, tenant: UUID, collection: str, space: SpaceStanding, after: UUID | None, limit: int, now: datetime
) -> list[UUID]:
    """The chunks that were looked at, by id."""
    query = on_space(_queries.backfill, space.id if space.dimensions else None)
    rows = await query.rows(tx, tenant=tenant, collection=collection, space=space.id, after=after, limit=limit, now=now)
    return [id for (id,) in rows]


async def filled(tx: Tx, tenant: UUID, collection: str, space: int, now: datetime) -> None:
    await _queries.filled.run(tx, tenant=tenant, collection=collection, space=space, now=now)


async def missing(tx: Tx, tenant: UUID, collection: str, space: int) -> int:
    return int(await on_space(_queries.missing, space).value(tx, tenant=tenant, collection=collection))


async def unaccounted(tx: Tx, tenant: UUID, collection: str, space: int) -> int:
    query = on_space(_queries.unaccounted, space)
    return int(await query.value(tx, tenant=tenant, collection=collection, space=space))


async def behind(tx: Tx, tenant: UUID, space: int, old: int) -> int:
    """Chunks that wait for a vector of `space` and have one in `old`."""
    return int(await on_space(_queries.behind, old).value(tx, tenant=tenant, space=space))


async def sample(tx: Tx, tenant: UUID, space: int, limit: int) -> list[str]:
    return [vector for (vector,) in await on_space(_queries.sample, space).rows(tx, tenant=tenant, limit=limit)]


async def forget_waiting(tx: Tx, tenant: UUID, space: int) -> None:
    await _queries.forget_waiting.run(tx, tenant=tenant, space=space)


async def hold_state(tx: Tx, tenant: UUID, collection: str, space: int) -> SpaceState | None:
    state = await _queries.hold_state.value(tx, tenant=tenant, collection=collection, space=space)
    return SpaceState(state) if state else None


async def put_judgements(tx: Tx, tenant: UUID, collection: str, judgements: Sequence[Judgement]) -> None:
    await _queries.drop_judgements.run(tx, tenant=tenant, collection=collection)
    await _queries.add_judgements.run(
        tx,
        tenant=tenant,
        collection=collection,
        queries=[judgement.query for judgement in judgements],
        relevant=[orjson.dumps(dict(judgement.relevant)).decode() for judgement in judgements],
    )


async def judgements(tx: Tx, tenant: UUID, collection: str) -> list[Judgement]:
    return await _queries.judgements.all(tx, Judgement, tenant=tenant, collection=collection)


async def clear(tx: Tx, tenant: UUID, space: int, limit: int) -> int:
    """How many vectors went."""
    return await on_space(_queries.clear, space).run(tx, tenant=tenant, limit=limit)
