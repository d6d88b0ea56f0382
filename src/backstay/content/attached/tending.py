"""The background half of attached tables: takes over what triggers have noted, and looks at rows that stood before.

A worker looks every second for tenants with something to do and enqueues a job for each; a key keeps it to one job at a
time for a tenant and a table, so that what is read later is also written later. A job takes a few steps, each one short
transaction that commits with what it has done, and goes to the end of the queue.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel

from ...events import Events
from ...jobs import Discard, JobContext, Jobs, Retry
from ...kernel import telemetry
from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.errors import BackstayError
from .. import store as content_store
from ..models import Standing
from ..service import Content
from ..statistics import FIRST_PIVOT
from . import store, table_store
from .inspection import trouble
from .models import AttachedState, Attachment, Fill, FillState, Key, Place, document_id

TEND = "content.tend"
_STEPS_A_TURN = 8
_KEYS, _ROWS = 1_000, 200  # of one transaction, of one statement
_DUE = 1_000
_ROUND = 1.0  # seconds
_INSPECT_EVERY = 10  # rounds
_RETRY = Retry(max_attempts=1_000_000, cap=timedelta(minutes=5))  # what fails here is ours to mend
_NOBODY = UUID(int=0)
_log = telemetry.log("content")
_waiting = telemetry.gauge(
    "backstay_content_attached_changes_waiting",
    "Statements on attached tables whose rows are not taken over yet.",
    mode="livemostrecent",
)
_lag = telemetry.gauge(
    "backstay_content_attached_lag_seconds", "How long the oldest of them has waited.", mode="livemostrecent"
)


class Tend(BaseModel):
    """Which attached table to tend, for the job's tenant."""

    attached: int


