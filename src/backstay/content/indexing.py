"""The index over a space's vectors: built when there are enough of them, as a job, while writers go on."""

from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel

from ..jobs import JobContext, Jobs, Snooze
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database
from . import store, vectors_store
from .models import Space

INDEX = "content.index"
INDEX_ROWS = 20_000  # below it an exact scan is as fast
INDEX_DIMENSIONS = 4_000  # the most that HNSW takes of halfvec
_log = telemetry.log("content")


class Index(BaseModel):
    """Which space to index."""

    space: int


class Indexer:
    """`rows`: the least number of vectors that get an index."""

    def __init__(self, db: Database, clock: Clock, jobs: Jobs, *, rows: int = INDEX_ROWS) -> None:
        self._db, self._clock = db, clock
        self.rows = rows
        self._job = jobs.handler(INDEX, self._build, Index, queue="content", timeout=None)

    async def build_when_due(self, tenant: UUID, space: Space) -> None:
        """Enqueues the build when the space has vectors enough and no index."""
        if space.dimensions is None or space.indexed_at is not None or space.dimensions > INDEX_DIMENSIONS:
            return
        async with self._db.system_tx() as tx:
            due = await vectors_store.count_all(tx, space.id, self.rows) >= self.rows
        if due:
            await self._job.enqueue(Index(space=space.id), tenant=tenant, key=f"index:{space.id}")

    async def _build(self, _: JobContext, input: Index) -> None:
        async with self._db.system_tx() as tx:
            space = await vectors_store.space(tx, input.space)
            if space is None or space.dimensions is None or space.indexed_at is not None:
                return
            rows = max(await vectors_store.estimate(tx, space.id), self.rows)
        # The graph should be built in memory: vectors, neighbours, and a third on top.
        megabytes = int(rows * (space.dimensions * 2 + 400) * 1.3 / 1_000_000)
        if not await store.build_index(self._db, space.id, min(max(megabytes, 64), 1024)):
            raise Snooze(timedelta(seconds=2), "another job builds the index")
        async with self._db.system_tx() as tx:
            await vectors_store.indexed(tx, space.id, self._clock.now())
        _log.info("vectors have their index now", space=space.id, rows=rows)
