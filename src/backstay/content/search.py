"""Search: text by BM25, vectors exactly or by HNSW, both joined by reciprocal rank fusion."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ..kernel import telemetry
from ..kernel.db import Database, Tx
from ..kernel.errors import BackstayError, Invalid
from ..kernel.principal import Principal
from . import bm25, pipeline_store, store, vectors_store
from .delivery import Embedder
from .filters import Filter
from .models import (
    FEATURE_SEARCH,
    CollectionNotFound,
    EmbedderSilent,
    Found,
    Hit,
    Mode,
    NoEmbedder,
    SearchAnswer,
    Space,
    Standing,
)
from .ranking import fuse

CANDIDATES = 50  # of each leg
EXACT_ROWS = 5_000  # so few vectors are looked at one by one, which loses nothing
_EF_SEARCH = 100
_SCAN, _MOST_SCAN = 20_000, 200_000  # vectors that the index may visit for one search
_MAX_QUERY = 20_000
_log = telemetry.log("content")
_searches = telemetry.counter("backstay_content_searches_total", "Searches answered.", ["mode"])


class Searcher:
    """Reads; decides which legs run and how. `patience` is how many seconds the query's vector may take."""

    def __init__(self, db: Database, gateway: Embedder, *, exact_rows: int = EXACT_ROWS, patience: float = 5.0) -> None:
        self._db, self._gateway = db, gateway
        self.exact_rows, self.patience = exact_rows, patience

    async def search(
        self,
        by: Principal,
        collection: str,
        query: str,
        *,
        mode: Mode,
        k: int,
        where: Mapping[str, Any] | None,
        per_document: int | None,
    ) -> SearchAnswer:
        """See Collection.search."""
        # Halves of surrogate pairs have no place in UTF-8, nor has NUL in Postgres' text.
        query = query.encode("utf-8", "replace").decode().replace("\0", " ").strip()
        if not query or len(query) > _MAX_QUERY:
            raise Invalid(f"a query has 1 to {_MAX_QUERY} characters")
        if not 1 <= k <= 200:
            raise Invalid("k is a number from 1 to 200")
        rest = (mode, k, Filter.of(where), per_document)
        async with self._db.tenant_tx(by.tenant) as tx:
            standing = await store.collection(tx, by.tenant, collection)
            if standing is None:
                raise CollectionNotFound(f"this tenant has no collection {collection!r}")
            if not _wants_vector(standing, mode):
                return await self._answer(tx, by.tenant, standing, query, None, *rest)
        vector = await self._vector(by, standing, query, mode)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await self._answer(tx, by.tenant, standing, query, vector, *rest)

    async def _vector(self, by: Principal, standing: Standing, query: str, mode: Mode) -> str | None:
        """The query's vector, when it can be had. No transaction is open meanwhile.

        Raises:
            NoEmbedder: vectors are demanded of a collection that has none.
            BackstayError: only vectors are wanted and the embedder does not answer.
        """
        space = standing.space
        if space is None:
            raise NoEmbedder(f"{standing.name} has no embedder: search it with mode text")
        try:
            async with asyncio.timeout(self.patience):
                answer = await self._gateway.embed(by, space.model, [query], feature=FEATURE_SEARCH, internal=True)
        except (BackstayError, TimeoutError) as error:
            if mode is Mode.SEMANTIC and isinstance(error, BackstayError):
                raise
            if mode is Mode.SEMANTIC:
                raise EmbedderSilent(f"{space.model} gave no vector within {self.patience:g} s") from None
            _log.warning("the embedder does not answer; searching text only", model=space.model, error=str(error))
            return None
        if len(answer.vectors[0]) != space.dimensions:
            raise Invalid(
                f"{space.model} answers with {len(answer.vectors[0])} dimensions, but {space.dimensions} stand"
            )
        return vectors_store.literal(answer.vectors[0])

    async def _answer(
        self,
        tx: Tx,
        tenant: UUID,
        standing: Standing,
        query: str,
        vector: str | None,
        mode: Mode,
        k: int,
        where: Filter | None,
        per_document: int | None,
    ) -> SearchAnswer:
        space = standing.space
        limit = max(CANDIDATES, k if per_document is None else 4 * k)
        legs: dict[str, list[Found]] = {}
        if mode is not Mode.SEMANTIC:
            legs["text"] = await self._text(tx, tenant, standing.name, query, limit, where)
        stale = space is not None and await pipeline_store.has_pending(tx, tenant, space.id)
        if space is not None and vector is not None:
            legs["vector"], _ = await self.nearest(tx, tenant, space, vector, limit, where)
        order = _order(legs)
        if per_document is not None:
            order = _capped(order, legs, per_document)
        order = order[:k]
        hits = await _hits(tx, tenant, order, legs)
        flags = {
            "text_only": space is not None and vector is None and mode is not Mode.TEXT,
            "stale": stale and vector is not None,
            "short": len(hits) < k,
            "dev_hash": vector is not None and space is not None and space.is_dev,
        }
        said = _mode(mode, vector, space)
        _searches.labels(said).inc()
        return SearchAnswer(hits, said, tuple(name for name, is_set in flags.items() if is_set))

    async def _text(
        self, tx: Tx, tenant: UUID, collection: str, query: str, limit: int, where: Filter | None
    ) -> list[Found]:
        wanted = bm25.wanted(query)
        totals = await store.totals(tx, tenant, collection, wanted)
        weights = bm25.query_weights(wanted, totals.frequencies, totals.chunks)
        return await store.search_text(tx, tenant, collection, weights, limit, where)

    async def nearest(
        self, tx: Tx, tenant: UUID, space: Space, vector: str, limit: int, where: Filter | None
    ) -> tuple[list[Found], bool]:
        """The nearest chunks, and whether the index found them: then some may be missing, else every vector was looked
        at. Leaves settings in `tx` that suit searches only."""
        if space.indexed_at is None:
            return await vectors_store.search_exact(tx, space.id, tenant, vector, limit, where), False
        rows = await vectors_store.count(tx, space.id, tenant, self.exact_rows + 1, where)
        if rows <= self.exact_rows:
            return await vectors_store.search_exact(tx, space.id, tenant, vector, limit, where), False
        # The rarer the tenant's (or the filter's) rows, the more of the others the index has to pass over.
        needed = 4 * limit * await vectors_store.estimate(tx, space.id) // rows
        await vectors_store.tune(tx, max(_EF_SEARCH, limit), min(max(needed, _SCAN), _MOST_SCAN))
        found = await vectors_store.search_indexed(tx, space.id, tenant, vector, limit, where)
        if len(found) < limit:
            # The scan gave up before it had enough; there are enough, as the count says.
            return await vectors_store.search_exact(tx, space.id, tenant, vector, limit, where), False
        return found, True


