"""Rows in, models out: one function per query, no decisions. Vectors are in vectors_store.py."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from ..kernel import sql
from ..kernel.db import Tx
from .filters import Filter
from .legs import Leg
from .models import ChunkRow, Definition, Delta, Document, OldChunk, Standing, Totals

_queries = sql.load(__package__)


def _row(**columns: Any) -> dict[str, Any]:
    return columns


async def collection(tx: Tx, tenant: UUID, name: str) -> Standing | None:
    return await _queries.collection.maybe(tx, Standing.of, tenant=tenant, name=name)


async def send_collection(tx: Tx, tenant: UUID, name: str) -> Callable[[], Awaitable[Standing | None]]:
    """Within a pipeline; what is returned reads the answer after it."""
    read = await _queries.collection.send(tx, Standing.of, tenant=tenant, name=name)

    async def answer() -> Standing | None:
        return next(iter(await read()), None)

    return answer


async def collections(tx: Tx, tenant: UUID, after: str | None, limit: int) -> list[Standing]:
    return await _queries.collections.all(tx, Standing.of, tenant=tenant, after=after, limit=limit)


async def share_writes(tx: Tx, tenant: UUID, name: str) -> None:
    """Call it before the collection is read that is about to be written: its spaces do not change until `tx` ends."""
    await _queries.share_writes.run(tx, tenant=tenant, collection=name)


async def take_space(tx: Tx, name: str, definition: Definition, now: datetime) -> int | None:
    """The space of a definition; None when it has no embedder."""
    if definition.embedder is None:
        return None
    space: int = await _queries.take_space.value(
        tx, collection=name, model=definition.embedder, chunker=definition.chunker.revision, now=now
    )
    return space


async def declare(
    tx: Tx,
    tenant: UUID,
    name: str,
    definition: Definition,
    *,
    space: int | None,
    by_code: bool,
    pivot: float,
    now: datetime,
) -> bool:
    """Whether the collection is new."""
    values = _defined(definition) | {"tenant": tenant, "name": name, "space": space, "by_code": by_code}
    return await _queries.declare.run(tx, **values, pivot=pivot, now=now) == 1


async def is_attached(tx: Tx, tenant: UUID, name: str) -> bool:
    """Whether the name is kept for rows of an attached table."""
    return bool(await _queries.is_attached.value(tx, tenant=tenant, name=name))


async def redefine(
    tx: Tx, tenant: UUID, name: str, definition: Definition, *, space: int | None, by_code: bool
) -> bool:
    """Whether the collection had no documents, so that it has the definition now."""
    values = _defined(definition) | {"tenant": tenant, "name": name, "space": space, "by_code": by_code}
    return await _queries.redefine.run(tx, **values) == 1


def _defined(definition: Definition) -> dict[str, Any]:
    return {
        "fields": list(definition.fields),
        "format": definition.format.value,
        "chunk_size": definition.chunk_size,
        "overlap": definition.overlap,
    }


async def put(
    tx: Tx,
    tenant: UUID,
    collection: str,
    *,
    ids: Sequence[str],
    bodies: Sequence[bytes],
    body_hashes: Sequence[bytes],
    text_hashes: Sequence[bytes],
    now: datetime,
) -> dict[str, tuple[int, bool]]:
    """Of the documents that are new or changed: the revision, and whether the searched text changed."""
    values: dict[str, Any] = {
        "tenant": tenant,
        "collection": collection,
        "ids": list(ids),
        "bodies": [body.decode() for body in bodies],
        "body_hashes": list(body_hashes),
        "text_hashes": list(text_hashes),
        "now": now,
    }
    new = {id: (1, True) for (id,) in await _queries.add.rows(tx, **values)}
    if len(new) == len(ids):
        return new
    stand = [place for place, id in enumerate(ids) if id not in new]
    for name in ("ids", "bodies", "body_hashes", "text_hashes"):
        given = values[name]
        values[name] = [given[place] for place in stand]
    rows = await _queries.change.rows(tx, **values)
    return new | {id: (rev, text_changed) for id, rev, text_changed in rows}


async def revisions(tx: Tx, tenant: UUID, collection: str, ids: Sequence[str]) -> dict[str, int]:
    return dict(await _queries.revisions.rows(tx, tenant=tenant, collection=collection, ids=list(ids)))


async def get(tx: Tx, tenant: UUID, collection: str, id: str) -> Document | None:
    return await _queries.get.maybe(tx, Document, tenant=tenant, collection=collection, id=id)


async def documents(tx: Tx, tenant: UUID, collection: str, after: str | None, limit: int) -> list[Document]:
    return await _queries.documents.all(tx, Document, tenant=tenant, collection=collection, after=after, limit=limit)


async def lock_document(tx: Tx, tenant: UUID, collection: str, id: str) -> int | None:
    rev: int | None = await _queries.lock_document.value(tx, tenant=tenant, collection=collection, id=id)
    return rev


async def lock_documents(tx: Tx, tenant: UUID, collection: str, ids: Sequence[str]) -> dict[str, int]:
    """Those that stand, with their revisions."""
    return dict(await _queries.lock_documents.rows(tx, tenant=tenant, collection=collection, ids=list(ids)))


async def delete_many(tx: Tx, tenant: UUID, collection: str, ids: Sequence[str]) -> None:
    await _queries.delete_many.run(tx, tenant=tenant, collection=collection, ids=list(ids))


async def delete(tx: Tx, tenant: UUID, collection: str, id: str) -> None:
    await _queries.delete.run(tx, tenant=tenant, collection=collection, id=id)


async def old_chunks(tx: Tx, tenant: UUID, collection: str, ids: Sequence[str]) -> list[OldChunk]:
    return await _queries.old_chunks.all(tx, OldChunk, tenant=tenant, collection=collection, ids=list(ids))


async def delete_chunks(tx: Tx, tenant: UUID, ids: Sequence[UUID]) -> None:
    await _queries.delete_chunks.run(tx, tenant=tenant, ids=list(ids))


async def move_chunks(tx: Tx, tenant: UUID, moves: Sequence[tuple[UUID, int]]) -> None:
    await _queries.move_chunks.run(tx, tenant=tenant, ids=[id for id, _ in moves], ords=[place for _, place in moves])


async def add_chunks(tx: Tx, tenant: UUID, collection: str, pivot: float, chunks: Sequence[ChunkRow]) -> None:
    await _queries.add_chunks.run(
        tx,
        tenant=tenant,
        collection=collection,
        pivot=pivot,
        ids=[chunk.id for chunk in chunks],
        content_ids=[chunk.content_id for chunk in chunks],
        ords=[chunk.ord for chunk in chunks],
        headings=[orjson.dumps(chunk.heading).decode() for chunk in chunks],
        texts=[chunk.text for chunk in chunks],
        text_hashes=[chunk.text_hash for chunk in chunks],
        lengths=[chunk.length for chunk in chunks],
        tokens=[chunk.tokens for chunk in chunks],
        bms=[chunk.bm for chunk in chunks],
    )


async def add_delta(
    tx: Tx,
    tenant: UUID,
    collection: str,
    id: UUID,
    *,
    chunks: int,
    length: int,
    terms: Mapping[int, int],
    added: Sequence[UUID],
) -> None:
    """`added`: the chunks that the write added."""
    await _queries.add_delta.run(
        tx,
        tenant=tenant,
        collection=collection,
        id=id,
        chunks=chunks,
        length=length,
        terms=list(terms),
        counts=list(terms.values()),
        added=list(added),
    )


async def totals(tx: Tx, tenant: UUID, collection: str, terms: Iterable[int] = ()) -> Totals:
    """Totals of a collection that stands, and the frequencies of `terms`, deltas included."""
    wanted = list(terms)
    found: dict[str, Any] = await _queries.totals.one(tx, dict, tenant=tenant, collection=collection)
    frequencies = (
        await _queries.frequencies.rows(tx, tenant=tenant, collection=collection, terms=wanted) if wanted else []
    )
    return Totals(int(found["chunks"]), int(found["length"]), {term: int(chunks) for term, chunks in frequencies})


async def lock_folding(tx: Tx, tenant: UUID, collection: str) -> None:
    await _queries.lock_folding.run(tx, tenant=tenant, collection=collection)


async def take_deltas(tx: Tx, tenant: UUID, collection: str, limit: int) -> list[Delta]:
    return await _queries.take_deltas.all(tx, Delta, tenant=tenant, collection=collection, limit=limit)


async def fold(tx: Tx, tenant: UUID, collection: str, *, chunks: int, length: int, terms: Mapping[int, int]) -> None:
    """Adds changes to what is folded."""
    if terms:
        await _queries.fold_terms.run(
            tx, tenant=tenant, collection=collection, terms=list(terms), counts=list(terms.values())
        )
    if fewer := [term for term, count in terms.items() if count < 0]:
        await _queries.drop_terms.run(tx, tenant=tenant, collection=collection, terms=fewer)
    await _queries.fold_totals.run(tx, tenant=tenant, collection=collection, chunks=chunks, length=length)


async def set_pivot(tx: Tx, tenant: UUID, collection: str, pivot: float) -> None:
    await _queries.set_pivot.run(tx, tenant=tenant, collection=collection, pivot=pivot)


async def outweighed(
    tx: Tx, tenant: UUID, collection: str, pivot: float, limit: int
) -> list[tuple[UUID, list[str], str]]:
    """Chunks weighed with another pivot: id, heading, text."""
    rows = await _queries.outweighed.rows(tx, tenant=tenant, collection=collection, pivot=pivot, limit=limit)
    return [(id, heading, text) for id, heading, text in rows]


async def weigh(tx: Tx, tenant: UUID, pivot: float, weights: Mapping[UUID, str]) -> None:
    await _queries.weigh.run(tx, tenant=tenant, pivot=pivot, ids=list(weights), bms=list(weights.values()))


def text_leg(tenant: UUID, collection: str, query: str, limit: int, where: Filter | None) -> Leg:
    values = {"tenant": tenant, "collection": collection, "query": query, "limit": limit}
    if where is None:
        return Leg(_queries.search_text, values)
    return Leg(where.on(_queries.search_text_where), values | where.parameters())


async def send_hits(tx: Tx, tenant: UUID, ids: Sequence[UUID]) -> Callable[[], Awaitable[dict[UUID, dict[str, Any]]]]:
    """Within a pipeline; what is returned reads the answer after it: by chunk, its id, text, heading, body."""
    read = await _queries.hits.send(tx, _row, tenant=tenant, ids=list(ids))

    async def answer() -> dict[UUID, dict[str, Any]]:
        return {row["chunk"]: row for row in await read()}

    return answer


async def coverage(tx: Tx, tenant: UUID, collection: str, space: int | None, now: datetime) -> dict[str, Any]:
    """Documents, chunks, pending, parked, lag."""
    return await _queries.coverage.one(tx, dict, tenant=tenant, collection=collection, space=space, now=now)
