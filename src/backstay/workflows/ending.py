"""The end of a run: everything that has to know of it does, in one transaction."""

from collections.abc import Awaitable, Callable

import orjson

from ..audit import Audit
from ..events import Events
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.principal import Principal
from . import mending_store, store, waits_store
from .approvals import Approvals
from .models import Ended, RunEnd, RunFacts, RunState, StepState, Superseded, Taken
from .wakes import Wakes

FINISHED = "runs"  # the topic that tells of ended runs
STOP = "runs.stop"  # … and of those that are to stop
_finished = telemetry.counter("backstay_runs_finished_total", "Runs by how they ended.", ["workflow", "state"])
_log = telemetry.log("workflows")


class Endings:
    """Ends runs."""

    def __init__(
        self, db: Database, clock: Clock, wakes: Wakes, approvals: Approvals, audit: Audit, events: Events
    ) -> None:
        self._db, self._clock, self._wakes, self._approvals = db, clock, wakes, approvals
        self._audit, self._events = audit, events
        self.watchers: list[Callable[[Tx, RunEnd], Awaitable[None]]] = []

    async def end(
        self,
        taken: Taken,
        state: RunState,
        *,
        output: str | None = None,
        error: str | None = None,
        failed_step: int | None = None,
    ) -> None:
        """Ends a run that this worker has taken.

        Raises:
            Superseded: another worker has it by now.
        """
        async with self._db.tenant_tx(taken.tenant_id) as tx:
            if not await store.finish(tx, taken, state, output, error, failed_step, self._clock.now()):
                raise Superseded
            await self.tell(tx, taken.by, taken, state, output=output, error=error)

    async def undo(self, taken: Taken, state: RunState, error: str, failed_step: int | None = None) -> None:
        """The run is to end so, and undoes what it did first.

        Raises:
            Superseded: another worker has it by now.
        """
        about = {"workflow": taken.workflow, "version": taken.version}
        async with self._db.tenant_tx(taken.tenant_id) as tx:
            if not await mending_store.begin_undoing(tx, taken, state, error, failed_step):
                raise Superseded
            await self._audit.record(
                tx, taken.by, "run.undoing", f"run:{taken.id}", run=taken.id, metadata=about, payload={"error": error}
            )
            await self._events.emit(
                tx, "run.undoing", {"run": str(taken.id), **about, "error": error}, tenant=taken.tenant_id
            )

    async def tell(
        self,
        tx: Tx,
        by: Principal,
        run: RunFacts,
        state: RunState,
        *,
        output: str | None = None,
        error: str | None = None,
    ) -> None:
        """The run's row says that it has ended. Its requests are withdrawn, its children are to stop, its parent goes
        on, and the end has its audit entry and event."""
        tenant, about = run.tenant_id, {"workflow": run.workflow, "version": run.version}
        reason = {} if error is None else {"error": error}
        await self._approvals.withdraw(tx, tenant, run.id)
        if state != RunState.COMPLETED:
            await self._stop_children(tx, run, state)
        await self._audit.record(
            tx,
            by,
            f"run.{state}",
            f"run:{run.id}",
            outcome="ok" if state == RunState.COMPLETED else "error",
            run=run.id,
            metadata=about,
            payload=reason or None,
        )
        await self._events.emit(tx, f"run.{state}", {"run": str(run.id), **about, **reason}, tenant=tenant)
        for told in self.watchers:
            await told(tx, RunEnd(tenant, run.id, run.workflow, state, error))
        if run.parent_id is not None and run.parent_seq is not None:
            await self._wakes.end(tx, tenant, run.parent_id, run.parent_seq, _for_parent(run, state, output, error))
        tx.notify(FINISHED, str(run.id))
        if tx.owned:
            tx.after_commit(lambda: _count(run, state, error))
        else:
            _count(run, state, error)

    async def _stop_children(self, tx: Tx, run: RunFacts, state: RunState) -> None:
        """Each ends in a job of its own, and tells its own children then."""
        reason = f"the run {run.id} that waits for it is {state}"
        for child in await waits_store.stop_children(tx, run.tenant_id, run.id, reason):
            tx.notify(STOP, str(child))
            await self._wakes.wake(tx, run.tenant_id, child)


def _count(run: RunFacts, state: RunState, error: str | None) -> None:
    _finished.labels(run.workflow, state).inc()
    log = _log.info if state in (RunState.COMPLETED, RunState.CANCELLED) else _log.error
    log("run ended", run=str(run.id), state=state, workflow=run.workflow, reason=error)


def _for_parent(run: RunFacts, state: RunState, output: str | None, error: str | None) -> Ended:
    if state == RunState.COMPLETED:
        return Ended(StepState.COMPLETED, output)
    ended = orjson.dumps({"run": run.id, "state": state}).decode()
    return Ended(StepState.FAILED, ended, error or "no reason recorded")