class Tending:
    """Takes rows over. Doing any of it again does nothing more."""

    def __init__(self, db: Database, clock: Clock, jobs: Jobs, events: Events, content: Content) -> None:
        self._db, self._clock, self._jobs, self._events, self._content = db, clock, jobs, events, content
        self._job = jobs.handler(TEND, self._run, Tend, queue="content", retry=_RETRY)
        jobs.chore(self._keep)

    async def spread(self) -> int:
        """Enqueues a job for each tenant and table with something to do. Returns how many."""
        async with self._db.system_tx() as tx:
            for id, owner in await store.take_marks(tx):
                await store.fill_all(tx, id, owner, self._clock.now())
            await store.drop_purged(tx)
            found = await store.due(tx, _DUE)
        for tenant, id in found:
            await self._job.enqueue(Tend(attached=id), tenant=tenant, key=str(id))
        return len(found)

    async def inspect(self) -> None:
        """Finds tables that cannot be followed any more, and those that can be again: they are looked at as a whole."""
        async with self._db.system_tx() as tx:
            ids = await store.standing(tx)
        for id in ids:
            async with self._db.system_tx() as tx:
                one, found = await store.found_by_id(tx, id), await store.condition(tx, id)
            if one is None:
                continue
            reason = trouble(one, found) or (found.place and await self._unreadable(one, found.place))
            if reason:
                await self._break_off(one, reason)
            elif one.state is AttachedState.BROKEN:
                async with self._db.system_tx() as tx:
                    if await store.put_state(tx, one.id, AttachedState.ATTACHED):
                        await store.fill_all(tx, one.id, one.definition.owner, self._clock.now())
                        await self._told(tx, one, "mended")

    async def measure(self) -> None:
        """Sets the metrics of what waits."""
        async with self._db.system_tx() as tx:
            waiting, lag = await store.backlog(tx, self._clock.now())
        _waiting.set(waiting)
        _lag.set(max(lag, 0))

    async def _keep(self) -> None:
        rounds = 0
        while True:
            try:
                if rounds % _INSPECT_EVERY == 0:
                    await self.inspect()
                    await self.measure()
                await self.spread()
            except (BackstayError, OSError, LookupError) as error:
                _log.error("attached tables were not looked at; trying again later", exc_info=error)
            rounds += 1
            await asyncio.sleep(_ROUND)

    # -- the job -----------------------------------------------------------------------------------------------------

    async def _run(self, context: JobContext, input: Tend) -> None:
        for _ in range(_STEPS_A_TURN):
            if not await self._step(context, input.attached):
                return
        async with context.transaction() as tx:
            await self._job.enqueue(input, tenant=context.tenant, key=str(input.attached), tx=tx)

    async def _step(self, context: JobContext, id: int) -> bool:
        """Whether there may be more to do."""
        async with self._db.system_tx() as tx:
            one = await store.found_by_id(tx, id)
            if one is None or one.state not in (AttachedState.ATTACHED, AttachedState.PURGING):
                return False
            found = await store.condition(tx, id)
        if one.state is AttachedState.PURGING:
            return await self._purge(context, one)
        reason = trouble(one, found)
        if reason is None and found.place is not None:
            try:
                async with context.transaction() as tx:
                    return await self._follow(tx, context.tenant, one, found.place)
            except table_store.TableChanged as changed:
                reason = f"{one.definition.table} cannot be read as it was attached: {changed}"
        await self._break_off(one, str(reason))
        return False

    async def _follow(self, tx: Tx, tenant: UUID, one: Attachment, place: Place) -> bool:
        standing = await self._collection(tx, tenant, one)
        fill = await store.hold_fill(tx, tenant, one.id)
        if fill is None:
            await store.begin_following(tx, tenant, one.id, self._clock.now())
            fill = Fill(FillState.CURRENT, None)
        if keys := await store.take_changes(tx, tenant, one.id, _KEYS):
            await self._take_over(tx, tenant, one, place, standing, keys)
            return True
        if fill.state is FillState.FILLING:
            await self._fill(tx, tenant, one, place, standing, fill)
        elif fill.state is FillState.PRUNING:
            await self._prune(tx, tenant, one, place, standing, fill)
        return fill.state is not FillState.CURRENT

    async def _take_over(
        self, tx: Tx, tenant: UUID, one: Attachment, place: Place, standing: Standing, keys: Sequence[Key]
    ) -> None:
        """Makes the documents of these keys what the rows are now. A row that is gone, or whose text cannot be
        computed, has none."""
        for first in range(0, len(keys), _ROWS):
            part = keys[first : first + _ROWS]
            rows, refused = await table_store.rows(tx, tenant, one, place, part)
            documents = {document_id(row.key): row for row in rows}
            await self._content.mirror(
                tx, tenant, standing, [(id, row.body, row.text) for id, row in documents.items()]
            )
            gone = [id for id in map(document_id, part) if id not in documents]
            await self._content.unmirror(tx, tenant, standing, gone)
            if refused:
                key, reason = next(iter(refused.items()))
                await store.refuse(tx, tenant, one.id, len(refused), f"{key}: {reason}")
                _log.warning("rows of an attached table have no text", table=one.name, rows=len(refused), error=reason)

    async def _fill(self, tx: Tx, tenant: UUID, one: Attachment, place: Place, standing: Standing, fill: Fill) -> None:
        keys = await table_store.keys_after(tx, tenant, one, place, fill.after, _ROWS)
        await self._take_over(tx, tenant, one, place, standing, keys)
        done = len(keys) < _ROWS
        then = Fill(FillState.PRUNING, None) if done else replace(fill, after=keys[-1])
        await store.advance(tx, tenant, one.id, then, len(keys), self._clock.now())

    async def _prune(self, tx: Tx, tenant: UUID, one: Attachment, place: Place, standing: Standing, fill: Fill) -> None:
        shadows = await store.shadows(tx, tenant, one.name, fill.after, _ROWS)
        names = one.definition.key
        keys = [[shadow.body[name] for name in names] for shadow in shadows if all(n in shadow.body for n in names)]
        there = {document_id(key) for key in await table_store.keys_of(tx, tenant, one, place, keys)}
        await self._content.unmirror(tx, tenant, standing, [one.id for one in shadows if one.id not in there])
        done = len(shadows) < _ROWS
        then = Fill(FillState.CURRENT, None) if done else replace(fill, after=shadows[-1].id)
        await store.advance(tx, tenant, one.id, then, 0, self._clock.now())

    async def _purge(self, context: JobContext, one: Attachment) -> bool:
        async with context.transaction() as tx:
            await content_store.share_writes(tx, context.tenant, one.name)
            standing = await content_store.collection(tx, context.tenant, one.name)
            await store.hold_fill(tx, context.tenant, one.id)
            shadows = await store.shadows(tx, context.tenant, one.name, None, _ROWS) if standing else []
            if standing and shadows:
                await self._content.unmirror(tx, context.tenant, standing, [shadow.id for shadow in shadows])
                return True
            if standing:
                await store.bind(tx, context.tenant, standing, None)
            await store.end_purge(tx, context.tenant, one.id)
        return False

    # -- pieces ------------------------------------------------------------------------------------------------------

    async def _collection(self, tx: Tx, tenant: UUID, one: Attachment) -> Standing:
        """The tenant's collection, made with its first row."""
        await content_store.share_writes(tx, tenant, one.name)
        standing = await content_store.collection(tx, tenant, one.name)
        if standing is None:
            definition, now = one.definition.of_collection, self._clock.now()
            space = await content_store.take_space(tx, one.name, definition, now)
            await content_store.declare(
                tx, tenant, one.name, definition, space=space, by_code=False, pivot=FIRST_PIVOT, now=now
            )
            standing = await content_store.collection(tx, tenant, one.name)
        if standing is None:
            raise Discard(f"the collection {one.name} was deleted meanwhile")
        if standing.attached_id is None:
            if await content_store.documents(tx, tenant, one.name, None, 1):
                raise Discard(f"this tenant has documents of its own in {one.name}; it has none of the table's rows")
            await store.bind(tx, tenant, standing, one.id)
        return standing

    async def _unreadable(self, one: Attachment, place: Place) -> str | None:
        """Why rows cannot be read now, found out without reading any."""
        tenant = one.definition.owner or _NOBODY
        try:
            async with self._db.tenant_tx(tenant) as tx:
                await table_store.rows(tx, tenant, one, place, [])
        except table_store.TableChanged as changed:
            return f"{one.definition.table} cannot be read as it was attached: {changed}"
        return None

    async def _break_off(self, one: Attachment, reason: str) -> None:
        async with self._db.system_tx() as tx:
            if await store.break_off(tx, one.id, reason):
                await self._told(tx, one, "broken")
        _log.error("an attached table is not followed", table=one.name, reason=reason)

    async def _told(self, tx: Tx, one: Attachment, what: str) -> None:
        payload = {"name": one.name, "table": one.definition.table, "what": what}
        await self._events.emit(tx, "content.attached_changed", payload, tenant=one.attached_by)
