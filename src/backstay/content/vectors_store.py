"""Rows in, models out: spaces, vectors and what waits for them.

Each space has its own table, `vec_<space>`; queries are written against `vec_template`, which has the same columns.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx
from ..kernel.sql import Query
from .models import Found, Space, Waiting

_queries = sql.load(__package__)


@cache
def _of(space: int, name: str) -> Query:
    """The query `name` on the vectors of a space."""
    query: Query = getattr(_queries, name)
    return Query(query.room, query.name, query.text.replace("vec_template", f"vec_{int(space)}"))


def literal(vector: Sequence[float]) -> str:
    """A vector as Postgres reads it."""
    return f"[{','.join(map('{:.6g}'.format, vector))}]"


async def space(tx: Tx, id: int) -> Space | None:
    return await _queries.space.maybe(tx, Space, id=id)


async def create_space_table(tx: Tx, space: int, dimensions: int) -> int:
    """The dimensions that the space has in the end: another process may have been first."""
    standing: int = await _queries.create_space_table.value(tx, space=space, dimensions=dimensions)
    return standing


async def count(tx: Tx, space: int, tenant: UUID, limit: int, where: Mapping[str, Any] | None = None) -> int:
    """How many vectors of the tenant stand, counted up to `limit`."""
    if where is None:
        found = await _of(space, "count_vectors").value(tx, tenant=tenant, limit=limit)
    else:
        found = await _of(space, "count_vectors_where").value(tx, tenant=tenant, limit=limit, where=dict(where))
    return int(found)


async def count_all(tx: Tx, space: int, limit: int) -> int:
    """How many vectors of all tenants stand, counted up to `limit`. Needs a system transaction."""
    return int(await _of(space, "count_all_vectors").value(tx, limit=limit))


async def estimate(tx: Tx, space: int) -> int:
    """About how many vectors of all tenants stand in the space."""
    return int(await _of(space, "estimate_vectors").value(tx))


async def search_exact(
    tx: Tx, space: int, tenant: UUID, vector: str, limit: int, where: Mapping[str, Any] | None
) -> list[Found]:
    if where is None:
        return await _of(space, "search_exact").all(tx, Found, tenant=tenant, query=vector, limit=limit)
    return await _of(space, "search_exact_where").all(
        tx, Found, tenant=tenant, query=vector, limit=limit, where=dict(where)
    )


async def tune(tx: Tx, ef: int, tuples: int) -> None:
    await _queries.tune_vectors.run(tx, ef=str(ef), tuples=str(tuples))


async def search_indexed(
    tx: Tx, space: int, tenant: UUID, vector: str, limit: int, where: Mapping[str, Any] | None
) -> list[Found]:
    """Call `tune` before, in the same transaction."""
    if where is None:
        return await _of(space, "search_indexed").all(tx, Found, tenant=tenant, query=vector, limit=limit)
    return await _of(space, "search_indexed_where").all(
        tx, Found, tenant=tenant, query=vector, limit=limit, where=dict(where)
    )


async def has_pending(tx: Tx, tenant: UUID, space: int) -> bool:
    return bool(await _queries.has_pending.value(tx, tenant=tenant, space=space))


async def add_pending(tx: Tx, tenant: UUID, space: int, rows: Sequence[tuple[UUID, bytes, int]], now: datetime) -> None:
    """Rows of chunk id, text hash, estimated tokens."""
    await _queries.add_pending.run(
        tx,
        tenant=tenant,
        space=space,
        ids=[id for id, _, _ in rows],
        text_hashes=[text_hash for _, text_hash, _ in rows],
        tokens=[tokens for _, _, tokens in rows],
        now=now,
    )


async def disown(tx: Tx, tenant: UUID, job: UUID, now: datetime) -> list[UUID]:
    """Ends the requests that an earlier attempt of this job left behind, and answers which they were."""
    return [id for (id,) in await _queries.disown.rows(tx, tenant=tenant, job=job, now=now)]


async def carried(tx: Tx, tenant: UUID, space: int, calls: Sequence[UUID]) -> list[UUID]:
    """The chunks of these requests, locked."""
    return [id for (id,) in await _queries.carried.rows(tx, tenant=tenant, space=space, calls=list(calls))]


async def parked(tx: Tx, tenant: UUID, space: int) -> list[UUID]:
    """The chunks that the embedder has refused, locked."""
    return [id for (id,) in await _queries.parked.rows(tx, tenant=tenant, space=space)]


async def free(tx: Tx, tenant: UUID, space: int, chunks: Sequence[UUID]) -> None:
    await _queries.free.run(tx, tenant=tenant, space=space, chunks=list(chunks))


async def waiting(tx: Tx, tenant: UUID, space: int, now: datetime, limit: int) -> list[tuple[UUID, bytes, int]]:
    """Chunks that no request carries, locked: id, text hash, estimated tokens."""
    rows = await _queries.waiting.rows(tx, tenant=tenant, space=space, now=now, limit=limit)
    return [(id, text_hash, tokens) for id, text_hash, tokens in rows]


async def carry(tx: Tx, tenant: UUID, space: int, call: UUID, chunks: Sequence[UUID], expires_at: datetime) -> None:
    await _queries.carry.run(tx, tenant=tenant, space=space, call=call, chunks=list(chunks), expires_at=expires_at)


async def texts(tx: Tx, tenant: UUID, ids: Sequence[UUID]) -> dict[UUID, tuple[list[str], str]]:
    """By chunk: heading and text."""
    rows = await _queries.texts.rows(tx, tenant=tenant, ids=list(ids))
    return {id: (heading, text) for id, heading, text in rows}


async def ask(tx: Tx, tenant: UUID, space: int, job: UUID, call: UUID, batch: Sequence[Waiting], now: datetime) -> None:
    await _queries.ask.run(
        tx,
        tenant=tenant,
        id=call,
        space=space,
        job=job,
        inputs=len(batch),
        tokens=sum(chunk.tokens for chunk in batch),
        now=now,
    )


async def answered(
    tx: Tx,
    tenant: UUID,
    call: UUID,
    state: str,
    now: datetime,
    *,
    tokens: int | None = None,
    cost: Decimal | None = None,
    error: str | None = None,
) -> bool:
    """Whether the request was still ours to end."""
    touched = await _queries.answered.run(
        tx, tenant=tenant, id=call, state=state, tokens=tokens, cost=cost, error=error, now=now
    )
    return touched == 1


async def keep_chunks(tx: Tx, tenant: UUID, batch: Sequence[Waiting]) -> set[UUID]:
    rows = await _queries.keep_chunks.rows(
        tx,
        tenant=tenant,
        ids=[chunk.chunk_id for chunk in batch],
        text_hashes=[chunk.text_hash for chunk in batch],
    )
    return {id for (id,) in rows}


async def write_vectors(tx: Tx, tenant: UUID, space: int, chunks: Sequence[Waiting], vectors: Sequence[str]) -> None:
    await _of(space, "write_vectors").run(
        tx,
        tenant=tenant,
        ids=[chunk.chunk_id for chunk in chunks],
        text_hashes=[chunk.text_hash for chunk in chunks],
        vectors=list(vectors),
    )


async def delete_vectors(tx: Tx, tenant: UUID, space: int, chunks: Sequence[UUID]) -> None:
    await _of(space, "delete_vectors").run(tx, tenant=tenant, ids=list(chunks))


async def settle(tx: Tx, tenant: UUID, space: int, chunks: Sequence[UUID]) -> list[str]:
    """The documents of chunks that wait no longer."""
    rows = await _queries.settle.rows(tx, tenant=tenant, space=space, chunks=list(chunks))
    return [document for (document,) in rows]


async def park(tx: Tx, tenant: UUID, space: int, chunk: UUID, error: str) -> None:
    await _queries.park.run(tx, tenant=tenant, space=space, chunk=chunk, error=error)


async def neglected(tx: Tx, before: datetime, now: datetime) -> list[tuple[UUID, int, str]]:
    """Tenant, space and collection name of what nobody works on. Needs a system transaction."""
    rows = await _queries.neglected.rows(tx, before=before, now=now)
    return [(tenant, space, collection) for tenant, space, collection in rows]


async def indexed(tx: Tx, space: int, now: datetime) -> None:
    await _queries.indexed.run(tx, space=space, now=now)
