"""Rows in, models out: spaces, vectors and what waits for them.

Each space has its own table, `vec_<space>`; queries are written against `vec_template`, which has the same columns.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx
from ..kernel.halfvec import Halfvec, Halfvecs
from ..kernel.sql import Query
from .filters import Filter
from .legs import Leg
from .models import Found, Space, Waiting

_queries = sql.load(__package__)
Vector = Halfvec | str  # packed, or as Postgres writes it
PROBES = 30
# Plans are made anew: a kept one would keep the settings it was made under. Without the iterative scan a filter (and a
# tenant is one) loses most hits.
_TUNED = {
    "hnsw.iterative_scan": "relaxed_order",
    "ivfflat.iterative_scan": "relaxed_order",
    "plan_cache_mode": "force_custom_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
}


@cache
def on_space(query: Query, space: int | None) -> Query:
    """A query that is written against the template, on the vectors of a space; None: on the template itself."""
    if space is None:
        return query
    return Query(query.room, query.name, query.text.replace("vec_template", f"vec_{int(space)}"))


@cache
def on_bits(query: Query, dimensions: int) -> Query:
    """A query over one bit for each number, for vectors of so many."""
    return Query(query.room, query.name, query.text.replace("bit(1)", f"bit({int(dimensions)})"))


def _of(space: int, name: str) -> Query:
    query: Query = getattr(_queries, name)
    return on_space(query, space)


async def space(tx: Tx, id: int) -> Space | None:
    return await _queries.space.maybe(tx, Space, id=id)


async def create_space_table(tx: Tx, space: int, dimensions: int) -> int:
    """The dimensions that the space has in the end: another process may have been first."""
    standing: int = await _queries.create_space_table.value(tx, space=space, dimensions=dimensions)
    return standing


async def count(tx: Tx, space: int, tenant: UUID, limit: int, where: Filter | None = None) -> int:
    """How many vectors of the tenant stand, counted up to `limit`."""
    query, values = counting(space, tenant, limit, where)
    return int(await query.value(tx, **values))


def counting(space: int, tenant: UUID, limit: int, where: Filter | None) -> tuple[Query, dict[str, Any]]:
    """The query that counts, with its values."""
    values: dict[str, Any] = {"tenant": tenant, "limit": limit}
    if where is None:
        return _of(space, "count_vectors"), values
    return where.on(_of(space, "count_vectors_where")), values | where.parameters()


async def count_all(tx: Tx, space: int, limit: int) -> int:
    """How many vectors of all tenants stand, counted up to `limit`. Needs a system transaction."""
    return int(await _of(space, "count_all_vectors").value(tx, limit=limit))


async def estimate(tx: Tx, space: int) -> int:
    """About how many vectors of all tenants stand in the space."""
    return int(await _of(space, "estimate_vectors").value(tx))


def exact_leg(space: int, tenant: UUID, vector: Vector, limit: int, where: Filter | None) -> Leg:
    values = {"tenant": tenant, "query": vector, "limit": limit}
    if where is None:
        return Leg(_of(space, "search_exact"), values)
    return Leg(where.on(_of(space, "search_exact_where")), values | where.parameters())


async def search_few(
    tx: Tx, space: int, tenant: UUID, vector: Vector, limit: int, where: Filter, most: int
) -> list[Found] | None:
    """The nearest that a filter lets through; None when that is more than `most` vectors."""
    values = {"tenant": tenant, "query": vector, "limit": limit, "most": most + 1}
    rows = await where.on(_of(space, "search_few_where")).rows(tx, **values, **where.parameters())
    if rows and rows[0][3] > most:
        return None
    return [Found(chunk, document, score) for chunk, document, score, _ in rows]


def indexed_leg(
    space: int,
    tenant: UUID,
    vector: Vector,
    limit: int,
    where: Filter | None,
    *,
    ef: int,
    tuples: int,
    probes: int = PROBES,
) -> Leg:
    """By HNSW or IVFFlat, whichever stands. `ef`: how many neighbours HNSW keeps in view; `tuples`: how many vectors it
    may visit; `probes`: into how many lists IVFFlat looks first."""
    values = {"tenant": tenant, "query": vector, "limit": limit}
    settings = _tuned(ef, tuples, probes)
    if where is None:
        return Leg(_of(space, "search_indexed"), values, settings)
    return Leg(where.on(_of(space, "search_indexed_where"), hashed=True), values | where.parameters(), settings)


def binary_leg(
    space: Space,
    tenant: UUID,
    vector: Vector,
    limit: int,
    where: Filter | None,
    *,
    candidates: int,
    ef: int,
    tuples: int,
) -> Leg:
    """By one bit for each number, and then the best of so many `candidates` by the vectors themselves."""
    values = {"tenant": tenant, "query": vector, "limit": limit, "candidates": candidates}
    name = "search_binary" if where is None else "search_binary_where"
    query, settings = on_bits(_of(space.id, name), space.dimensions or 1), _tuned(ef, tuples, PROBES)
    if where is None:
        return Leg(query, values, settings)
    return Leg(where.on(query, hashed=True), values | where.parameters(), settings)


def _tuned(ef: int, tuples: int, probes: int) -> dict[str, str]:
    own = {"hnsw.ef_search": ef, "hnsw.max_scan_tuples": tuples, "ivfflat.probes": probes}
    return _TUNED | {name: str(value) for name, value in own.items()}


async def tune(tx: Tx, leg: Leg) -> None:
    """Makes a leg's settings for the rest of `tx`. They suit searches only."""
    await _queries.tune.run(tx, names=list(leg.settings), values=list(leg.settings.values()))


async def halfvec_oid(tx: Tx) -> int:
    return int(await _queries.halfvec_oid.value(tx))


async def write_vectors(tx: Tx, tenant: UUID, space: int, chunks: Sequence[Waiting], vectors: Halfvecs) -> None:
    await _of(space, "write_vectors").run(
        tx,
        tenant=tenant,
        ids=[chunk.chunk_id for chunk in chunks],
        text_hashes=[chunk.text_hash for chunk in chunks],
        vectors=vectors,
    )


async def delete_vectors(tx: Tx, tenant: UUID, space: int, chunks: Sequence[UUID]) -> None:
    await _of(space, "delete_vectors").run(tx, tenant=tenant, ids=list(chunks))
