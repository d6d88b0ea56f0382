"""The job `retention`: removes what ended longer ago than it is to be kept, a tenant and a batch at a time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ..audit import Audit
from ..auth import Auth
from ..events import Events
from ..gateway.pruning import prune_calls
from ..jobs import Cancel, JobContext, Jobs
from ..jobs.schedules import NewSchedule, ScheduleNotFound, Schedules
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Tx
from ..kernel.principal import Principal
from ..kernel.settings import Settings
from ..workflows.pruning import prune_runs
from . import store
from .results import Results

SCHEDULE = "retention"
_NIGHTLY = "17 3 * * *"
_BATCH = 500
_removed = telemetry.counter("backstay_retention_removed_total", "What retention has removed.", ["what"])
Prune = Callable[[Tx, UUID, datetime, int], Awaitable[int]]


class Sweep(BaseModel):
    """The input of the `retention` job. What is kept for how long stands in the settings."""

    model_config = ConfigDict(extra="forbid")

    every_tenant: bool = Field(False, description="Has it done for every tenant; heard in the default tenant only.")


@dataclass(frozen=True, slots=True)
class Rule:
    """`what` is kept for `days` after its end; 0: for ever."""

    what: str
    days: int
    prune: Prune


class RetentionJob:
    """`app.retention`. Nothing unfinished is removed, and no entry of the audit."""

    def __init__(
        self,
        jobs: Jobs,
        clock: Clock,
        settings: Settings,
        audit: Audit,
        auth: Auth,
        events: Events,
        schedules: Schedules,
        results: Results,
    ) -> None:
        self._clock, self._audit, self._auth, self._events = clock, audit, auth, events
        self._schedules, self._results = schedules, results
        self._rules = [
            Rule("runs", settings.keep_runs_days, prune_runs),
            Rule("calls", settings.keep_calls_days, prune_calls),
            Rule("results", settings.keep_results_days, store.prune_results),
        ]
        self.job = jobs.handler("retention", self._run, Sweep, timeout=timedelta(hours=6))

    async def ensure_schedule(self, tenant: UUID) -> None:
        """Has every tenant swept each night, by a schedule of the default tenant. One that stands is left as it is:
        it may have been paused, or given another time."""
        by = Principal.system(tenant, "program")
        nightly = NewSchedule(job=self.job.name, input={"every_tenant": True}, cron=_NIGHTLY, overlap=False)
        try:
            await self._schedules.get(by, SCHEDULE)
        except ScheduleNotFound:
            await self._schedules.put(by, SCHEDULE, nightly)

    async def enqueue(self, *, tenant: UUID, tx: Tx | None = None) -> UUID:
        """Has the tenant swept now. Returns the job's id; one that waits already is enough."""
        return await self.job.enqueue(Sweep(), tenant=tenant, key="retention", tx=tx)

    async def _run(self, context: JobContext, sweep: Sweep) -> None:
        if sweep.every_tenant:
            await self._spread(context)
            return
        removed = {rule.what: await self._sweep(context, rule) for rule in self._rules if rule.days}
        async with context.transaction() as tx:
            await self._results.keep(tx, context, removed)
            if any(removed.values()):
                await self._events.emit(tx, "retention.swept", {"job_id": str(context.job)} | removed)

    async def _spread(self, context: JobContext) -> None:
        if context.tenant != (await self._auth.ensure_default_tenant()).id:
            raise Cancel("only the default tenant may have every tenant swept")
        for tenant in await self._auth.tenants():
            await self.enqueue(tenant=tenant.id)

    async def _sweep(self, context: JobContext, rule: Rule) -> int:
        """Removes what a rule covers; every batch commits on its own, with its audit entry."""
        before, total = self._clock.now() - timedelta(days=rule.days), 0
        while True:
            async with context.transaction() as tx:
                count = await rule.prune(tx, context.tenant, before, _BATCH)
                if count:
                    told = {"what": rule.what, "count": count, "before": before, "job_id": str(context.job)}
                    await self._audit.record(tx, context.by, "retention.remove", rule.what, metadata=told)
            _removed.labels(rule.what).inc(count)
            total += count
            if count < _BATCH:
                return total
