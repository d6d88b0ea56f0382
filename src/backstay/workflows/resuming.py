"""The job that goes on with a run: it takes the run, executes its code from the last recorded step, and writes how that
ended."""

import asyncio
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from ..jobs import Cancel, Discard, JobContext, JobLost, Jobs, Retry, RetryLater, Snooze
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database
from . import encoding, store, waits_store
from .around import Around
from .cancelling import Cancellations, overdue
from .ending import Endings
from .failures import text_of
from .models import (
    Nondeterministic,
    Recorded,
    Replayed,
    ResumeRun,
    RunState,
    RunStopped,
    StepFailed,
    Stopped,
    Superseded,
    Suspend,
    Taken,
    Waiting,
)
from .recorder import Recorder
from .run import Run
from .undoing import registered, undo
from .wakes import QUEUE, RESUME, Wakes

if TYPE_CHECKING:
    from .workflow import Workflow

_UNKNOWN_VERSION_WAIT = timedelta(seconds=10)
_log = telemetry.log("workflows")


class Resumption:
    """Goes on with runs of the `registered` workflows (by name and version)."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        jobs: Jobs,
        registered: Mapping[tuple[str, str], "Workflow[Any, Any]"],
        around: Around,
        recorder: Recorder,
        wakes: Wakes,
        endings: Endings,
        cancellations: Cancellations,
    ) -> None:
        self._db, self._clock, self._registered = db, clock, registered
        self._around, self._recorder = around, recorder
        self._wakes, self._endings, self._cancellations = wakes, endings, cancellations
        self._lease = timedelta(seconds=jobs.settings.lease_seconds)
        jobs.handler(
            RESUME,
            self._resume,
            ResumeRun,
            queue=QUEUE,
            # How often a run's own code may fail is the workflow's to say; this binds what fails around it. Workers
            # that were lost say nothing of the run: with too much to do leases lapse, and it goes on later.
            retry=Retry(max_attempts=1_000, cap=timedelta(minutes=1), max_rescues=None),
            timeout=None,
            on_discard=self._give_up,
        )

    async def _resume(self, context: JobContext, input: ResumeRun) -> None:
        """Goes on with a run from its last recorded step."""
        structlog.contextvars.bind_contextvars(run=str(input.run))
        taken, recorded = await self._take(context, input.run)
        if taken is None:
            return
        try:
            if taken.undoing is not None:
                await self._undo(taken, recorded, RunState(taken.undoing))
            elif reason := taken.cancel_reason or overdue(taken.deadline, self._clock.now()):
                await self._fail(taken, RunState.CANCELLED, reason, undo=registered(recorded))
            else:
                await self._go_on(context, taken, recorded)
        except Superseded:
            raise JobLost(f"run {taken.id} was taken up by another worker") from None

    async def _go_on(self, context: JobContext, taken: Taken, recorded: tuple[Recorded, ...]) -> None:
        workflow = self._code_of(taken)
        run = Run(self._db, self._clock, taken, recorded, workflow.retry, self._around, self._recorder)
        try:
            with self._cancellations.watching(run):
                text = await self._execute(workflow, run, taken)
        except Suspend as signal:
            raise Snooze(self._until(taken, run.wake_at), signal.reason) from signal
        except Waiting:
            await self._park(taken, self._clock.now() if run.goes_on else run.wake_at)
        except Nondeterministic as signal:
            await self._endings.end(taken, RunState.NONDETERMINISTIC, error=str(signal))
        except (Cancel, Stopped) as signal:
            await self._fail(taken, RunState.CANCELLED, signal.reason, undo=bool(run.undoes))
        except Exception as error:
            if context.attempt < workflow.retry.max_attempts and not isinstance(error, RunStopped):
                _log.warning("the code between the steps failed", exc_info=error)
                again = self._clock.now() + workflow.retry.delay(context.attempt, random.random)
                raise RetryLater(text_of(error), self._until(taken, again)) from error
            failed_step = error.seq if isinstance(error, StepFailed) else None
            await self._fail(taken, RunState.FAILED, text_of(error), undo=bool(run.undoes), failed_step=failed_step)
        else:
            await self._endings.end(taken, RunState.COMPLETED, output=text)

    def _code_of(self, taken: Taken) -> "Workflow[Any, Any]":
        workflow = self._registered.get((taken.workflow, taken.version))
        if workflow is None:
            _log.warning("run waits for its code", workflow=taken.workflow, version=taken.version)
            raise Snooze(
                _UNKNOWN_VERSION_WAIT,
                f"workflow {taken.workflow} is not registered here in version {taken.version}",
            )
        return workflow

    async def _fail(
        self, taken: Taken, state: RunState, error: str, *, undo: bool, failed_step: int | None = None
    ) -> None:
        """Ends the run, or has the next attempt undo first what it did: whoever comes by then, after a crash too."""
        if not undo:
            await self._endings.end(taken, state, error=error, failed_step=failed_step)
            return
        await self._endings.undo(taken, state, error, failed_step)
        raise Snooze(timedelta(), "it undoes what it did")

    async def _undo(self, taken: Taken, recorded: tuple[Recorded, ...], state: RunState) -> None:
        workflow = self._code_of(taken)
        run = Run(self._db, self._clock, taken, recorded, workflow.retry, self._around, self._recorder)
        try:
            await self._execute(workflow, run, taken)
        except Nondeterministic as signal:
            await self._endings.end(taken, RunState.NONDETERMINISTIC, error=str(signal))
            return
        except (Exception, Cancel, Discard, Replayed) as error:
            _log.info("the code has come to where the run ended", reason=text_of(error))
        try:
            failed = await undo(run)
        except Suspend as signal:
            raise Snooze(signal.after, signal.reason) from signal
        reason = f"{taken.error}; could not be undone: {', '.join(failed)}" if failed else taken.error
        await self._endings.end(taken, state, error=reason, failed_step=taken.failed_step)

    async def _take(self, context: JobContext, id: UUID) -> tuple[Taken | None, tuple[Recorded, ...]]:
        async with self._db.tenant_tx(context.tenant) as tx:
            await context.hold(tx)
            taken = await store.take(tx, context.tenant, id, context.fence, self._clock.now(), patience=self._lease / 2)
            if isinstance(taken, TimeoutError):
                raise Snooze(self._lease / 2, "another worker's transaction still holds the run")
            return taken, tuple(await store.recorded(tx, context.tenant, id) if taken else ())

    async def _execute(self, workflow: "Workflow[Any, Any]", run: Run, taken: Taken) -> str:
        """What the workflow's code returns, as JSON text. A signal that told it to leave counts, whatever the code has
        made of it: a group of tasks wraps it, a `gather` may have eaten it."""
        # A task of its own: one that is to stop is cancelled without the lane that the job runs in.
        code: asyncio.Future[Any] = asyncio.ensure_future(
            workflow.function(run, workflow.input.validate_json(taken.input))
        )
        run.executes(code)
        try:
            try:
                output = await code
            finally:
                await run.wind_up()
        except BaseException as error:
            if run.over is None or error is run.over or _interrupted():
                raise
            raise run.over from error
        text = encoding.encode(workflow.output, output, f"workflow {workflow.name}")
        run.finish()
        return text

    async def _park(self, taken: Taken, wake_at: datetime | None) -> None:
        """From here on nobody holds the run. What it waits for wakes it, and so does the time `wake_at`."""
        due = min(filter(None, (wake_at, taken.deadline)), default=None)
        async with self._db.tenant_tx(taken.tenant_id) as tx:
            if not await waits_store.park(tx, taken):
                raise Superseded
            if due is not None:
                await self._wakes.wake(tx, taken.tenant_id, taken.id, at=due)

    def _until(self, taken: Taken, moment: datetime | None) -> timedelta:
        """From now until the moment, or until the run's deadline when that comes first."""
        now = self._clock.now()
        return max(timedelta(), min(filter(None, (moment, taken.deadline)), default=now) - now)

    async def _give_up(self, context: JobContext, input: ResumeRun, reason: str) -> None:
        """The job is about to be discarded: the run has failed."""
        taken, _ = await self._take(context, input.run)
        if taken is not None:
            await self._endings.end(taken, RunState.FAILED, error=reason)


def _interrupted() -> bool:
    """Whether the worker stops the job itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
