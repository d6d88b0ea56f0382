"""Search: text by BM25, vectors exactly or by HNSW, both joined by reciprocal rank fusion."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict
from uuid import UUID

from ..kernel import telemetry
from ..kernel.db import Database, Tx
from ..kernel.errors import BackstayError, Invalid
from ..kernel.principal import Principal
from . import bm25, pipeline_store, store, vectors_store
from .delivery import Embedder
from .filters import Filter
from .legs import Leg
from .models import (
    FEATURE_SEARCH,
    CollectionNotFound,
    EmbedderSilent,
    Flag,
    Found,
    Hit,
    Mode,
    NoEmbedder,
    SearchAnswer,
    Space,
    Standing,
)
from .ranking import fuse
from .within import Given, Within

CANDIDATES = 50  # of each leg
EXACT_ROWS = 5_000  # so few vectors are looked at one by one, which loses nothing
_EF_SEARCH = 100
_SCAN, MOST_SCAN = 20_000, 200_000  # vectors that the index may visit for one search
_MAX_QUERY = 20_000
_log = telemetry.log("content")
_searches = telemetry.counter("backstay_content_searches_total", "Searches answered.", ["mode"])


class How(TypedDict, total=False):
    """How to search, as Collection.search takes it."""

    mode: Mode | str
    k: int
    where: Mapping[str, Any] | None
    within: Given | None
    per_document: int | None


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a collection, checked. `limit`: how many candidates each leg gives."""

    query: str
    mode: Mode
    k: int
    where: Filter | None
    per_document: int | None

    @classmethod
    def of(
        cls,
        query: str,
        *,
        mode: Mode | str = Mode.AUTO,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        within: Given | None = None,
        per_document: int | None = None,
    ) -> "Question":
        """See Collection.search.

        Raises:
            Invalid: what cannot be, by name.
        """
        # Halves of surrogate pairs have no place in UTF-8, nor has NUL in Postgres' text.
        query = query.encode("utf-8", "replace").decode().replace("\0", " ").strip()
        if not query or len(query) > _MAX_QUERY:
            raise Invalid(f"a query has 1 to {_MAX_QUERY} characters")
        if not 1 <= k <= 200:
            raise Invalid("k is a number from 1 to 200")
        if per_document is not None and per_document < 1:
            raise Invalid("per_document is a number from 1 on")
        if mode not in list(Mode):
            raise Invalid(f"mode is one of {', '.join(Mode)}, not {mode!r}")
        return cls(query, Mode(mode), k, Filter.of(where, Within.of(within)), per_document)

    @property
    def limit(self) -> int:
        return max(CANDIDATES, self.k if self.per_document is None else 4 * self.k)


