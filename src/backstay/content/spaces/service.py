"""Decides about a collection's spaces: begins a change of models, keeps the gate, switches, goes back, retires."""

from collections.abc import MutableSequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from ...audit import Audit
from ...events import Events
from ...jobs import JobContext, Jobs
from ...kernel import telemetry
from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.errors import Invalid
from ...kernel.principal import Principal
from .. import store as content_store
from .. import vectors_store
from ..delivery import Embedder
from ..embedding import Pipeline
from ..models import CollectionNotFound, Definition, Space, Standing
from ..search import Searcher
from . import store
from .judgements import Judgements
from .models import (
    MigrationPreview,
    MigrationRunning,
    Recall,
    SpaceBusy,
    SpaceNotFound,
    SpaceNotReady,
    SpaceStanding,
    SpaceState,
)

BACKFILL, CLEAR = "content.backfill", "content.clear"
RECALL, LOSS = 0.95, 0.02
_AT_ONCE = 5_000
_log = telemetry.log("content")


class Fill(BaseModel):
    """Which space of which collection."""

    collection: str
    space: int


class Spaces:
    """A collection's embedding model is changed while it is written and searched."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        jobs: Jobs,
        gateway: Embedder,
        audit: Audit,
        events: Events,
        pipeline: Pipeline,
        searcher: Searcher,
    ) -> None:
        self._db, self._clock, self._gateway, self._audit, self._events = db, clock, gateway, audit, events
        self._pipeline, self._searcher = pipeline, searcher
        self.judgements = Judgements(db, audit, gateway, searcher)
        self._backfill = jobs.handler(BACKFILL, self._fill, Fill, queue="content")
        self._clear = jobs.handler(CLEAR, self._empty, Fill, queue="content")

    async def preview(self, by: Principal, name: str, model: str) -> MigrationPreview:
        """What a change to `model` would take: chunks, tokens, and what they cost. Nothing is written or sent.

        Raises:
            CollectionNotFound, ModelNotFound (404). Invalid, PriceUnknown (422).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            standing = await self._standing(tx, by.tenant, name)
            chunks, tokens = await store.sizes(tx, by.tenant, name)
        model = _embedder(standing, model)
        limit = self._pipeline.limit_of(model)
        requests = max(-(-chunks // limit.inputs), -(-tokens // limit.tokens), 1)
        cost = await self._gateway.embedding_cost(by, model, tokens, requests)
        return MigrationPreview(model, chunks, tokens, cost)

    async def migrate(self, by: Principal, name: str, model: str) -> SpaceStanding:
        """Begins a change to `model`: from now on writes give vectors to both, and those that stand get theirs.

        Raises:
            CollectionNotFound, ModelNotFound (404). Invalid, PriceUnknown (422).
            MigrationRunning: another change is under way, or `model` is searched already (409). SpaceBusy (409).
        """
        preview = await self.preview(by, name, model)
        now = self._clock.now()
        async with self._db.tenant_tx(by.tenant) as tx:
            standing = await self._locked(tx, by.tenant, name)
            spaces = {space.model: space for space in await store.spaces(tx, by.tenant, name)}
            if any(space.state is SpaceState.BUILDING for space in spaces.values()):
                raise MigrationRunning(
                    f"{name} changes its model already: switch to the new space, or retire it, first"
                )
            known = spaces.get(preview.model)
            if known is not None and known.state is not SpaceState.RETIRED:
                raise MigrationRunning(f"{name} has vectors of {preview.model} already, {known.state}")
            definition = standing.definition.model_copy(update={"embedder": preview.model})
            space = await content_store.take_space(tx, name, definition, now)
            if space is None:
                raise Invalid("a change of models needs a model")
            if standing.space is not None and not standing.models:
                await store.put_state(tx, by.tenant, name, standing.space.id, SpaceState.ACTIVE, now)
            await store.put_state(tx, by.tenant, name, space, SpaceState.BUILDING, now)
            await self._enqueue_fill(tx, by.tenant, name, space)
            await self._told(tx, by, "migrate", name, space, {"model": preview.model, "cost": str(preview.cost)})
        return await self._space(by, name, space)

    async def list(self, by: Principal, name: str) -> list[SpaceStanding]:
        """The collection's spaces and how far they are, the one that is searched first.

        Raises:
            CollectionNotFound: there is no such collection (404).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            await self._standing(tx, by.tenant, name)
            return [await self._counted(tx, by.tenant, name, one) for one in await store.spaces(tx, by.tenant, name)]

    async def switch(
        self,
        by: Principal,
        name: str,
        space: int,
        *,
        recall: float = RECALL,
        loss: float = LOSS,
        force: bool = False,
    ) -> SpaceStanding:
        """Searches `space` from now on, when it is ready; the one before stays on standby.

        It is ready when no chunk that has a vector in the old space lacks one in the new, a search in it finds `recall`
        of what looking at every vector finds, and, where the collection has judgements, its nDCG@10 is at most `loss`
        lower than in the old space. `force`: searches it though it is not; the audit keeps what was wrong.

        Raises:
            SpaceNotFound (404). SpaceNotReady: the gate is closed, and why (409). SpaceBusy (409).
        """
        found = await self._space(by, name, space)
        if found.state is not SpaceState.BUILDING:
            raise SpaceNotReady(f"space {space} is {found.state}, not building")
        if found.dimensions is None:
            raise SpaceNotReady(f"{found.model} has not answered yet")
        async with self._db.tenant_tx(by.tenant) as tx:
            left_out = await store.unaccounted(tx, by.tenant, name, space)
            if left_out:
                await self._enqueue_fill(tx, by.tenant, name, space)
        reasons = [f"{left_out} chunks have not been taken up yet; they are now"] if left_out else []
        if reasons and not force:
            raise SpaceNotReady(reasons[0])
        metadata = await self._measured(by, name, found, recall, loss, reasons)
        if reasons and not force:
            raise SpaceNotReady("; ".join(reasons))
        async with self._db.tenant_tx(by.tenant) as tx:
            standing = await self._locked(tx, by.tenant, name)
            if await store.hold_state(tx, by.tenant, name, space) is not SpaceState.BUILDING:
                raise SpaceNotReady(f"space {space} is not building any more")
            behind = await self._behind(tx, by.tenant, name, space, standing.space)
            if behind:
                reasons.append(f"{behind} chunks that can be found by vector now have none of {found.model} yet")
            if behind and not force:
                raise SpaceNotReady(reasons[-1])
            await self._activate(tx, by.tenant, name, standing.space, space)
            await self._told(tx, by, "switch", name, space, metadata | ({"forced": reasons} if reasons else {}))
        return await self._space(by, name, space)

    async def _measured(
        self, by: Principal, name: str, found: SpaceStanding, recall: float, loss: float, reasons: MutableSequence[str]
    ) -> dict[str, Any]:
        """Recall, and nDCG@10 in the new space and the old; adds to `reasons` what is too low."""
        measured = await self.check_recall(by, name, space=found.id)
        if measured.recall < recall:
            reasons.append(
                f"a search finds {measured.recall:.3f} of the nearest {measured.k}, not {recall:g}: wait for the "
                "index, or demand less"
            )
        metadata: dict[str, Any] = {"recall": measured.recall}
        judged = await self.judgements.stated(by, name)
        async with self._db.tenant_tx(by.tenant) as tx:
            old = (await self._standing(tx, by.tenant, name)).space
        if judged and old is not None and old.dimensions is not None:
            new = Space(found.id, found.model, found.dimensions, found.indexed_at, found.index, found.lists)
            after, before = [await self.judgements.ndcg(by, space, judged) for space in (new, old)]
            metadata |= {"ndcg": after, "ndcg_before": before}
            if after < before - loss - 1e-9:
                reasons.append(
                    f"by {len(judged)} judged queries nDCG@10 is {after:.3f} and was {before:.3f}, more than {loss:g} "
                    "lower: keep the old model, or allow for more"
                )
        return metadata

    async def rollback(self, by: Principal, name: str) -> SpaceStanding:
        """Searches the space again that was searched before. It has been kept up to date, so nothing is waited for.

        Raises:
            SpaceNotFound: none is on standby (404). SpaceBusy (409).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            standing = await self._locked(tx, by.tenant, name)
            waiting = [one for one in await store.spaces(tx, by.tenant, name) if one.state is SpaceState.STANDBY]
            if not waiting:
                raise SpaceNotFound(f"{name} has no space on standby to go back to")
            await self._activate(tx, by.tenant, name, standing.space, waiting[0].id)
            await self._told(tx, by, "rollback", name, waiting[0].id, {})
        return await self._space(by, name, waiting[0].id)

    async def retire(self, by: Principal, name: str, space: int) -> SpaceStanding:
        """Gives a space up that is building or on standby: it gets no more vectors, and those it has are deleted.

        Raises:
            SpaceNotFound (404). SpaceNotReady: it is searched now (409). SpaceBusy (409).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            await self._locked(tx, by.tenant, name)
            found = {one.id: one for one in await store.spaces(tx, by.tenant, name)}.get(space)
            if found is None:
                raise SpaceNotFound(f"{name} has no space {space}")
            if found.state is SpaceState.ACTIVE:
                raise SpaceNotReady(f"space {space} is searched now: switch to another, or go back, first")
            await store.put_state(tx, by.tenant, name, space, SpaceState.RETIRED, self._clock.now())
            await store.forget_waiting(tx, by.tenant, space)
            await self._clear.enqueue(
                Fill(collection=name, space=space), tenant=by.tenant, key=f"clear:{name}:{space}"[:500], tx=tx
            )
            await self._told(tx, by, "retire", name, space, {})
        return await self._space(by, name, space)

    async def check_recall(
        self, by: Principal, name: str, *, space: int | None = None, queries: int = 50, k: int = 10
    ) -> Recall:
        """How much of the `k` nearest vectors a search finds, measured with vectors of the space (None: the one that is
        searched) as queries against looking at every vector.

        Raises:
            CollectionNotFound, SpaceNotFound (404). SpaceNotReady: it has no vectors yet (409).
            Invalid: `queries` is not from 1 to 1,000, or `k` not from 1 to 100 (422).
        """
        if not (1 <= queries <= 1_000 and 1 <= k <= 100):
            raise Invalid("queries is a number from 1 to 1,000, and k from 1 to 100")
        async with self._db.tenant_tx(by.tenant) as tx:
            standing = await self._standing(tx, by.tenant, name)
            wanted = space if space is not None else standing.space.id if standing.space else None
            one = {found.id: found for found in await store.spaces(tx, by.tenant, name)}.get(wanted or -1)
            if one is None:
                raise SpaceNotFound(f"{name} has no space {wanted or ''}".rstrip())
            if one.dimensions is None:
                raise SpaceNotReady(f"{one.model} has not answered yet")
            vectors = await store.sample(tx, by.tenant, one.id, queries)
        if not vectors:
            return Recall(one.id, 1.0, 0, k, exact=True)
        place = Space(one.id, one.model, one.dimensions, one.indexed_at, one.index, one.lists)
        found = total = 0
        indexed = False
        for vector in vectors:
            async with self._db.tenant_tx(by.tenant) as tx:
                best = await vectors_store.exact_leg(one.id, by.tenant, vector, k, None).found(tx)
            async with self._db.tenant_tx(by.tenant) as tx:
                near = await self._searcher.nearest(tx, by.tenant, place, vector, k, None)
            # By score and not by id: of several that are equally near, any will do.
            least = best[-1].score - 1e-6
            found += min(sum(hit.score >= least for hit in near.found), len(best))
            total += len(best)
            indexed |= near.by_index
        return Recall(one.id, found / total, len(vectors), k, exact=not indexed)

    # -- what the jobs do --------------------------------------------------------------------------------------------

    async def _fill(self, context: JobContext, input: Fill) -> None:
        """Has every chunk wait for a vector of the space that has none. Doing it again does nothing more."""
        after: UUID | None = None
        while True:
            async with context.transaction() as tx:
                if await store.hold_state(tx, context.tenant, input.collection, input.space) is not SpaceState.BUILDING:
                    return
                spaces = {one.id: one for one in await store.spaces(tx, context.tenant, input.collection)}
                ids = await store.backfill(
                    tx, context.tenant, input.collection, spaces[input.space], after, _AT_ONCE, self._clock.now()
                )
                because = f"fill:{ids[-1] if ids else ''}"
                await self._pipeline.enqueue(context.tenant, input.space, input.collection, because, tx=tx)
                if len(ids) < _AT_ONCE:
                    await store.filled(tx, context.tenant, input.collection, input.space, self._clock.now())
                    return
            after = ids[-1]

    async def _empty(self, context: JobContext, input: Fill) -> None:
        while True:
            async with context.transaction() as tx:
                if await store.hold_state(tx, context.tenant, input.collection, input.space) is not SpaceState.RETIRED:
                    return
                space = await vectors_store.space(tx, input.space)
                if space is None or space.dimensions is None:
                    return
                if await store.clear(tx, context.tenant, input.space, _AT_ONCE) < _AT_ONCE:
                    return

    # -- pieces ------------------------------------------------------------------------------------------------------

    async def _locked(self, tx: Tx, tenant: UUID, name: str) -> Standing:
        """The collection as it stands, with no writer under way until `tx` ends."""
        if not await store.lock_writes(tx, tenant, name):
            raise SpaceBusy(f"a transaction that writes to {name} stays open; end it, or try again later")
        return await self._standing(tx, tenant, name)

    async def _standing(self, tx: Tx, tenant: UUID, name: str) -> Standing:
        standing = await content_store.collection(tx, tenant, name)
        if standing is None:
            raise CollectionNotFound(f"there is no collection {name!r}")
        return standing

    async def _behind(self, tx: Tx, tenant: UUID, name: str, space: int, old: Space | None) -> int:
        if old is None or old.dimensions is None:
            return await store.missing(tx, tenant, name, space)
        return await store.behind(tx, tenant, space, old.id)

    async def _activate(self, tx: Tx, tenant: UUID, name: str, old: Space | None, space: int) -> None:
        now = self._clock.now()
        if old is not None:
            await store.put_state(tx, tenant, name, old.id, SpaceState.STANDBY, now)
        await store.put_state(tx, tenant, name, space, SpaceState.ACTIVE, now)
        await store.search_in(tx, tenant, name, space)

    async def _enqueue_fill(self, tx: Tx, tenant: UUID, name: str, space: int) -> None:
        key = f"fill:{name}:{space}"[:500]
        await self._backfill.enqueue(Fill(collection=name, space=space), tenant=tenant, key=key, tx=tx)

    async def _told(self, tx: Tx, by: Principal, what: str, name: str, space: int, metadata: dict[str, Any]) -> None:
        await self._audit.record(tx, by, f"content.space.{what}", f"content:{name}/space/{space}", metadata=metadata)
        payload = {"collection": name, "space": space, "what": what}
        await self._events.emit(tx, "content.space_changed", payload, tenant=by.tenant)
        _log.info("a collection's spaces change", collection=name, space=space, what=what)

    async def _space(self, by: Principal, name: str, space: int) -> SpaceStanding:
        async with self._db.tenant_tx(by.tenant) as tx:
            await self._standing(tx, by.tenant, name)
            for one in await store.spaces(tx, by.tenant, name):
                if one.id == space:
                    return await self._counted(tx, by.tenant, name, one)
        raise SpaceNotFound(f"{name} has no space {space}")

    async def _counted(self, tx: Tx, tenant: UUID, name: str, one: SpaceStanding) -> SpaceStanding:
        counts = await store.counts(tx, tenant, name, one.id)
        embedded = await vectors_store.count(tx, one.id, tenant, 2**31 - 1) if one.dimensions else 0
        return replace(
            one, embedded=embedded, chunks=counts["chunks"], pending=counts["pending"], parked=counts["parked"]
        )


def _embedder(standing: Standing, model: str) -> str:
    """The model's name, checked as that of a collection's embedder is."""
    try:
        found = Definition(**{**standing.definition.model_dump(), "embedder": model}).embedder
    except ValueError:
        found = None
    if found is None:
        raise Invalid("write the model as provider:model, such as openai:text-embedding-3-small")
    return found
