"""Search: text by BM25, vectors exactly or by HNSW, both joined by reciprocal rank fusion."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict
from uuid import UUID

from ..kernel import telemetry
from ..kernel.db import Database, Tx
from ..kernel.errors import BackstayError, Invalid
from ..kernel.halfvec import Halfvec
from ..kernel.principal import Principal
from . import pipeline_store, store, vectors_store
from .delivery import Embedder
from .filters import Filter
from .indexes.advice import LARGE_SCAN, LEAST_ROWS, probes_for
from .legs import Leg
from .models import (
    FEATURE_SEARCH,
    CollectionNotFound,
    EmbedderSilent,
    Flag,
    Found,
    Hit,
    IndexKind,
    Mode,
    NoEmbedder,
    SearchAnswer,
    Space,
    Standing,
)
from .postings import leg as postings
from .ranking import fuse
from .rerank import Rerank, reranked
from .vectors_store import Vector
from .within import Given, Within

CANDIDATES = 50  # of each leg
_EF_SEARCH, _MOST_EF = 100, 1_000
_OVERSAMPLE, _LEAST_BITS = 12, 400  # candidates by one bit each, for each that is wanted, and at least
RERANK_PATIENCE = 5.0  # seconds
_SCAN, MOST_SCAN = 20_000, 200_000  # vectors that the index may visit for one search
_REMEMBERED, _MOST_REMEMBERED = 60.0, 10_000  # seconds, tenants
_MAX_QUERY = 20_000
_log = telemetry.log("content")
_scans = telemetry.counter(
    "backstay_content_unindexed_searches_total", "Searches that looked at every vector of a large space."
)
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
        if self.per_document is not None:
            return max(CANDIDATES, 4 * self.k)
        # A leg that stands alone is not joined with another: its best are the answer.
        return self.k if self.mode in (Mode.TEXT, Mode.SEMANTIC) else max(CANDIDATES, self.k)


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest chunks. `by_index`: an index found them and may have missed some; else every vector was looked at.
    `scanned`: so many were that an index is missed."""

    found: list[Found]
    by_index: bool = False
    scanned: bool = False


