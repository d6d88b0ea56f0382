"""What runs want recorded, gathered: one commit for many runs, one write at a time for each.

A run's code goes on as soon as a step has returned. Its output is committed with the intent of the step that comes
next, so a step costs one commit; before anything happens outside, all that came before it is recorded.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from ..kernel import telemetry
from ..kernel.batch import Batcher
from ..kernel.db import Database
from . import blobs, store
from .models import StepWrite, Superseded, Suspend, Taken

_MOST = 512  # runs in one commit
_LANES = 2  # while the database commits one group, the runs of the other go on
_PAUSE = timedelta(seconds=1)
_log = telemetry.log("workflows")


class Recorder:
    """Writes the steps of all runs of this process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._batches: Batcher[tuple[Taken, Sequence[StepWrite]], bool] = Batcher(
            "steps", self._write, _MOST, lanes=_LANES
        )
        self._alone: set[asyncio.Task[bool]] = set()

    def record(self, run: Taken, steps: Sequence[StepWrite]) -> "asyncio.Future[bool]":
        """Writes all of them in one commit; False when another worker has the run. What is large goes alone: it takes
        more than one statement, and would keep the steps of other runs waiting."""
        if any(blobs.is_large(step.output) for step in steps):
            alone = asyncio.create_task(self.insist(run, steps))
            self._alone.add(alone)
            alone.add_done_callback(self._alone.discard)
            return alone
        return self._batches.submit((run, steps))

    async def _write(self, group: list[tuple[Taken, Sequence[StepWrite]]]) -> list[bool | Exception]:
        async with self._db.system_statement() as tx:
            passed_over = await store.record_steps(tx, group)
        return [item not in passed_over for item in range(len(group))]

    async def insist(self, run: Taken, steps: Sequence[StepWrite]) -> bool:
        """As `record`, for a run that was passed over: waits for a transaction that holds it, such as one of its own
        `run.transaction` beside this step. All of it is written, or none."""
        try:
            async with self._db.tenant_tx(run.tenant_id) as tx:
                if not await store.hold(tx, run, self._db.patience) or await store.record_steps(tx, [(run, steps)]):
                    raise Superseded
        except Superseded:
            return False
        return True


class Journal:
    """What one run has to record, in the order of its code. One write is under way at most, the rest gathers."""

    def __init__(self, recorder: Recorder, run: Taken) -> None:
        self._recorder, self._run = recorder, run
        self._steps: list[StepWrite] = []
        self._waiting: list[asyncio.Future[None]] = []  # for those in `_steps`
        self._sent_waiting: list[asyncio.Future[None]] = []  # for those under way
        self._busy = False
        self._insisting: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None  # nothing is recorded after it

    def add(self, step: StepWrite) -> None:
        """Has it recorded soon, with what else this run and others add meanwhile."""
        self._steps.append(step)
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._send)

    async def written(self) -> None:
        """Returns once all that was added is committed.

        Raises:
            Superseded: another worker has the run.
            Suspend: it could not be recorded. The workflow's code must not see an error that a replay would not repeat.
        """
        if self._busy:
            mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            (self._waiting if self._steps else self._sent_waiting).append(mine)
            await mine
        if self.failure is not None:
            raise self.failure

    def _send(self) -> None:
        steps, self._steps = self._steps, []
        self._sent_waiting, self._waiting = self._waiting, []
        if self.failure is not None:
            self._settle()
        else:
            self._recorder.record(self._run, steps).add_done_callback(partial(self._answered, steps))

    def _answered(self, steps: list[StepWrite], recorded: "asyncio.Future[bool]") -> None:
        if (error := recorded.exception()) is not None:
            self._fail(error)
        elif recorded.result():
            self._settle()
        else:
            self._insisting = asyncio.create_task(self._insist(steps))

    async def _insist(self, steps: list[StepWrite]) -> None:
        try:
            if not await self._recorder.insist(self._run, steps):
                self.failure = Superseded()
        except Exception as error:
            self._fail(error)
        else:
            self._settle()

    def _fail(self, error: BaseException) -> None:
        _log.error("step could not be recorded; the run goes on later", exc_info=error)
        self.failure = not_recorded(error)
        self._settle()

    def _settle(self) -> None:
        for waiter in self._sent_waiting:
            if not waiter.done():
                waiter.set_result(None)
        if self._steps:
            self._send()
        else:
            self._sent_waiting = []
            self._busy = False


def not_recorded(error: BaseException) -> Suspend:
    """Ends an attempt because the database is away, or refuses a row."""
    return Suspend(_PAUSE, f"a step could not be recorded: {type(error).__name__}")
