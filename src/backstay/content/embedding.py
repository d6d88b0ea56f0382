"""The pipeline from chunks without vectors to chunks with them. It runs as jobs and never in a request.

A write enqueues one job in its own transaction. Whichever job runs first drains the space: it takes what has waited
longest, of any document, in batches, until nothing is left that no request carries. So one request carries chunks of
many documents, and the jobs that come later find nothing to do. What a request carries belongs to a job that has not
finished: it is written, or freed, or taken over when the job runs again after a crash.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from pydantic import BaseModel

from ..events import Events
from ..gateway import Embeddings, ProviderRefused
from ..jobs import Discard, JobContext, Jobs, Retry, RetryLater, Snooze
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import BackstayError
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from . import store, vectors_store
from .chunker import searched
from .models import FEATURE_EMBED, Space, Waiting

EMBED, INDEX = "content.embed", "content.index"
MAX_INPUTS, MAX_TOKENS = 2_048, 240_000
INDEX_ROWS = 20_000  # below it an exact scan is as fast
INDEX_DIMENSIONS = 4_000  # the most that HNSW takes of halfvec
_CARRY = timedelta(minutes=15)  # longer than any request may last
_RETRY = Retry(max_attempts=1_000_000, cap=timedelta(minutes=5))  # an embedder that is down for days loses nothing
_WHEN_TOLD_NOTHING = timedelta(seconds=5)
_FAULT_OF_INPUT = frozenset({400, 413, 422})
_PROBE = "probe"
_log = telemetry.log("content")
_chunks = telemetry.counter("backstay_content_chunks_embedded_total", "Chunks that got their vector.")
_parked = telemetry.counter("backstay_content_chunks_parked_total", "Chunks that the embedder refused.")
_lost = telemetry.counter(
    "backstay_content_requests_lost_total", "Embedding requests whose answer was lost in a crash."
)


class Embedder(Protocol):
    """What of the gateway is needed here."""

    async def embed(
        self,
        by: Principal,
        model: str,
        inputs: Sequence[str],
        *,
        feature: str,
        idempotency: str | None = None,
        internal: bool = False,
    ) -> Embeddings: ...


class Drain(BaseModel):
    """Which space to drain. `because` names the write that asked for it."""

    space: int
    collection: str
    because: str = ""


@dataclass(slots=True)
class _Progress:
    """Of one attempt: the space as known by now, and whether the embedder has answered at all."""

    space: Space
    collection: str
    answered: bool = False


class _Refused(Exception):
    """The embedder found fault with the input."""


class Pipeline:
    """Gives chunks their vectors."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        jobs: Jobs,
        gateway: Embedder,
        events: Events,
        *,
        max_inputs: int = MAX_INPUTS,
        max_tokens: int = MAX_TOKENS,
        index_rows: int = INDEX_ROWS,
    ) -> None:
        self._db, self._clock, self._gateway, self._events = db, clock, gateway, events
        self.max_inputs, self.max_tokens, self.index_rows = max_inputs, max_tokens, index_rows
        self._drain = jobs.handler(EMBED, self._run, Drain, queue="content", retry=_RETRY)
        self._index = jobs.handler(INDEX, self._build, Drain, queue="content", timeout=None)

    async def enqueue(self, tenant: UUID, space: int, collection: str, because: str, *, tx: Tx | None = None) -> None:
        """Asks for the space to be drained once `tx` has committed. `because` is unique to the write: two writers that
        shared a key would wait for each other."""
        drain = Drain(space=space, collection=collection, because=because)
        await self._drain.enqueue(drain, tenant=tenant, key=f"{space}:{because}"[:500], tx=tx)

    async def sweep(self, older_than: timedelta = timedelta(minutes=5)) -> int:
        """Enqueues what nobody works on though it should have been done. Returns how many spaces there were.

        Needed only after a job was discarded or deleted by hand.
        """
        now = self._clock.now()
        async with self._db.system_tx() as tx:
            found = await vectors_store.neglected(tx, now - older_than, now)
        for tenant, space, collection in found:
            await self.enqueue(tenant, space, collection, f"sweep:{now.isoformat()}")
        return len(found)

    async def _run(self, context: JobContext, input: Drain) -> None:
        async with context.transaction() as tx:
            space = await vectors_store.space(tx, input.space)
            lost = await vectors_store.disown(tx, context.tenant, context.job, self._clock.now())
            if lost:
                await _release(tx, context.tenant, input.space, lost)
        if lost:
            _lost.inc(len(lost))
            _log.warning("requests of an earlier attempt are lost and sent again", requests=len(lost))
        if space is None:
            raise Discard(f"there is no space {input.space} that this tenant uses")
        progress = _Progress(space, input.collection)
        while batch := await self._claim(context, progress.space):
            await self._embed(context, progress, *batch)
        await self._index_when_due(context, progress)

    async def _claim(self, context: JobContext, space: Space) -> tuple[UUID, list[Waiting]] | None:
        """The next batch and its request, committed before the request is sent; None when nothing waits."""
        now = self._clock.now()
        async with context.transaction() as tx:
            waiting = await vectors_store.waiting(tx, context.tenant, space.id, now, self.max_inputs)
            chosen: list[tuple[UUID, bytes, int]] = []
            tokens = 0
            for row in waiting:
                tokens += row[2]
                if chosen and tokens > self.max_tokens:
                    break
                chosen.append(row)
            texts = await vectors_store.texts(tx, context.tenant, [id for id, _, _ in chosen])
            batch = [
                Waiting(id, text_hash, size, searched(tuple(texts[id][0]), texts[id][1]))
                for id, text_hash, size in chosen
                if id in texts
            ]
            return (await self._ask(tx, context, space, batch), batch) if batch else None

    async def _ask(self, tx: Tx, context: JobContext, space: Space, batch: Sequence[Waiting]) -> UUID:
        call, now = new_id(), self._clock.now()
        await vectors_store.ask(tx, context.tenant, space.id, context.job, call, batch, now)
        ids = [chunk.chunk_id for chunk in batch]
        await vectors_store.carry(tx, context.tenant, space.id, call, ids, now + _CARRY)
        return call

    async def _embed(self, context: JobContext, progress: _Progress, call: UUID, batch: list[Waiting]) -> None:
        """One request and its vectors. A batch that is refused is halved until the faulty chunk stands alone."""
        try:
            answer = await self._request(context, progress.space, call, [chunk.text for chunk in batch])
        except _Refused as refusal:
            await self._isolate(context, progress, call, batch, str(refusal))
            return
        progress.answered = True
        try:
            await self._write(context, progress, call, batch, answer)
        except BaseException:
            await asyncio.shield(self._free(context, progress.space, call, "lost", "the vectors were not written"))
            raise
        # Chunks that someone was replacing meanwhile wait on, if their replacement did not commit.
        async with self._db.tenant_tx(context.tenant) as tx:
            await _release(tx, context.tenant, progress.space.id, [call])

    async def _request(self, context: JobContext, space: Space, call: UUID, texts: list[str]) -> Embeddings:
        """Asks the embedder, with no connection held. Every way to fail ends the request's row and frees its chunks,
        but a refusal, which the caller sorts out."""
        try:
            return await self._gateway.embed(
                context.by, space.model, texts, feature=FEATURE_EMBED, idempotency=str(call), internal=True
            )
        except ProviderRefused as error:
            if error.status in _FAULT_OF_INPUT:
                raise _Refused(error.detail) from None
            await self._free(context, space, call, "failed", error.detail)
            if error.status == 429:
                raise Snooze(_patience(error), "the embedder asks for patience (429)") from None
            raise RetryLater(error.detail) from None
        except BackstayError as error:
            await self._free(context, space, call, "failed", error.detail)
            if error.status == 429:
                raise Snooze(_patience(error), error.detail) from None
            raise RetryLater(f"{error.code}: {error.detail}") from None
        except BaseException:
            # Cancelled, or a fault of ours: whether the embedder has done its work is not known.
            await asyncio.shield(self._free(context, space, call, "lost", "interrupted"))
            raise

    async def _isolate(
        self, context: JobContext, progress: _Progress, call: UUID, batch: list[Waiting], reason: str
    ) -> None:
        now, tenant = self._clock.now(), context.tenant
        if len(batch) == 1:
            if not progress.answered:
                await self._probe(context, progress, call, reason)
            async with context.transaction() as tx:
                await vectors_store.answered(tx, tenant, call, "failed", now, error=reason)
                await vectors_store.park(tx, tenant, progress.space.id, batch[0].chunk_id, reason)
            _parked.inc()
            _log.warning("the embedder refuses a chunk; it is parked", chunk=str(batch[0].chunk_id), reason=reason)
            return
        middle = len(batch) // 2
        halves = [batch[:middle], batch[middle:]]
        async with context.transaction() as tx:
            await vectors_store.answered(tx, tenant, call, "failed", now, error=reason)
            await vectors_store.carried(tx, tenant, progress.space.id, [call])  # locks them
            calls = [await self._ask(tx, context, progress.space, half) for half in halves]
        for next_call, half in zip(calls, halves, strict=True):
            try:
                await self._embed(context, progress, next_call, half)
            except BaseException:
                if next_call is calls[0]:
                    await asyncio.shield(self._free(context, progress.space, calls[1], "failed", "not sent"))
                raise

    async def _probe(self, context: JobContext, progress: _Progress, call: UUID, reason: str) -> None:
        """Makes sure that the chunk is at fault and not the embedder, which then would refuse every one.

        Raises:
            RetryLater: it refuses a plain word too.
        """
        async with context.transaction() as tx:
            probe = await self._ask(tx, context, progress.space, [])
        try:
            answer = await self._request(context, progress.space, probe, [_PROBE])
        except _Refused:
            await self._free(context, progress.space, probe, "failed", reason)
            await self._free(context, progress.space, call, "failed", reason)
            raise RetryLater(f"the embedder refuses everything: {reason}") from None
        except BaseException:
            await asyncio.shield(self._free(context, progress.space, call, "failed", reason))
            raise
        progress.answered = True
        async with self._db.tenant_tx(context.tenant) as tx:
            await vectors_store.answered(
                tx, context.tenant, probe, "written", self._clock.now(), tokens=answer.input_tokens, cost=answer.cost
            )

    async def _write(
        self, context: JobContext, progress: _Progress, call: UUID, batch: list[Waiting], answer: Embeddings
    ) -> None:
        """Compare and set: a vector is written where the chunk still has the text that was sent."""
        space = progress.space = await self._sized(progress.space, len(answer.vectors[0]))
        if any(len(vector) != space.dimensions for vector in answer.vectors):
            raise RetryLater(
                f"{space.model} now answers with {len(answer.vectors[0])} dimensions, {space.dimensions} stand: "
                "has the model behind this name changed?"
            )
        literals = await asyncio.to_thread(lambda: list(map(vectors_store.literal, answer.vectors)))
        tenant = context.tenant
        async with context.transaction() as tx:
            kept = await vectors_store.keep_chunks(tx, tenant, batch)
            pairs = [(chunk, text) for chunk, text in zip(batch, literals, strict=True) if chunk.chunk_id in kept]
            if pairs:
                chunks = [chunk for chunk, _ in pairs]
                await vectors_store.write_vectors(tx, tenant, space.id, chunks, [text for _, text in pairs])
                documents = await vectors_store.settle(tx, tenant, space.id, [chunk.chunk_id for chunk in chunks])
                payload = {"collection": progress.collection, "chunks": len(chunks), "documents": sorted(documents)}
                await self._events.emit(tx, "content.embedded", payload)
            await vectors_store.answered(
                tx, tenant, call, "written", self._clock.now(), tokens=answer.input_tokens, cost=answer.cost
            )
            tx.notify("content", progress.collection)
        _chunks.inc(len(pairs))

    async def _sized(self, space: Space, dimensions: int) -> Space:
        """The space with its table, which is made when the model has answered for the first time."""
        if space.dimensions is not None:
            return space
        async with self._db.system_tx() as tx:
            await vectors_store.create_space_table(tx, space.id, dimensions)
            standing = await vectors_store.space(tx, space.id)
        return standing or space

    async def _free(self, context: JobContext, space: Space, call: UUID, state: str, error: str) -> None:
        async with self._db.tenant_tx(context.tenant) as tx:
            now = self._clock.now()
            await vectors_store.answered(tx, context.tenant, call, state, now, error=telemetry.scrub(error)[:2000])
            await _release(tx, context.tenant, space.id, [call])

    async def _index_when_due(self, context: JobContext, progress: _Progress) -> None:
        space = progress.space
        if space.dimensions is None or space.indexed_at is not None or space.dimensions > INDEX_DIMENSIONS:
            return
        async with self._db.system_tx() as tx:
            due = await vectors_store.count_all(tx, space.id, self.index_rows) >= self.index_rows
        if due:
            drain = Drain(space=space.id, collection=progress.collection)
            await self._index.enqueue(drain, tenant=context.tenant, key=f"index:{space.id}")

    async def _build(self, context: JobContext, input: Drain) -> None:
        """Builds the HNSW index of a space, while writers go on."""
        async with self._db.system_tx() as tx:
            space = await vectors_store.space(tx, input.space)
            if space is None or space.dimensions is None or space.indexed_at is not None:
                return
            rows = max(await vectors_store.estimate(tx, space.id), self.index_rows)
        # The graph should be built in memory: vectors, neighbours, and a third on top.
        megabytes = int(rows * (space.dimensions * 2 + 400) * 1.3 / 1_000_000)
        if not await store.build_index(self._db, space.id, min(max(megabytes, 64), 1024)):
            raise Snooze(timedelta(seconds=2), "another job builds the index")
        async with self._db.system_tx() as tx:
            await vectors_store.indexed(tx, space.id, self._clock.now())
        _log.info("vectors have their index now", space=space.id, rows=rows)


async def _release(tx: Tx, tenant: UUID, space: int, calls: Sequence[UUID]) -> None:
    """Frees what these requests still carry for the next one."""
    chunks = await vectors_store.carried(tx, tenant, space, calls)
    if chunks:
        await vectors_store.free(tx, tenant, space, chunks)


def _patience(error: BackstayError) -> timedelta:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    told = headers.get("retry-after", "")
    return timedelta(seconds=min(float(told), 3600)) if told.isdigit() else _WHEN_TOLD_NOTHING
