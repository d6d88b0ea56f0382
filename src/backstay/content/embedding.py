"""The pipeline from chunks without vectors to chunks with them. It runs as jobs and never in a request.

A write enqueues one job in its own transaction. Whichever job runs first drains the space: it takes what has waited
longest, of any document, in batches, until nothing is left that no request carries. So one request carries chunks of
many documents, and the jobs that come later find nothing to do. What a request carries belongs to a job that has not
finished: it is written, or freed, or taken over when the job runs again after a crash.

A job that has sent a few batches goes to the end of its queue, so that a large backlog does not keep others waiting.
While the embedder rests, every job of the space ends at once and one remains that goes on after the rest.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from pydantic import BaseModel

from ..events import Events
from ..jobs import Discard, JobContext, Jobs, Retry
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import BackstayError
from . import pace, pipeline_store, vectors_store
from .chunker import searched
from .delivery import Delivery, Embedder, Progress, release
from .indexes.indexer import Indexer
from .models import BatchLimit, Space, Waiting

EMBED = "content.embed"
_BATCHES_A_TURN = 8
_RETRY = Retry(max_attempts=1_000_000, cap=timedelta(minutes=5))  # what fails here is ours to mend, and nothing is lost
_REST = "rest"
_ROUND = 60.0  # seconds
_log = telemetry.log("content")
_lost = telemetry.counter(
    "backstay_content_requests_lost_total", "Embedding requests whose answer was lost in a crash."
)
_backlog = telemetry.gauge(
    "backstay_content_chunks_without_vector",
    "Chunks that wait for their vector, or are parked.",
    ["state"],
    mode="livemostrecent",
)
_lag = telemetry.gauge(
    "backstay_content_lag_seconds", "How long the oldest waiting chunk has waited.", mode="livemostrecent"
)


class Drain(BaseModel):
    """Which space to drain. `because` names the write that asked for it."""

    space: int
    collection: str
    because: str = ""


class Pipeline:
    """Gives chunks their vectors. `limits`: what a request carries at most, by model."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        jobs: Jobs,
        gateway: Embedder,
        events: Events,
        *,
        limits: Mapping[str, BatchLimit] | None,
        indexer: Indexer,
    ) -> None:
        self._db, self._clock = db, clock
        self.limits = dict(limits or {})
        self.indexer = indexer
        self._delivery = Delivery(db, clock, gateway, events)
        self._drain = jobs.handler(EMBED, self._run, Drain, queue="content", retry=_RETRY)
        jobs.chore(self._keep)

    def limit_of(self, model: str) -> BatchLimit:
        """What a request to the model carries at most."""
        return self.limits.get(model, BatchLimit())

    async def enqueue(
        self,
        tenant: UUID,
        space: int,
        collection: str,
        because: str,
        *,
        at: datetime | None = None,
        tx: Tx | None = None,
    ) -> None:
        """Asks for the space to be drained once `tx` has committed. `because` is unique to the write: two writers that
        shared a key would wait for each other."""
        drain = Drain(space=space, collection=collection, because=because)
        await self._drain.enqueue(drain, tenant=tenant, key=f"{space}:{because}"[:500], at=at, tx=tx)

    async def sweep(self, older_than: timedelta = timedelta(minutes=5)) -> int:
        """Enqueues what nobody works on though it should have been done. Returns how many spaces there were.

        Needed only after a job was discarded or deleted by hand.
        """
        now = self._clock.now()
        async with self._db.system_tx() as tx:
            found = await pipeline_store.neglected(tx, now - older_than, now)
        for tenant, space, collection in found:
            await self.enqueue(tenant, space, collection, "sweep")
        return len(found)

    async def measure(self) -> None:
        """Sets the metrics of the backlog."""
        async with self._db.system_tx() as tx:
            waiting, parked, lag = await pipeline_store.backlog(tx, self._clock.now())
        _backlog.labels("waiting").set(waiting)
        _backlog.labels("parked").set(parked)
        _lag.set(lag)

    async def _keep(self) -> None:
        while True:
            try:
                await self.measure()
                await self.sweep()
            except (BackstayError, OSError, LookupError) as error:
                _log.error("the backlog was not looked at; trying again later", exc_info=error)
            await asyncio.sleep(_ROUND)

    async def _run(self, context: JobContext, input: Drain) -> None:
        async with context.transaction() as tx:
            space = await vectors_store.space(tx, input.space)
            lost = await pipeline_store.disown(tx, context.tenant, context.job, self._clock.now())
            if lost:
                await release(tx, context.tenant, input.space, lost)
        if lost:
            _lost.inc(len(lost))
            _log.warning("requests of an earlier attempt are lost and sent again", requests=len(lost))
        if space is None:
            raise Discard(f"there is no space {input.space} that this tenant uses")
        progress = Progress(space, input.collection, self.limit_of(space.model))
        try:
            if await self._turn(context, progress):
                await self.indexer.build_when_due(context.tenant, progress.space)
            else:
                await self._go_on(context, input, input.because, None)
        except pace.Resting as rest:
            await self._go_on(context, input, _REST, rest.until)

    async def _turn(self, context: JobContext, progress: Progress) -> bool:
        """Sends a few batches. Whether nothing is left to send."""
        for _ in range(_BATCHES_A_TURN):
            batch = await self._claim(context, progress.space, progress.limit)
            if batch is None:
                return True
            await self._delivery.carry(context, progress, *batch)
        return False

    async def _claim(self, context: JobContext, space: Space, limit: BatchLimit) -> tuple[UUID, list[Waiting]] | None:
        """The next batch and its request, committed before the request is sent; None when nothing waits.

        Raises:
            Resting: something waits, and the embedder may not be asked now.
        """
        now = self._clock.now()
        async with context.transaction() as tx:
            waiting = await pipeline_store.waiting(tx, context.tenant, space.id, now, limit.inputs)
            chosen: list[tuple[UUID, bytes, int]] = []
            tokens = 0
            for row in waiting:
                tokens += row[2]
                if chosen and tokens > limit.tokens:
                    break
                chosen.append(row)
            texts = await pipeline_store.texts(tx, context.tenant, [id for id, _, _ in chosen])
            batch = [
                Waiting(id, text_hash, size, searched(tuple(texts[id][0]), texts[id][1]))
                for id, text_hash, size in chosen
                if id in texts
            ]
            if not batch:
                return None
            await pace.ask(tx, context.tenant, space.model, now)
            return await self._delivery.ask(tx, context, space, batch), batch

    async def _go_on(self, context: JobContext, input: Drain, because: str, at: datetime | None) -> None:
        """Another job goes on with the space: at the end of the queue, or after a rest."""
        async with context.transaction() as tx:
            await self.enqueue(context.tenant, input.space, input.collection, because, at=at, tx=tx)
