"""Decides about schedules: what they are, when they fire, and that each time fires once."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel, RootModel

from ...audit import Audit
from ...kernel import telemetry
from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.errors import BackstayError, ConfigurationError
from ...kernel.principal import Principal
from ..handlers import Job
from ..service import Jobs
from . import store
from .cron import Cron
from .models import NAME, Due, Fire, Missed, NewSchedule, ScheduleDetail, ScheduleNotFound, ScheduleView

KEEP_FIRES = timedelta(days=30)
LATE = timedelta(minutes=1)  # a firing this much behind its time was missed
COMING = 5
_TOPIC = "schedules"
_POLL = 15.0
_PRUNE_EVERY = timedelta(hours=1)
_BATCH = 100
_log = telemetry.log("jobs")
_fired = telemetry.counter("backstay_schedule_fires_total", "Firings of schedules.", ["outcome"])


class Schedules:
    """The schedules of all tenants. Every worker fires those that are due; the database sees to it that each time
    fires once."""

    def __init__(self, db: Database, clock: Clock, jobs: Jobs, audit: Audit) -> None:
        self._db, self._clock, self._jobs, self._audit = db, clock, jobs, audit
        self._declared: dict[str, NewSchedule] = {}
        self._pruned: datetime | None = None
        jobs.chore(self._keep)

    def declare(self, name: str, job: Job[Any], input: BaseModel, cron: str, *, timezone: str, **more: Any) -> None:
        """A schedule of the default tenant that the program brings with it; it is put when the App starts.

        Raises:
            ConfigurationError: the name is taken or cannot be one. CronInvalid.
        """
        if name in self._declared:
            raise ConfigurationError(f"the schedule {name} is declared twice; give one of them another name")
        if not re.match(NAME, name):
            raise ConfigurationError(f"{name!r} cannot be a schedule's name: letters, digits and `_.:-`, at most 100")
        Cron(cron, timezone)
        self._declared[name] = NewSchedule(
            job=job.name, input=input.model_dump(mode="json"), cron=cron, timezone=timezone, **more
        )

    async def put_declared(self, tenant: UUID) -> None:
        """Makes or changes what the program declares. What it no longer declares stays until it is deleted."""
        by = Principal.system(tenant, "program")
        for name, new in self._declared.items():
            await self.put(by, name, new)

    async def put(self, by: Principal, name: str, new: NewSchedule, *, tx: Tx | None = None) -> ScheduleView:
        """Makes the schedule `name`, or changes it.

        Raises:
            CronInvalid: the expression or the time zone. UnknownJob, JobInputInvalid.
        """
        cron, now = Cron(new.cron, new.timezone), self._clock.now()
        async with self._db.join(tx, by.tenant) as tx:
            accepted = await self._jobs.accept(tx, by.tenant, new.job, new.input)
            before = await store.find(tx, by.tenant, name)
            view = await store.put(tx, by.tenant, name, new, accepted, cron.after(now), now)
            if before is None or before.updated_at != view.updated_at:
                await self._record(tx, by, "schedule.put", name, {"job": new.job, "cron": new.cron})
            tx.notify(_TOPIC)
        return _shown(view)

    async def get(self, by: Principal, name: str, *, tx: Tx | None = None) -> ScheduleDetail:
        """One schedule and its next times.

        Raises:
            ScheduleNotFound
        """
        async with self._db.join(tx, by.tenant) as tx:
            view = await self._found(tx, by, name)
        coming = Cron(view.cron, view.timezone).coming(self._clock.now(), COMING)
        return ScheduleDetail(**_shown(view).model_dump(), coming=coming)

    async def fires(self, by: Principal, name: str, before: datetime | None = None, limit: int = 50) -> list[Fire]:
        """The firings of a schedule in the last 30 days, newest first, those before the time `before`.

        Raises:
            ScheduleNotFound
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            await self._found(tx, by, name)
            return await store.fires(tx, by.tenant, name, before, limit)

    async def list(self, by: Principal, after: str | None = None, limit: int = 50) -> list[ScheduleView]:
        """The tenant's schedules by name, after the name `after`."""
        async with self._db.tenant_tx(by.tenant) as tx:
            return [_shown(view) for view in await store.page(tx, by.tenant, after, limit)]

    async def pause(self, by: Principal, name: str, *, tx: Tx | None = None) -> ScheduleView:
        """Lets it fire no more. Raises ScheduleNotFound."""
        return await self._set_paused(by, name, True, tx)

    async def resume(self, by: Principal, name: str, *, tx: Tx | None = None) -> ScheduleView:
        """Lets it fire again, from its next time on: what lay in the pause was not missed. Raises ScheduleNotFound."""
        return await self._set_paused(by, name, False, tx)

    async def delete(self, by: Principal, name: str, *, tx: Tx | None = None) -> None:
        """Removes it. Jobs that it has enqueued stay. Raises ScheduleNotFound."""
        async with self._db.join(tx, by.tenant) as tx:
            if not await store.delete(tx, by.tenant, name):
                raise _missing(name)
            await self._record(tx, by, "schedule.delete", name, {})

    async def run_now(self, by: Principal, name: str, *, tx: Tx | None = None) -> UUID:
        """Enqueues its job now, besides its times. Returns the job's id. Raises ScheduleNotFound."""
        async with self._db.join(tx, by.tenant) as tx:
            view = await self._found(tx, by, name)
            job = await self._enqueue(tx, by.tenant, name, view)
            await self._record(tx, by, "schedule.run_now", name, {"job_id": str(job)})
            return job

    async def fire(self, now: datetime | None = None) -> int:
        """Fires what is due at `now`, of all tenants. Returns how many jobs it enqueued."""
        now, count = now or self._clock.now(), 0
        while True:
            async with self._db.system_tx(indexed=True) as tx:
                found = await store.due(tx, now, _BATCH)
                for due in found:
                    count += await self._fire_one(tx, due, now)
            if len(found) < _BATCH:
                return count

    async def _fire_one(self, tx: Tx, due: Due, now: datetime) -> bool:
        try:
            cron = Cron(due.cron, due.timezone)
        except BackstayError as error:
            # A newer release, or other time zone data, wrote what this process cannot read.
            _log.error("a schedule cannot be read and rests", schedule=due.name, detail=error.detail)
            _fired.labels("unreadable").inc()
            await store.advance(tx, due, None, None)
            return False
        at, following = max(due.next_at, cron.latest(now) or due.next_at), cron.after(now)
        missed = due.missed == Missed.SKIP and now - at > LATE
        fired = not missed and await self._record_fire(tx, due, at, now)
        await store.advance(tx, due, following, at if fired else None)
        _fired.labels("fired" if fired else "missed" if missed else "repeated").inc()
        return fired

    async def _record_fire(self, tx: Tx, due: Due, at: datetime, now: datetime) -> bool:
        if not await store.take_fire(tx, due, at, now):
            return False
        await store.note_job(tx, due, at, await self._enqueue(tx, due.tenant_id, due.name, due))
        return True

    async def _enqueue(self, tx: Tx, tenant: UUID, name: str, what: Due | ScheduleView) -> UUID:
        key = None if what.overlap else f"schedule:{name}"
        [job] = await self._jobs.enqueue_many(
            what.job,
            [(key, RootModel[dict[str, Any]](what.input))],
            tenant=tenant,
            priority=what.priority,
            queue=what.queue,
            remote=what.remote,
            tx=tx,
        )
        return job

    async def _keep(self) -> None:
        """Fires what is due, at its very time, for ever."""
        with self._db.notifier.subscribe(_TOPIC) as changed:
            while True:
                wait = _POLL
                try:
                    await self.fire()
                    await self._prune()
                    async with self._db.system_tx(indexed=True) as tx:
                        at = await store.next_due(tx)
                    if at is not None:
                        wait = min(_POLL, max(0.001, (at - self._clock.now()).total_seconds()))
                except Exception as error:
                    _log.error("schedules could not be fired; trying again", exc_info=error)
                    wait = 1.0
                await changed.wait(wait)

    async def _prune(self) -> None:
        now = self._clock.now()
        if self._pruned is not None and now - self._pruned < _PRUNE_EVERY:
            return
        async with self._db.system_tx(indexed=True) as tx:
            await store.prune(tx, now - KEEP_FIRES, 10_000)
        self._pruned = now

    async def _set_paused(self, by: Principal, name: str, paused: bool, tx: Tx | None) -> ScheduleView:
        now = self._clock.now()
        async with self._db.join(tx, by.tenant) as tx:
            view = await self._found(tx, by, name)
            if view.paused != paused:
                following = Cron(view.cron, view.timezone).after(now)
                await store.pause(tx, by.tenant, name, paused=paused, next_at=following, now=now)
                await self._record(tx, by, "schedule.pause" if paused else "schedule.resume", name, {})
                tx.notify(_TOPIC)
            return _shown(await self._found(tx, by, name))

    async def _found(self, tx: Tx, by: Principal, name: str) -> ScheduleView:
        view = await store.find(tx, by.tenant, name)
        if view is None:
            raise _missing(name)
        return view

    async def _record(self, tx: Tx, by: Principal, action: str, name: str, metadata: Mapping[str, str]) -> None:
        await self._audit.record(tx, by, action, f"schedule:{name}", metadata=metadata)


def _missing(name: str) -> ScheduleNotFound:
    return ScheduleNotFound(f"there is no schedule {name!r}")


def _shown(view: ScheduleView) -> ScheduleView:
    return view.model_copy(update={"next_at": None}) if view.paused else view
