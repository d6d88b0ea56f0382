"""The index over a space's vectors: built when there are enough of them, as a job, while writers go on.

Another kind is built beside the one that stands and takes its place before that one is dropped. What a crash leaves
behind, an index that is not valid, is found by the next attempt and dropped.
"""

import asyncio
import time
from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel

from ...jobs import JobContext, Jobs, Snooze
from ...kernel import telemetry
from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from .. import vectors_store
from ..models import IndexKind, Space
from . import store
from .advice import Thresholds, build_bytes, fitting, lists_for
from .models import IndexState

INDEX = "content.index"
MEMORY_MB = 1_024
_LEAST_MEMORY_MB = 64
_log = telemetry.log("content")


class Index(BaseModel):
    """Which space to index; `rebuild`: anew, though an index of that kind stands."""

    space: int
    rebuild: bool = False


class Indexer:
    """`thresholds`: from how many vectors on there is an index; `memory_mb`: the most that a build may take."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        jobs: Jobs,
        *,
        thresholds: Thresholds | None = None,
        memory_mb: int = MEMORY_MB,
        look_every: float = 1.0,
    ) -> None:
        self._db, self._clock = db, clock
        self.thresholds = thresholds or Thresholds()
        self.memory_mb, self.look_every = memory_mb, look_every
        self._job = jobs.handler(INDEX, self._build, Index, queue="content", timeout=None)

    async def build_when_due(self, tenant: UUID, space: Space) -> None:
        """Enqueues the build when the space should have another index than it has."""
        if space.dimensions is None:
            return
        async with self._db.system_tx() as tx:
            state = await store.state(tx, space.id)
            due = state is not None and not state.filling and await self.wanted(tx, state) is not state.standing
        if due:
            await self._job.enqueue(Index(space=space.id), tenant=tenant, key=f"index:{space.id}")

    async def change(self, tenant: UUID, space: int, *, rebuild: bool, tx: Tx) -> None:
        """Enqueues a look at what should stand, once `tx` has committed."""
        # A key of its own: a build that runs now has made up its mind already.
        key = f"index:{space}:{self._clock.now().isoformat()}"
        await self._job.enqueue(Index(space=space, rebuild=rebuild), tenant=tenant, key=key, tx=tx)

    async def wanted(self, tx: Tx, state: IndexState) -> IndexKind:
        """The kind that should stand now."""
        return fitting(state, await self.rows(tx, state), self.thresholds)

    async def rows(self, tx: Tx, state: IndexState) -> int:
        """About how many vectors there are. Counted near the thresholds, while there is no index."""
        least, most = sorted((self.thresholds.auto_rows, self.thresholds.least_rows))
        if state.dimensions is None or state.kind is not None or not least <= 2 * state.rows <= 4 * most:
            return state.rows
        counted = await vectors_store.count_all(tx, state.space, most)
        return counted if counted < most else max(counted, state.rows)

    async def _build(self, context: JobContext, input: Index) -> None:
        async with store.builder(self._db, input.space) as builder:
            if builder is None:
                await self._look(input.space)
                raise Snooze(timedelta(seconds=2), "another process builds the index")
            async with self._db.system_tx() as tx:
                state = await store.state(tx, input.space)
                if state is None or state.dimensions is None:
                    return
                wanted, rows = await self.wanted(tx, state), await self.rows(tx, state)
            standing = await builder.standing()
            for index in standing:
                if not index.valid:
                    _log.warning("an index that a crash left behind is dropped", space=input.space, index=index.name)
                    await builder.drop(index.name)
            valid = [index for index in standing if index.valid]
            fits = next((index for index in valid if index.kind is wanted and not input.rebuild), None)
            if wanted is IndexKind.NONE:
                kept = None
                await self._stands(input.space, None)
            elif fits is None:
                kept = await self._create(builder, state, wanted, rows)
            else:
                kept = fits.name
                if state.kind is not wanted:  # built by an attempt that died before it said so
                    await self._stands(input.space, wanted, lists=fits.lists, rows=rows)
            for index in valid:
                if index.name != kept:
                    await builder.drop(index.name)

    async def _create(self, builder: store.Builder, state: IndexState, kind: IndexKind, rows: int) -> str:
        """Builds, saying how far it is, and says in the end that the index stands. Returns its name."""
        dimensions = state.dimensions or 0
        lists = lists_for(rows, dimensions=dimensions, memory=self.memory_mb << 20)
        wanted = build_bytes(kind, rows, dimensions, lists)
        memory = min(max(-(-wanted >> 20), _LEAST_MEMORY_MB), self.memory_mb)
        began = time.monotonic()
        async with self._db.system_tx() as tx:
            await store.report(tx, state.space, kind, "initializing", 0, 0, self._clock.now())
        building = asyncio.create_task(builder.create(kind, dimensions=dimensions, lists=lists, memory_mb=memory))
        try:
            async with store.watcher(self._db) as watcher:
                while not (await asyncio.wait({building}, timeout=self.look_every))[0]:
                    await self._told(state.space, kind, await store.progress(watcher, state.space))
            name = await building
        except BaseException as error:
            building.cancel()
            await asyncio.gather(building, return_exceptions=True)
            async with self._db.system_tx() as tx:
                reason = telemetry.scrub(str(error) or type(error).__name__)[:1_000]
                await store.failed(tx, state.space, reason, self._clock.now())
            raise
        seconds = time.monotonic() - began
        await self._stands(
            state.space, kind, lists=lists if kind is IndexKind.IVFFLAT else None, rows=rows, took=seconds
        )
        _log.info("vectors have their index now", space=state.space, kind=kind, rows=rows, seconds=round(seconds, 1))
        return name

    async def _stands(
        self, space: int, kind: IndexKind | None, *, lists: int | None = None, rows: int = 0, took: float = 0.0
    ) -> None:
        """From now on searches use it; what stood before may be dropped."""
        async with self._db.system_tx() as tx:
            await store.stands(tx, space, kind, lists, self._clock.now() if kind else None, rows, took)
            await store.finished(tx, space)

    async def _look(self, space: int) -> None:
        """Says how far a build is that nobody watches, because its process died and the server's goes on."""
        async with self._db.system_tx() as tx:
            build = await store.build(tx, space)
        if build is not None:
            async with store.watcher(self._db) as watcher:
                await self._told(space, build.kind, await store.progress(watcher, space))

    async def _told(self, space: int, kind: IndexKind, seen: tuple[str, int, int] | None) -> None:
        if seen is not None:
            async with self._db.system_tx() as tx:
                await store.report(tx, space, kind, *seen, self._clock.now())