class Searcher:
    """Reads; decides which legs run and how. `patience` is how many seconds the query's vector may take,
    `rerank_patience` those of a reranker."""

    def __init__(self, db: Database, gateway: Embedder, *, exact_rows: int = LEAST_ROWS, patience: float = 5.0) -> None:
        self._db, self._gateway = db, gateway
        self.exact_rows, self.patience = exact_rows, patience
        self.rerank_patience = RERANK_PATIENCE
        self._many: dict[tuple[int, UUID, int], tuple[float, float]] = {}
        self.large_scan = LARGE_SCAN

    async def search(
        self, by: Principal, collection: str, question: Question, rerank: Rerank | None = None
    ) -> SearchAnswer:
        """See Collection.search."""
        standing, vector = await self.prepared(by, collection, question)
        if rerank is None:
            return await self.answer(by.tenant, standing, question, vector)
        wide = replace(question, k=max(question.k, CANDIDATES))
        answer = await self.answer(by.tenant, standing, wide, vector)
        return await reranked(answer, question.query, question.k, rerank, self.rerank_patience)

    async def prepared(self, by: Principal, name: str, question: Question) -> tuple[Standing, Halfvec | None]:
        """The collection and the query's vector, where it is of use and can be had.

        Raises:
            CollectionNotFound: the tenant has none of that name.
            NoEmbedder, BackstayError: see `_vector`.
        """
        async with self._db.tenant_tx(by.tenant, pipelined=True) as tx:
            read = await store.send_collection(tx, by.tenant, name)
        standing = await read()
        if standing is None:
            raise CollectionNotFound(f"this tenant has no collection {name!r}")
        if not _wants_vector(standing, question.mode):
            return standing, None
        return standing, await self._vector(by, standing, question)

    async def _vector(self, by: Principal, standing: Standing, question: Question) -> Halfvec | None:
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
        vector = Halfvec.of(answer.vectors[0])
        if vector is None:
            raise Invalid(f"{space.model} answers with a vector that has no direction")
        return vector

    async def answer(
        self, tenant: UUID, standing: Standing, question: Question, vector: Halfvec | None
    ) -> SearchAnswer:
        """What is found, with the query's vector at hand."""
        space = standing.space
        legs: dict[str, list[Found]] = {}
        # What needs no other's answer goes together, and the commit with the last statement.
        near = Nearest([])
        async with self._db.tenant_tx(tenant, pipelined=True) as tx:
            if question.mode is not Mode.SEMANTIC:
                legs["text"] = await postings.search(
                    tx, tenant, standing.name, question.query, question.limit, question.where
                )
            told = await self.flags(tx, tenant, standing, question.mode, vector)
            if space is not None and vector is not None:
                near = await self.nearest(tx, tenant, space, vector, question.limit, question.where)
                legs["vector"] = near.found
            order = _order(legs)
            if question.per_document is not None:
                order = _capped(order, legs, question.per_document)
            order = order[: question.k]
            rows = await store.send_hits(tx, tenant, [chunk for chunk, _ in order])
        hits, flags = _hits(await rows(), order, legs), await told()
        if near.scanned:
            flags.append(Flag.UNINDEXED)
        if len(hits) < question.k:
            flags.append(Flag.SHORT)
        said = said_mode(question.mode, vector, space)
        _searches.labels(said).inc()
        return SearchAnswer(hits, said, tuple(flags))

    async def flags(
        self, tx: Tx, tenant: UUID, standing: Standing, mode: Mode, vector: Halfvec | None
    ) -> Callable[[], Awaitable[list[Flag]]]:
        """What is known before a leg has run: asked within a pipeline, and read from what is returned after it."""
        space = standing.space
        waits = None
        if space is not None and vector is not None:
            waits = await pipeline_store.send_has_pending(tx, tenant, space.id)

        async def told() -> list[Flag]:
            if space is None or (waits is None and mode is Mode.TEXT):
                return []
            if waits is None:
                return [Flag.TEXT_ONLY]
            flags = [Flag.STALE] if await waits() else []
            return [*flags, Flag.DEV_HASH] if space.is_dev else flags

        return told

    async def text_leg(self, tx: Tx, tenant: UUID, collection: str, question: Question) -> Leg:
        """The statement that finds by words, weighed by the statistics that `tx` sees."""
        return await postings.statement(tx, tenant, collection, question.query, question.limit, question.where)

    async def nearest(
        self, tx: Tx, tenant: UUID, space: Space, vector: Vector, limit: int, where: Filter | None
    ) -> Nearest:
        """The nearest chunks. Leaves settings in `tx` that suit searches only."""
        exact = vectors_store.exact_leg(space.id, tenant, vector, limit, where)
        if space.index is None:
            return Nearest(await exact.found(tx), scanned=await self._scanned(tx, tenant, space))
        if where is not None:
            few = await vectors_store.search_few(tx, space.id, tenant, vector, limit, where, self.exact_rows)
            if few is not None:
                return Nearest(few)
            others: float | None = await vectors_store.estimate(tx, space.id) / self.exact_rows
        else:
            others = await self._others(tx, tenant, space)
        if others is None:
            return Nearest(await exact.found(tx))
        # The rarer the tenant's (or the filter's) rows, the more of the others the index has to pass over.
        needed = int(4 * _candidates(space, limit) * others)
        leg = indexed_leg(space, tenant, vector, limit, where, tuples=max(needed, _SCAN))
        await vectors_store.tune(tx, leg)
        found = await leg.found(tx)
        if len(found) < limit:
            # The scan gave up before it had enough; there are enough, as the count says.
            return Nearest(await exact.found(tx))
        return Nearest(found, by_index=True)

    async def _scanned(self, tx: Tx, tenant: UUID, space: Space) -> bool:
        """Whether so many vectors were looked at one by one that an index is missed. Says so in log and metric."""
        if await vectors_store.estimate(tx, space.id) < self.large_scan // 2:
            return False
        if await vectors_store.count(tx, space.id, tenant, self.large_scan) < self.large_scan:
            return False
        _scans.inc()
        _log.warning("a search looked at every vector of a large space, which has no index", space=space.id)
        return True

    async def _others(self, tx: Tx, tenant: UUID, space: Space) -> float | None:
        """Vectors in the space for each that a search of the tenant ranges over; None when those are few. That they are
        many is remembered for a while, because counting takes half as long as searching: a tenant that has deleted most
        of them meanwhile is found by the index, or exactly when the index finds too few."""
        key, now = (space.id, tenant, self.exact_rows), time.monotonic()
        known, until = self._many.get(key, (0.0, 0.0))
        if now < until:
            return known
        rows = await vectors_store.count(tx, space.id, tenant, self.exact_rows + 1)
        if rows <= self.exact_rows:
            return None
        others = await vectors_store.estimate(tx, space.id) / rows
        if len(self._many) >= _MOST_REMEMBERED:
            self._many.clear()
        self._many[key] = (others, now + _REMEMBERED)
        return others


def indexed_leg(
    space: Space, tenant: UUID, vector: Vector, limit: int, where: Filter | None, *, tuples: int = MOST_SCAN
) -> Leg:
    """The statement that finds by the index that stands, which may visit so many vectors."""
    candidates = _candidates(space, limit)
    ef, tuples = min(max(_EF_SEARCH, candidates), _MOST_EF), min(tuples, MOST_SCAN)
    if space.index == IndexKind.BINARY:
        return vectors_store.binary_leg(
            space, tenant, vector, limit, where, candidates=candidates, ef=ef, tuples=tuples
        )
    probes = probes_for(space.lists) if space.lists else vectors_store.PROBES
    return vectors_store.indexed_leg(space.id, tenant, vector, limit, where, ef=ef, tuples=tuples, probes=probes)


def _candidates(space: Space, limit: int) -> int:
    """How many the index has to find: one bit of each number tells little, so the best are sought among many."""
    return min(max(_OVERSAMPLE * limit, _LEAST_BITS), _MOST_EF) if space.index == IndexKind.BINARY else limit


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


def _hits(
    rows: Mapping[UUID, Mapping[str, Any]], order: list[tuple[UUID, float]], legs: Mapping[str, list[Found]]
) -> list[Hit]:
    scores: dict[UUID, dict[str, float]] = {}
    for name, leg in legs.items():
        for found in leg:
            scores.setdefault(found.chunk_id, {})[name] = found.score
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


def said_mode(asked: Mode, vector: Halfvec | None, space: Space | None) -> str:
    """What the answer says was searched. Vectors of the hashing embedder are never called semantic."""
    if asked is Mode.SEMANTIC:
        return "dev-hash" if space is not None and space.is_dev else "semantic"
    return "text" if vector is None else "hybrid"