def _wants_vector(standing: Standing, mode: Mode) -> bool:
    """Whether the query's vector is of use: not for text, not before anything has one, and vectors of the hashing
    embedder for tests only when they are asked for."""
    space = standing.space
    if mode is Mode.TEXT:
        return False
    if space is None:
        return mode is not Mode.AUTO  # an error that says so
    return space.dimensions is not None and not (mode is Mode.AUTO and space.is_dev)


def _order(legs: Mapping[str, list[Found]]) -> list[tuple[UUID, float]]:
    if len(legs) == 1:
        return [(found.chunk_id, found.score) for leg in legs.values() for found in leg]
    return fuse({name: [found.chunk_id for found in leg] for name, leg in legs.items()})


def _capped(
    order: list[tuple[UUID, float]], legs: Mapping[str, list[Found]], per_document: int
) -> list[tuple[UUID, float]]:
    """Leaves each document its best `per_document` chunks."""
    document = {found.chunk_id: found.content_id for leg in legs.values() for found in leg}
    shown: Counter[str] = Counter()
    kept = []
    for chunk, score in order:
        shown[document[chunk]] += 1
        if shown[document[chunk]] <= per_document:
            kept.append((chunk, score))
    return kept


async def _hits(tx: Tx, tenant: UUID, order: list[tuple[UUID, float]], legs: Mapping[str, list[Found]]) -> list[Hit]:
    scores: dict[UUID, dict[str, float]] = {}
    for name, leg in legs.items():
        for found in leg:
            scores.setdefault(found.chunk_id, {})[name] = found.score
    rows = await store.hits(tx, tenant, [chunk for chunk, _ in order]) if order else {}
    return [
        Hit(
            id=rows[chunk]["id"],
            chunk=chunk,
            text=rows[chunk]["text"],
            heading=tuple(rows[chunk]["heading"]),
            score=score,
            scores=scores[chunk],
            body=rows[chunk]["body"],
        )
        for chunk, score in order
        if chunk in rows  # deleted between two statements of this search
    ]


def _mode(asked: Mode, vector: str | None, space: Space | None) -> str:
    """What the answer says was searched. Vectors of the hashing embedder are never called semantic."""
    if asked is Mode.SEMANTIC:
        return "dev-hash" if space is not None and space.is_dev else "semantic"
    return "text" if vector is None else "hybrid"
