"""Runs a search and tells how it went. Decides what to advise."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from time import perf_counter
from uuid import UUID

from ...kernel.db import Database
from ...kernel.principal import Principal
from .. import bm25, vectors_store
from .. import store as content_store
from ..filters import Filter
from ..models import Flag, Found, Mode, Space, Standing
from ..search import Question, Searcher
from ..tokens import number, query_terms
from ..vectors_store import Vector
from . import store
from .models import Advice, Explanation, LegReport, Selection, Term

_RARE = 0.1  # a filter that lets fewer through is worth an index of its own


class Explainer:
    """`documents`: in a smaller collection no filter needs an index."""

    def __init__(self, db: Database, searcher: Searcher, *, documents: int = 5_000) -> None:
        self._db, self._searcher = db, searcher
        self.documents = documents

    async def explain(self, by: Principal, collection: str, question: Question) -> Explanation:
        """See Collection.explain."""
        began = perf_counter()
        standing, vector = await self._searcher.prepared(by, collection, question)
        asked = perf_counter()
        answer = await self._searcher.answer(by.tenant, standing, question, vector)
        done = perf_counter()
        terms, chunks, length = await self._terms(by.tenant, standing, question)
        selection = await self._selection(by.tenant, standing, question.where)
        legs = [leg async for leg in self._legs(by.tenant, standing, question, vector)]
        return Explanation(
            collection=collection,
            query=question.query,
            asked=question.mode,
            mode=answer.mode,
            why=_why(standing, question.mode, vector),
            flags=list(answer.flags),
            hits=len(answer.hits),
            model=standing.space.model if standing.space else None,
            terms=terms,
            chunks=chunks,
            mean_length=length / chunks if chunks else 0.0,
            pivot=standing.pivot,
            legs=legs,
            filter=selection,
            vector_seconds=asked - began,
            seconds=done - began,
            advice=list(self._advice(standing, question, answer.flags, terms, selection, legs)),
        )

    async def _terms(self, tenant: UUID, standing: Standing, question: Question) -> tuple[list[Term], int, int]:
        """The query's terms, and the chunks and terms in the collection."""
        named = {number(term): term for term in query_terms(question.query)}
        async with self._db.tenant_tx(tenant) as tx:
            totals = await content_store.totals(tx, tenant, standing.name, named)
        found = totals.frequencies
        terms = [
            Term(
                term=term,
                chunks=found.get(place, 0),
                idf=bm25.idf(totals.chunks, found[place]) if found.get(place, 0) > 0 else 0.0,
            )
            for place, term in named.items()
        ]
        return sorted(terms, key=lambda term: -term.idf), totals.chunks, totals.length

    async def _selection(self, tenant: UUID, standing: Standing, where: Filter | None) -> Selection | None:
        if where is None:
            return None
        async with self._db.tenant_tx(tenant) as tx:
            documents = await store.documents(tx, tenant, standing.name)
            passing = await store.passing(tx, tenant, standing.name, where)
        return Selection(documents=documents, passing=passing, share=passing / documents if documents else 0.0)

    async def _legs(
        self, tenant: UUID, standing: Standing, question: Question, vector: Vector | None
    ) -> AsyncIterator[LegReport]:
        """Each leg once more, alone and in a transaction of its own, because its settings stay."""
        if question.mode is not Mode.SEMANTIC:
            async with self._db.tenant_tx(tenant) as tx:
                leg = await self._searcher.text_leg(tx, tenant, standing.name, question)
                began = perf_counter()
                found = await leg.found(tx)
                yield _report("text", "bm25", "words are weighed by the statistics", found, perf_counter() - began)
        space = standing.space
        if space is not None and vector is not None:
            async with self._db.tenant_tx(tenant) as tx:
                began = perf_counter()
                near = await self._searcher.nearest(tx, tenant, space, vector, question.limit, question.where)
                took = perf_counter() - began
            why = await self._way(tenant, space, question.where, near.by_index)
            yield _report("vector", "index" if near.by_index else "exact", why, near.found, took)

    async def _way(self, tenant: UUID, space: Space, where: Filter | None, by_index: bool) -> str:
        few = self._searcher.exact_rows
        async with self._db.tenant_tx(tenant) as tx:
            rows = await vectors_store.count(tx, space.id, tenant, few + 1, where)
        if by_index:
            return f"more than {few} vectors are searched"
        if rows <= few:
            return f"{rows} vectors are searched, and up to {few} are looked at one by one"
        if space.index is None:
            return f"more than {few} vectors are searched, and they have no index"
        return "the index gave fewer than are needed"

    def _advice(
        self,
        standing: Standing,
        question: Question,
        flags: tuple[Flag, ...],
        terms: list[Term],
        selection: Selection | None,
        legs: list[LegReport],
    ) -> Iterator[Advice]:
        if missing := [term.term for term in terms if not term.chunks]:
            yield Advice(text=f"No chunk has {', '.join(missing)}: a semantic search finds other words for it.")
        if Flag.STALE in flags:
            yield Advice(text="Some chunks wait for their vector: see the collection's coverage.")
        if any(leg.how == "exact" and "no index" in leg.why for leg in legs):
            yield Advice(text="Vectors get their index when there are enough of them; workers build it.")
        if selection is not None and selection.passing == 0:
            yield Advice(text="The filter lets no document through.")
        elif question.where is not None and selection is not None:
            yield from self._indexes(standing.name, question.where, selection)

    def _indexes(self, collection: str, where: Filter, selection: Selection) -> Iterator[Advice]:
        if where.within is not None:
            yield Advice(text="`within` runs with your tables' own indexes: index the columns it asks for.")
        if selection.documents < self.documents or selection.share > _RARE or not (where.contains or where.path):
            return
        ddl = store.partial_index("content_filter", collection, where)
        name = f"content_{hashlib.sha256(ddl.encode()).hexdigest()[:12]}"
        yield Advice(
            text=f"{selection.share:.1%} of {selection.documents} documents pass. If this very filter is asked often, "
            "an index of what passes spares looking at the others.",
            ddl=store.partial_index(name, collection, where),
        )


def _report(leg: str, how: str, why: str, found: list[Found], seconds: float) -> LegReport:
    scores = [one.score for one in found]
    return LegReport(
        leg=leg,
        how=how,
        why=why,
        candidates=len(found),
        best=max(scores, default=None),
        worst=min(scores, default=None),
        seconds=seconds,
    )


def _why(standing: Standing, asked: Mode, vector: Vector | None) -> str:
    space = standing.space
    if asked is Mode.TEXT:
        return "it was asked for"
    if space is None:
        return "the collection has no embedder"
    if vector is not None:
        return "the embedder answered" if asked is Mode.AUTO else "it was asked for"
    if space.dimensions is None:
        return "no chunk has a vector yet"
    if space.is_dev and asked is Mode.AUTO:
        return "vectors of the hashing embedder for tests are used on demand only"
    return f"{space.model} gave no vector for the query"
