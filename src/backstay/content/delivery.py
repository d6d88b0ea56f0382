"""One batch on its way: the request, the ledger, the vectors, and what is done when the embedder refuses.

Every request has its row before it is sent and its cost in that row before its vectors are written. Vectors are
written by compare and set. A batch that is refused is halved until the faulty chunk stands alone; that one is parked.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from ..events import Events
from ..gateway import ContextTooLong, Embeddings, ProviderRefused
from ..jobs import JobContext
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import BackstayError
from ..kernel.halfvec import Halfvec, Halfvecs
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from . import pace, pipeline_store, vectors_store
from .models import FEATURE_EMBED, BatchLimit, Space, Waiting

MAX_DIMENSIONS = 16_000  # the most that pgvector stores of halfvec
_FAULT_OF_INPUT = frozenset({400, 413, 422})
_PROBE = "probe"
_PARKED_AT_ONCE = 5_000
_log = telemetry.log("content")
_chunks = telemetry.counter("backstay_content_chunks_embedded_total", "Chunks that got their vector.")
_parked = telemetry.counter("backstay_content_chunks_parked_total", "Chunks that the embedder refused.")


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
        retries: int | None = None,
    ) -> Embeddings: ...

    async def embedding_cost(self, by: Principal, model: str, tokens: int, requests: int) -> Decimal: ...


@dataclass(slots=True)
class Progress:
    """Of one attempt: the space as known by now, the limit of a batch as learnt by now, and whether the embedder has
    answered at all."""

    space: Space
    collection: str
    limit: BatchLimit
    answered: bool = False
    parked: int = 0


class _Refused(Exception):
    """The embedder found fault with the input. `too_large`: with its size."""

    def __init__(self, reason: str, too_large: bool) -> None:
        super().__init__(reason)
        self.reason, self.too_large = telemetry.scrub(reason)[:2000], too_large


class _Unfit(Exception):
    """The vectors cannot stand beside those that stand."""


class RefusesAll(BackstayError):
    """The embedder refuses a plain word too, so no chunk is at fault."""

    code, status, title = "embedder_refuses_all", 503, "The embedder refuses everything"


class Delivery:
    """Carries batches to the embedder and vectors back."""

    def __init__(self, db: Database, clock: Clock, gateway: Embedder, events: Events) -> None:
        self._db, self._clock, self._gateway, self._events = db, clock, gateway, events
        self._halfvec: int | None = None

    async def ask(self, tx: Tx, context: JobContext, space: Space, batch: Sequence[Waiting]) -> UUID:
        """Writes that a request is about to be sent, and that it carries these chunks, which are locked."""
        call, now = new_id(), self._clock.now()
        await pipeline_store.ask(tx, context.tenant, space.id, context.job, call, batch, now)
        ids = [chunk.chunk_id for chunk in batch]
        await pipeline_store.carry(tx, context.tenant, space.id, call, ids, now + pace.LONGEST_REQUEST)
        return call

    async def carry(self, context: JobContext, progress: Progress, call: UUID, batch: list[Waiting]) -> None:
        """Sends one request that `ask` has written, and writes its vectors.

        Raises:
            Resting: the embedder did not answer, and is left alone; the chunks wait on.
        """
        try:
            answer = await self._request(context, progress, call, [chunk.text for chunk in batch])
        except _Refused as refusal:
            await self._isolate(context, progress, call, batch, refusal)
            return
        try:
            await self._write(context, progress, call, batch, answer)
        except _Unfit as unfit:
            await self._park_all(context, progress, call, str(unfit))
        except BaseException:
            await asyncio.shield(self._free(context, progress.space, call, "lost", "the vectors were not written"))
            raise
        # Chunks that someone was replacing meanwhile wait on, if their replacement did not commit.
        async with self._db.tenant_tx(context.tenant) as tx:
            await release(tx, context.tenant, progress.space.id, [call])

    async def _request(self, context: JobContext, progress: Progress, call: UUID, texts: list[str]) -> Embeddings:
        """Asks the embedder, with no connection held. Every way to fail ends the request's row and frees its chunks,
        but a refusal, which the caller sorts out."""
        space = progress.space
        try:
            # The gateway does not try again by itself: the wait is everyone's, see pace.py.
            answer = await self._gateway.embed(
                context.by, space.model, texts, feature=FEATURE_EMBED, idempotency=str(call), internal=True, retries=0
            )
        except BackstayError as error:
            if isinstance(error, ProviderRefused) and error.status in _FAULT_OF_INPUT:
                raise _Refused(error.detail, error.status == 413 or isinstance(error, ContextTooLong)) from None
            raise await self._rest(context, space, call, error) from None
        except BaseException:
            # Cancelled, or a fault of ours: whether the embedder has done its work is not known.
            await asyncio.shield(self._free(context, space, call, "lost", "interrupted"))
            raise
        progress.answered = True
        async with self._db.tenant_tx(context.tenant) as tx:
            asked_at = await pipeline_store.paid(tx, context.tenant, call, answer.input_tokens, answer.cost)
            if asked_at is not None:
                await pace.answered(tx, context.tenant, space.model, asked_at)
        return answer

    async def _rest(self, context: JobContext, space: Space, call: UUID, error: BackstayError) -> pace.Resting:
        async with self._db.tenant_tx(context.tenant) as tx:
            until = await pace.failed(tx, context.tenant, space.model, error, self._clock.now())
        await self._free(context, space, call, "failed", error.detail)
        _log.warning("the embedder is left alone", model=space.model, until=until.isoformat(), reason=error.code)
        return pace.Resting(until)

    async def _isolate(
        self, context: JobContext, progress: Progress, call: UUID, batch: list[Waiting], refusal: _Refused
    ) -> None:
        tenant = context.tenant
        if len(batch) == 1:
            if not progress.answered:
                await self._probe(context, progress, call, refusal.reason)
            await self._park(context, progress, call, refusal.reason)
            return
        middle = len(batch) // 2
        halves = [batch[:middle], batch[middle:]]
        async with context.transaction() as tx:
            await pipeline_store.ended(tx, tenant, call, "failed", self._clock.now(), error=refusal.reason)
            await pipeline_store.carried(tx, tenant, progress.space.id, [call])  # locks them
            calls = [await self.ask(tx, context, progress.space, half) for half in halves]
        parked_before = progress.parked
        for next_call, half in zip(calls, halves, strict=True):
            try:
                await self.carry(context, progress, next_call, half)
            except BaseException:
                if next_call is calls[0]:
                    await asyncio.shield(self._free(context, progress.space, calls[1], "failed", "not sent"))
                raise
        if refusal.too_large and progress.parked == parked_before:
            # Its parts were taken: it was the size. What comes next is cut small from the start.
            tokens = sum(chunk.tokens for chunk in halves[1])
            least = min(progress.limit.inputs, len(halves[1]))
            progress.limit = replace(progress.limit, inputs=least, tokens=min(progress.limit.tokens, tokens))

    async def _probe(self, context: JobContext, progress: Progress, call: UUID, reason: str) -> None:
        """Makes sure that the chunk is at fault and not the embedder, which then would refuse every one.

        Raises:
            Resting: it refuses a plain word too.
        """
        async with context.transaction() as tx:
            probe = await self.ask(tx, context, progress.space, [])
        try:
            await self._request(context, progress, probe, [_PROBE])
        except _Refused:
            await self._free(context, progress.space, probe, "failed", reason)
            error = RefusesAll(f"the embedder refuses everything: {reason}")
            raise await self._rest(context, progress.space, call, error) from None
        except BaseException:
            await asyncio.shield(self._free(context, progress.space, call, "failed", reason))
            raise
        async with self._db.tenant_tx(context.tenant) as tx:
            await pipeline_store.ended(tx, context.tenant, probe, "written", self._clock.now())

    async def _write(
        self, context: JobContext, progress: Progress, call: UUID, batch: list[Waiting], answer: Embeddings
    ) -> None:
        """Compare and set: a vector is written where the chunk still has the text that was sent.

        Raises:
            _Unfit: the vectors have other dimensions than those that stand.
        """
        space = progress.space = await self._sized(progress.space, len(answer.vectors[0]))
        strange = {len(vector) for vector in answer.vectors} - {space.dimensions}
        if strange:
            raise _Unfit(
                f"{space.model} now answers with {min(strange)} dimensions, {space.dimensions} stand: has the model "
                "behind this name changed? Give the collection its new name by a migration, or try the parked again "
                "when it is as it was"
            )
        vectors = await asyncio.to_thread(lambda: list(map(Halfvec.of, answer.vectors)))
        tenant = context.tenant
        async with context.transaction() as tx:
            # What this request no longer carries is another's by now, or belongs to a space that was given up.
            carried = await pipeline_store.carried(tx, tenant, space.id, [call])
            kept = await pipeline_store.keep_chunks(tx, tenant, batch) & set(carried)
            pairs = [(chunk, vector) for chunk, vector in zip(batch, vectors, strict=True) if chunk.chunk_id in kept]
            good = [(chunk, vector) for chunk, vector in pairs if vector is not None]
            if good:
                if self._halfvec is None:
                    self._halfvec = await vectors_store.halfvec_oid(tx)
                chunks, packed = [chunk for chunk, _ in good], Halfvecs(self._halfvec, [vector for _, vector in good])
                await vectors_store.write_vectors(tx, tenant, space.id, chunks, packed)
                documents = await pipeline_store.settle(tx, tenant, space.id, [chunk.chunk_id for chunk in chunks])
                payload = {"collection": progress.collection, "chunks": len(chunks), "documents": sorted(documents)}
                await self._events.emit(tx, "content.embedded", payload)
            bad = [chunk.chunk_id for chunk, vector in pairs if vector is None]
            if bad:
                await self._set_aside(
                    tx, context.tenant, progress, bad, f"{space.model} answered with a vector that has no direction"
                )
            await pipeline_store.ended(tx, tenant, call, "written", self._clock.now())
            tx.notify("content", progress.collection)
        _chunks.inc(len(good))

    async def _sized(self, space: Space, dimensions: int) -> Space:
        """The space with its table, which is made when the model has answered for the first time."""
        if space.dimensions is not None:
            return space
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise _Unfit(
                f"{space.model} answers with {dimensions} dimensions, and Postgres stores 1 to {MAX_DIMENSIONS}"
            )
        async with self._db.system_tx() as tx:
            await vectors_store.create_space_table(tx, space.id, dimensions)
            standing = await vectors_store.space(tx, space.id)
        return standing or space

    async def _park(self, context: JobContext, progress: Progress, call: UUID, reason: str) -> None:
        async with context.transaction() as tx:
            await pipeline_store.ended(tx, context.tenant, call, "failed", self._clock.now(), error=reason)
            locked = await pipeline_store.carried(tx, context.tenant, progress.space.id, [call])
            await self._set_aside(tx, context.tenant, progress, locked, reason)

    async def _park_all(self, context: JobContext, progress: Progress, call: UUID, reason: str) -> None:
        """Parks everything that waits: another request would be paid for and end in the same way."""
        await self._park(context, progress, call, reason)
        while True:
            async with context.transaction() as tx:
                rows = await pipeline_store.waiting(
                    tx, context.tenant, progress.space.id, self._clock.now(), _PARKED_AT_ONCE
                )
                await self._set_aside(tx, context.tenant, progress, [chunk for chunk, _, _ in rows], reason)
            if len(rows) < _PARKED_AT_ONCE:
                return

    async def _set_aside(self, tx: Tx, tenant: UUID, progress: Progress, chunks: Sequence[UUID], reason: str) -> None:
        if not chunks:
            return
        await pipeline_store.park(tx, tenant, progress.space.id, chunks, reason)
        payload = {"collection": progress.collection, "chunks": len(chunks), "error": reason}
        await self._events.emit(tx, "content.parked", payload)
        progress.parked += len(chunks)
        _parked.inc(len(chunks))
        _log.warning("chunks are parked", collection=progress.collection, chunks=len(chunks), reason=reason)

    async def _free(self, context: JobContext, space: Space, call: UUID, state: str, error: str) -> None:
        async with self._db.tenant_tx(context.tenant) as tx:
            now = self._clock.now()
            await pipeline_store.ended(tx, context.tenant, call, state, now, error=telemetry.scrub(error)[:2000])
            await release(tx, context.tenant, space.id, [call])


async def release(tx: Tx, tenant: UUID, space: int, calls: Sequence[UUID]) -> None:
    """Frees what these requests still carry for the next one."""
    chunks = await pipeline_store.carried(tx, tenant, space, calls)
    if chunks:
        await pipeline_store.free(tx, tenant, space, chunks)
