"""Decides what a search's statement is made of."""

from uuid import UUID

from ...kernel.db import Database, Tx
from ...kernel.halfvec import Halfvec
from ...kernel.principal import Principal
from .. import vectors_store
from ..models import Mode, Space, Standing
from ..ranking import CONSTANT
from ..search import Question, Searcher, indexed_leg, said_mode
from . import store
from .models import Statement


class Statements:
    """Writes searches as SQL; runs none of it."""

    def __init__(self, db: Database, searcher: Searcher) -> None:
        self._db, self._searcher = db, searcher

    async def compose(self, by: Principal, collection: str, question: Question) -> Statement:
        """See Collection.search_sql."""
        standing, vector = await self._searcher.prepared(by, collection, question)
        async with self._db.tenant_tx(by.tenant, pipelined=True) as tx:
            legs = await self._legs(tx, by.tenant, standing, question, vector)
            flags = await self._searcher.flags(tx, by.tenant, standing, question.mode, vector)
        return store.statement(
            legs,
            fused=len(legs) > 1,
            constant=CONSTANT,
            per_document=question.per_document,
            tenant=by.tenant,
            k=question.k,
            mode=said_mode(question.mode, vector, standing.space),
            flags=tuple(await flags()),
        )

    async def _legs(
        self, tx: Tx, tenant: UUID, standing: Standing, question: Question, vector: Halfvec | None
    ) -> dict[str, store.Part]:
        legs = {}
        if question.mode is not Mode.SEMANTIC:
            legs["text"] = store.part(await self._searcher.text_leg(tx, tenant, standing.name, question))
        if standing.space is not None and vector is not None:
            legs["vector"] = self._nearest(tenant, standing.space, question, vector)
        return legs

    def _nearest(self, tenant: UUID, space: Space, question: Question, vector: Halfvec) -> store.Part:
        limit, where, most = question.limit, question.where, self._searcher.exact_rows
        exact = vectors_store.exact_leg(space.id, tenant, vector, limit, where)
        if space.index is None:
            return store.part(exact)
        indexed = indexed_leg(space, tenant, vector, limit, where)
        count = vectors_store.counting(space.id, tenant, most + 1, where)
        return store.deciding(indexed, exact, count, exact_rows=most, limit=limit)
