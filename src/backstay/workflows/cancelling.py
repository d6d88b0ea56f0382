"""Runs that are to stop: because somebody asks, or because their deadline has passed."""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import UUID

from ..audit import Audit
from ..events import Events
from ..jobs import Jobs
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.principal import Principal
from . import mending_store, waits_store
from .ending import STOP, Endings
from .models import RunEnded, RunNotFound, RunState
from .run import Run
from .wakes import Wakes

GRACE = timedelta(seconds=10)
_LOOK = 1.0  # seconds; a deadline, and a lost wake-up, are noticed so late
_log = telemetry.log("workflows")


class Cancellations:
    """Cancels runs, and stops those that execute in this process."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        jobs: Jobs,
        wakes: Wakes,
        endings: Endings,
        registered: Container[tuple[str, str]],
        audit: Audit,
        events: Events,
    ) -> None:
        self._db, self._clock, self._wakes, self._endings = db, clock, wakes, endings
        self._registered, self._audit, self._events = registered, audit, events
        self._executing: dict[UUID, Run] = {}
        self.grace = GRACE
        jobs.chore(self._keep)

    async def cancel(self, by: Principal, id: UUID, *, reason: str | None = None, tx: Tx | None = None) -> None:
        """As `Workflows.cancel`."""
        why = f"cancelled by {by.name}" + (f": {reason}" if reason else "")
        async with self._db.join(tx, by.tenant) as tx:
            found = await waits_store.lock(tx, by.tenant, id)
            if found is None:
                raise RunNotFound(f"there is no run {id}")
            state, code = found
            if state.finished:
                raise RunEnded(id, state)
            # Where its code is missing, so are those who keep something for it and have to hear of its end.
            missing = code not in self._registered
            if state == RunState.RUNNING or missing or await mending_store.has_something_to_undo(tx, by.tenant, id):
                await self._ask(tx, by, id, why)
            else:
                run = await waits_store.cancel(tx, by.tenant, id, why, self._clock.now())
                await self._endings.tell(tx, by, run, RunState.CANCELLED, error=why)
            # The worker that stops, dies or is about to wait leaves the run to this job; and no timer is left behind.
            await self._wakes.wake(tx, by.tenant, id)

    async def _ask(self, tx: Tx, by: Principal, id: UUID, why: str) -> None:
        if await waits_store.ask_to_stop(tx, by.tenant, id, why):
            await self._audit.record(tx, by, "run.cancel_requested", f"run:{id}", run=id, payload={"reason": why})
            await self._events.emit(tx, "run.cancel_requested", {"run": str(id)}, tenant=by.tenant)
            tx.notify(STOP, str(id))

    @contextmanager
    def watching(self, run: Run) -> Iterator[None]:
        """Within it, the run is stopped when it is to stop."""
        self._executing[run.id] = run
        try:
            yield
        finally:
            if self._executing.get(run.id) is run:
                del self._executing[run.id]
            run.spare()

    async def _keep(self) -> None:
        with self._db.notifier.subscribe(STOP) as asked:
            while True:
                await asked.wait(_LOOK)
                try:
                    await self._look()
                except Exception as error:
                    _log.error("runs that are to stop not read; they are read again soon", exc_info=error)

    async def _look(self) -> None:
        going_on = {id: run for id, run in self._executing.items() if not run.cancelled}
        if not going_on:
            return
        async with self._db.system_tx() as tx:
            reasons = await waits_store.to_stop(tx, [(run.tenant, id) for id, run in going_on.items()])
        now = self._clock.now()
        for id, run in going_on.items():
            if reason := reasons.get(id) or overdue(run.deadline, now):
                run.stop(reason, self.grace)


def overdue(deadline: datetime | None, now: datetime) -> str | None:
    """Why a run with this deadline is to stop, if it is."""
    return f"deadline: it was to end by {deadline.isoformat()}" if deadline and deadline <= now else None
