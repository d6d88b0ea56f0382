"""Second chances: a run that has failed or diverged is retried, moved to another version, or forked from a step."""

from collections.abc import Callable, Collection
from typing import Any
from uuid import UUID

from ..audit import Audit
from ..events import Events
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from . import mending_store as store
from .models import Mendable, RunNotFound, RunNotMendable, RunState, StepOutOfRange, UnknownVersion
from .wakes import Wakes

_PARKED = (RunState.FAILED, RunState.NONDETERMINISTIC)


class Mending:
    """Each is one transaction with its audit entry and its event. `versions`: those registered of a workflow."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        wakes: Wakes,
        audit: Audit,
        events: Events,
        versions: Callable[[str], Collection[str]],
    ) -> None:
        self._db, self._clock, self._wakes, self._audit, self._events = db, clock, wakes, audit, events
        self._versions = versions

    async def retry(self, by: Principal, id: UUID, *, tx: Tx | None = None) -> None:
        """Has a failed or diverged run go on from where it stood, for when its code or what it calls is mended.

        Finished steps keep their outputs. The step that failed it gets all its attempts again.

        Raises:
            RunNotFound: the tenant has none of that id.
            RunNotMendable: it is in another state, or has undone what it did (409).
        """
        async with self._db.join(tx, by.tenant) as tx:
            run = await self._parked(tx, by, id)
            await self._revive(tx, by, run, run.version)
            await self._tell(tx, by, "run.retried", id, {"workflow": run.workflow, "version": run.version})

    async def move(self, by: Principal, id: UUID, version: str, *, tx: Tx | None = None) -> None:
        """Has an unfinished, failed or diverged run go on in another version of its workflow, which must take the same
        way through the steps that are recorded. A worker that executes it at the moment loses it.

        Raises:
            RunNotFound: the tenant has none of that id.
            RunNotMendable: it is completed or cancelled, or has undone what it did (409).
            UnknownVersion: the workflow is registered here, and not in this version.
        """
        async with self._db.join(tx, by.tenant) as tx:
            run = await self._found(tx, by, id)
            self._known(run.workflow, version)
            if run.state in _PARKED:
                await self._revive(tx, by, await self._parked(tx, by, id), version)
            elif run.state.finished:
                raise RunNotMendable(f"run {id} is {run.state}: only one that has not ended well can be moved")
            else:
                await store.move(tx, by.tenant, id, version)
                if run.state != RunState.WAITING:
                    await self._wakes.wake(tx, by.tenant, id)
            about = {"workflow": run.workflow, "version": version, "from_version": run.version}
            await self._tell(tx, by, "run.moved", id, about)

    async def fork(
        self, by: Principal, id: UUID, step: int, *, version: str | None = None, tx: Tx | None = None
    ) -> UUID:
        """Starts a new run that takes over the finished steps below `step` and goes on from there. Returns its id.

        It has the input of the first and acts for whoever started that; the first stays as it is. Its steps have
        idempotency keys of their own.

        Raises:
            RunNotFound: the tenant has none of that id.
            StepOutOfRange: the run has not come so far.
            UnknownVersion: the workflow is registered here, and not in this version.
        """
        async with self._db.join(tx, by.tenant) as tx:
            run = await self._found(tx, by, id)
            self._known(run.workflow, version or run.version)
            if not 0 <= step <= run.steps:
                raise StepOutOfRange(f"run {id} has recorded {run.steps} steps: fork it from step 0 to {run.steps}")
            fork = new_id()
            await store.fork(tx, by.tenant, id, fork, step, version or run.version, self._clock.now())
            await self._wakes.wake(tx, by.tenant, fork)
            about = {"workflow": run.workflow, "version": version or run.version, "from": str(id), "step": step}
            await self._tell(tx, by, "run.forked", fork, about)
            return fork

    async def _found(self, tx: Tx, by: Principal, id: UUID) -> Mendable:
        run = await store.lock(tx, by.tenant, id)
        if run is None:
            raise RunNotFound(f"there is no run {id}")
        return run

    async def _parked(self, tx: Tx, by: Principal, id: UUID) -> Mendable:
        run = await self._found(tx, by, id)
        if run.state not in _PARKED:
            raise RunNotMendable(f"run {id} is {run.state}: only a failed or nondeterministic one can be retried")
        if run.undone and run.state == RunState.FAILED:
            raise RunNotMendable(f"run {id} has undone what it did: fork it from step 0 to do it anew")
        if run.open_wait is not None:
            raise RunNotMendable(
                f"run {id} ended while its step {run.open_wait} waited, which nothing ends any more: fork it from there"
            )
        return run

    async def _revive(self, tx: Tx, by: Principal, run: Mendable, version: str) -> None:
        if run.failed_step is not None:
            await store.reset_failed(tx, by.tenant, run.id, run.failed_step)
        await store.revive(tx, by.tenant, run.id, version)
        await self._wakes.wake(tx, by.tenant, run.id)

    def _known(self, workflow: str, version: str) -> None:
        registered = self._versions(workflow)
        if registered and version not in registered:
            raise UnknownVersion(
                f"workflow {workflow} is not registered in version {version!r}; registered here: "
                f"{', '.join(sorted(registered))}"
            )

    async def _tell(self, tx: Tx, by: Principal, what: str, id: UUID, about: dict[str, Any]) -> None:
        await self._audit.record(tx, by, what, f"run:{id}", run=id, metadata=about)
        await self._events.emit(tx, what, {"run": str(id), **about}, tenant=by.tenant)
