"""Decides about runs: registration, start, resumption, the end. Each decision is one transaction."""

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, overload
from uuid import UUID

import orjson
from pydantic import TypeAdapter, ValidationError

from ..audit import Audit
from ..events import Events
from ..gateway import Budgets
from ..jobs import Jobs, Retry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import ConfigurationError, FieldError, TimedOut
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from . import encoding, store
from .acting import stored
from .approvals import Approvals
from .around import Around
from .cancelling import Cancellations
from .ending import FINISHED, Endings
from .mending import Mending
from .models import (
    RunDetail,
    RunEnd,
    RunFailed,
    RunInputInvalid,
    RunNotFound,
    RunState,
    RunView,
    UnknownWorkflow,
)
from .purses import Purses, within
from .recorder import Recorder
from .resuming import Resumption
from .run import Run
from .signals import Signals, SignalView
from .wakes import Wakes
from .workflow import I, O, RunHandle, Workflow

_FINISHED_POLL = 1.0


class Workflows:
    """The registered workflows of a process, and their runs."""

    def __init__(
        self, db: Database, clock: Clock, jobs: Jobs, audit: Audit, events: Events, budgets: Budgets | None = None
    ) -> None:
        self._purses = Purses(budgets)
        self._db, self._clock, self._jobs, self._audit, self._events = db, clock, jobs, audit, events
        self._registered: dict[tuple[str, str], Workflow[Any, Any]] = {}
        self._newest: dict[str, Workflow[Any, Any]] = {}
        self._wakes = Wakes(jobs, clock)
        self.mending = Mending(db, clock, self._wakes, audit, events, self.versions)
        self.approvals = Approvals(db, clock, self._wakes, audit, events)
        self.signals = Signals(db, clock, self._wakes, audit, events)
        self._endings = Endings(db, clock, self._wakes, self.approvals, audit, events)
        self.cancellations = Cancellations(db, clock, jobs, self._wakes, self._endings, self._registered, audit, events)
        self._around = Around(self.approvals, self.signals, self.start_with, events)
        self.at_end(self._purses.close)
        Resumption(
            db,
            clock,
            jobs,
            self._registered,
            self._around,
            Recorder(db),
            self._wakes,
            self._endings,
            self.cancellations,
        )

    @property
    def names(self) -> list[str]:
        """Registered workflows."""
        return sorted(self._newest)

    def versions(self, name: str) -> list[str]:
        """The versions of a workflow that are registered here."""
        return [version for known, version in self._registered if known == name]

    @overload
    def workflow(self, function: Callable[[Run, I], Awaitable[O]], /) -> Workflow[I, O]: ...
    @overload
    def workflow(
        self,
        /,
        *,
        name: str | None = None,
        version: str = "1",
        retry: Retry | None = None,
        signals: Mapping[str, Any] | None = None,
        deadline: timedelta | None = None,
    ) -> Callable[[Callable[[Run, I], Awaitable[O]]], Workflow[I, O]]: ...
    def workflow(
        self,
        function: Callable[[Run, Any], Awaitable[Any]] | None = None,
        /,
        *,
        name: str | None = None,
        version: str = "1",
        retry: Retry | None = None,
        signals: Mapping[str, Any] | None = None,
        deadline: timedelta | None = None,
    ) -> Any:
        """Registers `async def f(run: Run, input: Model) -> Output`, as `@workflow` or `@workflow(version="2")`.

        A run stays on the version it began with; new runs take the one registered last. `retry` is for each step, and
        for the code between the steps. `signals` are the types of the payloads that it takes, by name; then others
        are refused when they are sent. A run that has not ended `deadline` after its start is cancelled.

        Raises:
            ConfigurationError: name and version are taken, or the function is not of this form.
        """

        def register(function: Callable[[Run, Any], Awaitable[Any]]) -> Workflow[Any, Any]:
            made = Workflow(
                self,
                function,
                name or encoding.name_of(function).rpartition(".")[2],
                version,
                retry or Retry(),
                deadline,
            )
            if (made.name, version) in self._registered:
                raise ConfigurationError(
                    f"the workflow {made.name} is registered twice in version {version}; name or version must differ"
                )
            self._registered[made.name, version] = self._newest[made.name] = made
            self.signals.declare(made.name, version, signals or {})
            return made

        return register if function is None else register(function)

    def at_end(self, told: Callable[[Tx, RunEnd], Awaitable[None]]) -> None:
        """Has `told` called whenever a run ends, in the transaction that ends it: what is kept for runs ends with them.

        When it fails, the run's end is tried again.
        """
        self._endings.watchers.append(told)

    async def start_with(
        self,
        workflow: Workflow[I, O],
        input: I,
        *,
        key: str | UUID | None = None,
        tenant: UUID | None = None,
        by: Principal | None = None,
        deadline: datetime | timedelta | None = None,
        budget: str | None = None,
        parent: tuple[UUID, int] | None = None,
        tx: Tx | None = None,
    ) -> RunHandle:
        """As `Workflow.start`. `parent` is the run, and the number of its step, that waits for this one."""
        whose = tenant or (by.tenant if by else None) or (tx.tenant if tx else None)
        if whose is None:
            raise ConfigurationError("say which tenant the run is for: hand in `tenant`, `by` or a tenant's `tx`")
        by = by or Principal.system(whose, f"workflow:{workflow.name}")
        text = encoding.encode(TypeAdapter(type(input)), input, "the caller")
        id, now, known_as = new_id(), self._clock.now(), None if key is None else str(key)
        async with self._db.join(tx, whose) as tx:
            if not await store.add_run(
                tx,
                tenant=whose,
                id=id,
                workflow=workflow.name,
                version=workflow.version,
                key=known_as,
                principal=stored(by if budget is None else within(by, id)),
                input=text,
                parent=parent,
                deadline=workflow.deadline_of(deadline, now),
                now=now,
            ):
                return RunHandle(await store.run_with_key(tx, whose, workflow.name, str(known_as)), by, self)
            if budget is not None:
                await self._purses.open(tx, by, id, budget)
            await self._wakes.wake(tx, whose, id)
            about = {"workflow": workflow.name, "version": workflow.version}
            await self._audit.record(tx, by, "run.started", f"run:{id}", run=id, metadata=about)
            await self._events.emit(tx, "run.started", {"run": str(id), **about}, tenant=whose)
        return RunHandle(id, by, self)

    async def start_raw(
        self,
        name: str,
        input: Mapping[str, Any],
        *,
        by: Principal,
        key: str | None = None,
        deadline: datetime | timedelta | None = None,
        budget: str | None = None,
        tx: Tx | None = None,
    ) -> RunDetail:
        """Starts a run of the newest version with input that comes from outside.

        Raises:
            UnknownWorkflow: none of that name is registered here.
            RunInputInvalid: the input does not fit its model.
        """
        workflow = self._newest.get(name)
        if workflow is None:
            raise UnknownWorkflow(f"no workflow is called {name!r}; registered here: {', '.join(self.names) or 'none'}")
        try:
            model = workflow.input.validate_json(orjson.dumps(input))
        except ValidationError as error:
            raise _wrong_input(name, error) from None
        async with self._db.join(tx, by.tenant) as tx:
            handle = await self.start_with(workflow, model, key=key, by=by, deadline=deadline, budget=budget, tx=tx)
            return await self.get(by, handle.id, tx=tx)

    async def get(self, by: Principal, id: UUID, *, tx: Tx | None = None) -> RunDetail:
        """One run with its steps.

        Raises:
            RunNotFound: the tenant has none of that id.
        """
        async with self._db.join(tx, by.tenant) as tx:
            run = await store.find(tx, by.tenant, id)
            if run is None:
                raise RunNotFound(f"there is no run {id}")
            run.steps = await store.steps(tx, by.tenant, id)
            return run

    async def cancel(self, by: Principal, id: UUID, *, reason: str | None = None, tx: Tx | None = None) -> RunDetail:
        """Cancels a run, and with it the children that it waits for.

        One that is pending or waits ends at once; when this process does not have its code, a worker ends it. One that
        runs is asked: `run.cancelled` is true for the step under way, no further step begins, and what still runs after
        a grace of ten seconds is cancelled.

        Raises:
            RunNotFound: the tenant has none of that id.
            RunEnded: it has ended (409).
        """
        async with self._db.join(tx, by.tenant) as tx:
            await self.cancellations.cancel(by, id, reason=reason, tx=tx)
            return await self.get(by, id, tx=tx)

    async def send_signal(
        self,
        run: UUID,
        name: str,
        payload: Any = None,
        *,
        by: Principal,
        key: str | UUID | None = None,
        tx: Tx | None = None,
    ) -> SignalView:
        """As `Signals.send`."""
        return await self.signals.send(run, name, payload, by=by, key=key, tx=tx)

    async def list(
        self,
        by: Principal,
        *,
        limit: int = 50,
        after: UUID | None = None,
        state: RunState | None = None,
        workflow: str | None = None,
        parent: UUID | None = None,
    ) -> list[RunView]:
        """Runs of the caller's tenant, newest first, older than the run `after`; with `parent`, its children only."""
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.page(
                tx, by.tenant, after=after, limit=limit, state=state, workflow=workflow, parent=parent
            )

    async def result(self, by: Principal, id: UUID, *, timeout: float = 60.0) -> Any:
        """What the run returned, once it has completed; waits at most `timeout` seconds.

        Raises:
            RunFailed: it ended otherwise.
            TimedOut: it has not ended yet; the run goes on.
            RunNotFound
        """
        ends = time.monotonic() + timeout
        with self._db.notifier.subscribe(FINISHED, str(id)) as changed:
            while True:
                async with self._db.tenant_tx(by.tenant) as tx:
                    run = await store.find(tx, by.tenant, id)
                if run is None:
                    raise RunNotFound(f"there is no run {id}")
                if run.state.finished:
                    break
                left = ends - time.monotonic()
                if left <= 0:
                    raise TimedOut(f"run {id} is {run.state} after {timeout:g} seconds; it goes on")
                await changed.wait(min(left, _FINISHED_POLL))
        if run.state != RunState.COMPLETED:
            raise RunFailed(id, run.state, run.error)
        workflow = self._registered.get((run.workflow, run.version))
        return run.output if workflow is None else workflow.output.validate_json(orjson.dumps(run.output))


def _wrong_input(name: str, error: ValidationError) -> RunInputInvalid:
    fields = [
        FieldError(".".join(("input", *map(str, item["loc"]))), item["msg"])
        for item in error.errors(include_input=False, include_url=False)
    ]
    return RunInputInvalid(
        f"the input of workflow {name} is wrong: {fields[0].field}: {fields[0].message}", errors=fields
    )
