"""Keeps the statistics of BM25: folds what writers added, and weighs chunks anew when the mean length has moved."""

import asyncio
from collections import Counter
from uuid import UUID

from pydantic import BaseModel

from ..jobs import JobContext, Jobs
from ..kernel import telemetry
from ..kernel.db import Database, Tx
from ..kernel.errors import BackstayError
from . import store
from .bm25 import Bag
from .chunker import searched
from .models import Standing
from .postings.builder import Builder

FOLD = "content.fold"
FIRST_PIVOT = 150.0  # terms; a guess until the first fold knows better
_DRIFT = 0.1  # weights are made anew when the mean length is off by more
_DELTAS, _CHUNKS, _SWEPT = 500, 200, 1_000
_YOUNG = 256  # chunks; while a collection is that small, its mean moves with every write
_EVERY = 16
_ROUND = 600.0  # seconds
_log = telemetry.log("content")


class Fold(BaseModel):
    """Which collection's statistics to fold."""

    collection: str


class Statistics:
    """The background half of BM25. Searches are right without it, only slower and with a mean length of the past."""

    def __init__(self, db: Database, jobs: Jobs) -> None:
        self._db, self.postings = db, Builder(db)
        self._job = jobs.handler(FOLD, self._run, Fold, queue="content")
        jobs.chore(self._keep)

    async def written(self, tx: Tx, tenant: UUID, standing: Standing, delta: UUID, documents: int) -> None:
        """Enqueues folding after a write, not after each: deltas are cheap, jobs are not.

        The job has no key of its own kind: writers that share a waiting job would wait for each other.
        """
        if standing.chunks < _YOUNG or documents >= _EVERY or delta.int % _EVERY == 0:
            await self._job.enqueue(Fold(collection=standing.name), tenant=tenant, tx=tx)

    async def sweep(self) -> int:
        """Has collections folded that were written before chunks were gathered in segments. Returns how many."""
        async with self._db.system_tx() as tx:
            found = await self.postings.ungathered(tx, _SWEPT)
        for tenant, collection in found:
            await self._job.enqueue(Fold(collection=collection), tenant=tenant)
        return len(found)

    async def _keep(self) -> None:
        while True:
            try:
                await self.sweep()
            except (BackstayError, OSError, LookupError) as error:
                _log.error("collections were not looked at; trying again later", exc_info=error)
            await asyncio.sleep(_ROUND)

    async def _run(self, context: JobContext, input: Fold) -> None:
        await self.fold(context.tenant, input.collection)

    async def fold(self, tenant: UUID, collection: str) -> None:
        """Folds every delta, moves the pivot when it is off, weighs anew what was weighed with another, makes lists."""
        while await self._fold_some(tenant, collection):
            pass
        pivot = await self._move_pivot(tenant, collection)
        while pivot is not None and await self._weigh_some(tenant, collection, pivot):
            pass
        await self.postings.build(tenant, collection)

    async def _fold_some(self, tenant: UUID, collection: str) -> bool:
        async with self._db.tenant_tx(tenant) as tx:
            await store.lock_folding(tx, tenant, collection)
            deltas = await store.take_deltas(tx, tenant, collection, _DELTAS)
            said = all(delta.added is not None for delta in deltas)
            added = [chunk for delta in deltas for chunk in delta.added or ()]
            await self.postings.gather(tx, tenant, collection, added, said=said)
            if not deltas:
                return False
            terms: Counter[int] = Counter()
            for delta in deltas:
                for number, count in zip(delta.terms, delta.counts, strict=True):
                    terms[number] += count
            await store.fold(
                tx,
                tenant,
                collection,
                chunks=sum(delta.chunks for delta in deltas),
                length=sum(delta.length for delta in deltas),
                terms={number: count for number, count in terms.items() if count},
            )
            return len(deltas) == _DELTAS

    async def _move_pivot(self, tenant: UUID, collection: str) -> float | None:
        """The pivot that every chunk should be weighed with; None when there is no collection."""
        async with self._db.tenant_tx(tenant) as tx:
            await store.lock_folding(tx, tenant, collection)
            standing = await store.collection(tx, tenant, collection)
            if standing is None:
                return None
            if standing.chunks <= 0 or standing.length <= 0:
                return standing.pivot
            mean = standing.length / standing.chunks
            if abs(mean / standing.pivot - 1) <= _DRIFT:
                return standing.pivot
            await store.set_pivot(tx, tenant, collection, mean)
        # Read back: the column is single precision, and chunks are compared with it.
        async with self._db.tenant_tx(tenant) as tx:
            moved = await store.collection(tx, tenant, collection)
            return moved.pivot if moved else None

    async def _weigh_some(self, tenant: UUID, collection: str, pivot: float) -> bool:
        async with self._db.tenant_tx(tenant) as tx:
            chunks = await store.outweighed(tx, tenant, collection, pivot, _CHUNKS)
            if chunks:
                # In a thread, so that the worker's heartbeat goes on.
                await store.weigh(tx, tenant, pivot, await asyncio.to_thread(_weights, chunks, pivot))
            return len(chunks) == _CHUNKS


def _weights(chunks: list[tuple[UUID, list[str], str]], pivot: float) -> dict[UUID, str]:
    return {id: Bag.of(searched(tuple(heading), text)).weights(pivot) for id, heading, text in chunks}