class Searcher:
    """Reads; decides which legs run and how. `patience` is how many seconds the query's vector may take."""

    def __init__(self, db: Database, gateway: Embedder, *, exact_rows: int = EXACT_ROWS, patience: float = 5.0) -> None:
        self._db, self._gateway = db, gateway
        self.exact_rows, self.patience = exact_rows, patience

    async def search(self, by: Principal, collection: str, question: Question) -> SearchAnswer:
        """See Collection.search."""
        standing, vector = await self.prepared(by, collection, question)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await self._answer(tx, by.tenant, standing, question, vector)

    async def prepared(self, by: Principal, name: str, question: Question) -> tuple[Standing, str | None]:
        """The collection and the query's vector, where it is of use and can be had.

        Raises:
            CollectionNotFound: the tenant has none of that name.
            NoEmbedder, BackstayError: see `_vector`.
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            standing = await store.collection(tx, by.tenant, name)
        if standing is None:
            raise CollectionNotFound(f"this tenant has no collection {name!r}")
        if not _wants_vector(standing, question.mode):
            return standing, None
        return standing, await self._vector(by, standing, question)

    async def _vector(self, by: Principal, standing: Standing, question: Question) -> str | None:
        """The query's vector, when it can be had. No transaction is open meanwhile.

        Raises:
            NoEmbedder: vectors are demanded of a collection that has none.
            BackstayError: only vectors are wanted and the embedder does not answer.
        """
        space, semantic = standing.space, question.mode is Mode.SEMANTIC
        if space is None:
            raise NoEmbedder(f"{standing.name} has no embedder: search it with mode text")
        try:
            async with asyncio.timeout(self.patience):
                answer = await self._gateway.embed(
                    by, space.model, [question.query], feature=FEATURE_SEARCH, internal=True
                )
        except (BackstayError, TimeoutError) as error:
            if semantic and isinstance(error, BackstayError):
                raise
            if semantic:
                raise EmbedderSilent(f"{space.model} gave no vector within {self.patience:g} s") from None
            _log.warning("the embedder does not answer; searching text only", model=space.model, error=str(error))
            return None
        if len(answer.vectors[0]) != space.dimensions:
            raise Invalid(
                f"{space.model} answers with {len(answer.vectors[0])} dimensions, but {space.dimensions} stand"
            )
        return vectors_store.literal(answer.vectors[0])

    async def _answer(
        self, tx: Tx, tenant: UUID, standing: Standing, question: Question, vector: str | None
    ) -> SearchAnswer:
        space, limit = standing.space, question.limit
        legs: dict[str, list[Found]] = {}
        if question.mode is not Mode.SEMANTIC:
            legs["text"] = await (await self.text_leg(tx, tenant, standing.name, question)).found(tx)
        flags = await self.flags(tx, tenant, standing, question.mode, vector)
        if space is not None and vector is not None:
            legs["vector"], _ = await self.nearest(tx, tenant, space, vector, limit, question.where)
        order = _order(legs)
        if question.per_document is not None:
            order = _capped(order, legs, question.per_document)
        hits = await _hits(tx, tenant, order[: question.k], legs)
        if len(hits) < question.k:
            flags.append(Flag.SHORT)
        said = said_mode(question.mode, vector, space)
        _searches.labels(said).inc()
        return SearchAnswer(hits, said, tuple(flags))

    async def flags(self, tx: Tx, tenant: UUID, standing: Standing, mode: Mode, vector: str | None) -> list[Flag]:
        """What is known before a leg has run."""
        space = standing.space
        if space is None:
            return []
        if vector is None:
            return [] if mode is Mode.TEXT else [Flag.TEXT_ONLY]
        flags = [Flag.STALE] if await pipeline_store.has_pending(tx, tenant, space.id) else []
        return [*flags, Flag.DEV_HASH] if space.is_dev else flags

    async def text_leg(self, tx: Tx, tenant: UUID, collection: str, question: Question) -> Leg:
        """The statement that finds by words, weighed by the statistics that `tx` sees."""
        wanted = bm25.wanted(question.query)
        totals = await store.totals(tx, tenant, collection, wanted)
        weights = bm25.query_weights(wanted, totals.frequencies, totals.chunks)
        return store.text_leg(tenant, collection, weights, question.limit, question.where)

    async def nearest(
        self, tx: Tx, tenant: UUID, space: Space, vector: str, limit: int, where: Filter | None
    ) -> tuple[list[Found], bool]:
        """The nearest chunks, and whether the index found them: then some may be missing, else every vector was looked
        at. Leaves settings in `tx` that suit searches only."""
        exact = vectors_store.exact_leg(space.id, tenant, vector, limit, where)
        if space.indexed_at is None:
            return await exact.found(tx), False
        rows = await vectors_store.count(tx, space.id, tenant, self.exact_rows + 1, where)
        if rows <= self.exact_rows:
            return await exact.found(tx), False
        # The rarer the tenant's (or the filter's) rows, the more of the others the index has to pass over.
        needed = 4 * limit * await vectors_store.estimate(tx, space.id) // rows
        leg = indexed_leg(space, tenant, vector, limit, where, tuples=max(needed, _SCAN))
        await vectors_store.tune(tx, leg)
        found = await leg.found(tx)
        if len(found) < limit:
            # The scan gave up before it had enough; there are enough, as the count says.
            return await exact.found(tx), False
        return found, True


def indexed_leg(
    space: Space, tenant: UUID, vector: str, limit: int, where: Filter | None, *, tuples: int = MOST_SCAN
) -> Leg:
    """The statement that finds by the index, which may visit so many vectors."""
    ef = max(_EF_SEARCH, limit)
    return vectors_store.indexed_leg(space.id, tenant, vector, limit, where, ef=ef, tuples=min(tuples, MOST_SCAN))


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


def said_mode(asked: Mode, vector: str | None, space: Space | None) -> str:
    """What the answer says was searched. Vectors of the hashing embedder are never called semantic."""
    if asked is Mode.SEMANTIC:
        return "dev-hash" if space is not None and space.is_dev else "semantic"
    return "text" if vector is None else "hybrid"
