"""Decides about runs: registration, start, resumption, the end. Each decision is one transaction."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, overload
from uuid import UUID

import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from ..audit import Audit
from ..events import Events
from ..jobs import Cancel, JobContext, JobLost, Jobs, Retry, RetryLater, Snooze
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import ConfigurationError, FieldError, TimedOut
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from . import encoding, store, waits_store
from .approvals import Approvals
from .models import (
    Nondeterministic,
    Recorded,
    ResumeRun,
    RunDetail,
    RunEnd,
    RunFailed,
    RunInputInvalid,
    RunNotFound,
    RunState,
    RunStopped,
    RunView,
    Superseded,
    Suspend,
    Taken,
    UnknownWorkflow,
    Waiting,
)
from .recorder import Recorder
from .run import Run, text_of
from .signals import Signals, SignalView
from .wakes import QUEUE, RESUME, Wakes
from .workflow import I, O, RunHandle, Workflow

_TOPIC = "runs"
_UNKNOWN_VERSION_WAIT = timedelta(seconds=10)
_FINISHED_POLL = 1.0
_finished = telemetry.counter("backstay_runs_finished_total", "Runs by how they ended.", ["workflow", "state"])
_log = telemetry.log("workflows")


class Workflows:
    """The registered workflows of a process, and their runs."""

    def __init__(self, db: Database, clock: Clock, jobs: Jobs, audit: Audit, events: Events) -> None:
        self._db, self._clock, self._jobs, self._audit, self._events = db, clock, jobs, audit, events
        self._registered: dict[tuple[str, str], Workflow[Any, Any]] = {}
        self._newest: dict[str, Workflow[Any, Any]] = {}
        self._at_end: list[Callable[[Tx, RunEnd], Awaitable[None]]] = []
        self._recorder = Recorder(db)
        self._lease = timedelta(seconds=jobs.settings.lease_seconds)
        self._wakes = Wakes(jobs, clock)
        self.approvals = Approvals(db, clock, self._wakes, audit, events)
        self.signals = Signals(db, clock, self._wakes, audit, events)
        jobs.handler(
            RESUME,
            self._resume,
            ResumeRun,
            queue=QUEUE,
            # how often a run's own code may fail is the workflow's to say; this binds what fails around it
            retry=Retry(max_attempts=1_000, cap=timedelta(minutes=1)),
            timeout=None,
            on_discard=self._give_up,
        )

    @property
    def names(self) -> list[str]:
        """Registered workflows."""
        return sorted(self._newest)

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
    ) -> Any:
        """Registers `async def f(run: Run, input: Model) -> Output`, as `@workflow` or `@workflow(version="2")`.

        A run stays on the version it began with; new runs take the one registered last. `retry` is for each step, and
        for the code between the steps. `signals` are the types of the payloads that it takes, by name; then others
        are refused when they are sent.

        Raises:
            ConfigurationError: name and version are taken, or the function is not of this form.
        """

        def register(function: Callable[[Run, Any], Awaitable[Any]]) -> Workflow[Any, Any]:
            made = Workflow(
                self, function, name or encoding.name_of(function).rpartition(".")[2], version, retry or Retry()
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
        self._at_end.append(told)

    async def start_with(
        self,
        workflow: Workflow[I, O],
        input: I,
        *,
        key: str | UUID | None = None,
        tenant: UUID | None = None,
        by: Principal | None = None,
        tx: Tx | None = None,
    ) -> RunHandle:
        """As `Workflow.start`."""
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
                principal=_stored(by),
                input=text,
                now=now,
            ):
                return RunHandle(await store.run_with_key(tx, whose, workflow.name, str(known_as)), by, self)
            await self._wakes.wake(tx, whose, id)
            about = {"workflow": workflow.name, "version": workflow.version}
            await self._audit.record(tx, by, "run.started", f"run:{id}", run=id, metadata=about)
            await self._events.emit(tx, "run.started", {"run": str(id), **about}, tenant=whose)
        return RunHandle(id, by, self)

    async def start_raw(
        self, name: str, input: Mapping[str, Any], *, by: Principal, key: str | None = None, tx: Tx | None = None
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
            handle = await self.start_with(workflow, model, key=key, by=by, tx=tx)
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
    ) -> list[RunView]:
        """Runs of the caller's tenant, newest first, older than the run `after`."""
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.page(tx, by.tenant, after=after, limit=limit, state=state, workflow=workflow)

    async def result(self, by: Principal, id: UUID, *, timeout: float = 60.0) -> Any:
        """What the run returned, once it has completed; waits at most `timeout` seconds.

        Raises:
            RunFailed: it ended otherwise.
            TimedOut: it has not ended yet; the run goes on.
            RunNotFound
        """
        ends = time.monotonic() + timeout
        with self._db.notifier.subscribe(_TOPIC, str(id)) as changed:
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

    # -- the job ----------------------------------------------------------------------------------------------------

    async def _resume(self, context: JobContext, input: ResumeRun) -> None:
        """Goes on with a run from its last recorded step."""
        structlog.contextvars.bind_contextvars(run=str(input.run))
        taken, recorded = await self._take(context, input.run)
        if taken is None:
            return
        workflow = self._registered.get((taken.workflow, taken.version))
        if workflow is None:
            _log.warning("run waits for its code", workflow=taken.workflow, version=taken.version)
            raise Snooze(
                _UNKNOWN_VERSION_WAIT,
                f"workflow {taken.workflow} is not registered here in version {taken.version}",
            )
        run = Run(self._db, self._clock, taken, recorded, workflow.retry, self.approvals, self.signals, self._recorder)
        try:
            try:
                text = await self._execute(workflow, run, taken)
            except Suspend as signal:
                raise Snooze(self._until(run.wake_at), signal.reason) from signal
            except Waiting:
                await self._park(taken, self._clock.now() if run.goes_on else run.wake_at)
            except Nondeterministic as signal:
                await self._end(taken, run.by, RunState.NONDETERMINISTIC, error=str(signal))
            except Cancel as signal:
                await self._end(taken, run.by, RunState.CANCELLED, error=signal.reason)
            except Exception as error:
                if context.attempt < workflow.retry.max_attempts and not isinstance(error, RunStopped):
                    _log.warning("the code between the steps failed", exc_info=error)
                    delay = workflow.retry.delay(context.attempt, random.random)
                    raise RetryLater(text_of(error), delay) from error
                await self._end(taken, run.by, RunState.FAILED, error=text_of(error))
            else:
                await self._end(taken, run.by, RunState.COMPLETED, output=text)
        except Superseded:
            raise JobLost(f"run {taken.id} was taken up by another worker") from None

    async def _take(self, context: JobContext, id: UUID) -> tuple[Taken | None, "tuple[Recorded, ...]"]:
        async with self._db.tenant_tx(context.tenant) as tx:
            await context.hold(tx)
            taken = await store.take(tx, context.tenant, id, context.fence, self._clock.now(), patience=self._lease / 2)
            if isinstance(taken, TimeoutError):
                raise Snooze(self._lease / 2, "another worker's transaction still holds the run")
            return taken, tuple(await store.recorded(tx, context.tenant, id) if taken else ())

    async def _execute(self, workflow: Workflow[Any, Any], run: Run, taken: Taken) -> str:
        """What the workflow's code returns, as JSON text. A signal that told it to leave counts, whatever the code has
        made of it: a group of tasks wraps it, a `gather` may have eaten it."""
        try:
            try:
                output = await workflow.function(run, workflow.input.validate_json(taken.input))
            finally:
                await run.wind_up()
        except BaseException as error:
            if run.over is None or error is run.over or isinstance(error, asyncio.CancelledError):
                raise
            raise run.over from error
        text = encoding.encode(workflow.output, output, f"workflow {workflow.name}")
        run.finish()
        return text

    async def _park(self, taken: Taken, wake_at: datetime | None) -> None:
        """From here on nobody holds the run. What it waits for wakes it, and so does the time `wake_at`."""
        async with self._db.tenant_tx(taken.tenant_id) as tx:
            if not await waits_store.park(tx, taken):
                raise Superseded
            if wake_at is not None:
                await self._wakes.wake(tx, taken.tenant_id, taken.id, at=wake_at)

    def _until(self, moment: datetime | None) -> timedelta:
        return max(timedelta(), (moment or self._clock.now()) - self._clock.now())

    async def _give_up(self, context: JobContext, input: ResumeRun, reason: str) -> None:
        """The job is about to be discarded: the run has failed."""
        taken, _ = await self._take(context, input.run)
        if taken is None:
            return
        await self._end(taken, taken.by, RunState.FAILED, error=reason)

    async def _end(
        self, taken: Taken, by: Principal, state: RunState, *, output: str | None = None, error: str | None = None
    ) -> None:
        """The end of a run, with its audit entry and event, in one transaction."""
        about = {"workflow": taken.workflow, "version": taken.version}
        reason = {} if error is None else {"error": error}
        async with self._db.tenant_tx(taken.tenant_id) as tx:
            if not await store.finish(tx, taken, state, output, error, self._clock.now()):
                raise Superseded
            await self.approvals.withdraw(tx, taken.tenant_id, taken.id)
            await self._audit.record(
                tx,
                by,
                f"run.{state}",
                f"run:{taken.id}",
                outcome="ok" if state == RunState.COMPLETED else "error",
                run=taken.id,
                metadata=about,
                payload=reason or None,
            )
            await self._events.emit(
                tx, f"run.{state}", {"run": str(taken.id), **about, **reason}, tenant=taken.tenant_id
            )
            for told in self._at_end:
                await told(tx, RunEnd(taken.tenant_id, taken.id, taken.workflow, state, error))
            tx.notify(_TOPIC, str(taken.id))
        _finished.labels(taken.workflow, state).inc()
        log = _log.info if state == RunState.COMPLETED else _log.error
        log("run ended", state=state, workflow=taken.workflow, reason=error)


def _stored(by: Principal) -> dict[str, Any]:
    return {
        "id": str(by.id),
        "name": by.name,
        "permissions": sorted(by.permissions),
        "key": None if by.key is None else str(by.key),
        "feature": by.feature,
        "role": by.role,
    }


def _wrong_input(name: str, error: ValidationError) -> RunInputInvalid:
    fields = [
        FieldError(".".join(("input", *map(str, item["loc"]))), item["msg"])
        for item in error.errors(include_input=False, include_url=False)
    ]
    return RunInputInvalid(
        f"the input of workflow {name} is wrong: {fields[0].field}: {fields[0].message}", errors=fields
    )
