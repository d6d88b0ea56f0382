"""A run while its code executes: each step is looked up in what is recorded, or executed and recorded."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar, Unpack, overload
from uuid import UUID

from pydantic import TypeAdapter

from ..jobs import Discard, Retry, RetryLater, Snooze
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.principal import Principal
from . import encoding, store
from .approvals import approve
from .around import Around
from .children import child
from .emitting import emit
from .failures import HOPELESS, text_of
from .models import (
    UNDO,
    Nondeterministic,
    Recorded,
    Replayed,
    StepFailed,
    StepKind,
    StepState,
    Stopped,
    Superseded,
    Suspend,
    Taken,
    Waiting,
)
from .parallel import count, gather
from .place import Place
from .recorder import Journal, Recorder, not_recorded
from .retrying import How, called, in_time
from .signals import signal
from .timers import sleep
from .undoing import Undo, on_failure
from .versions import is_mark, pass_marks, patched

T = TypeVar("T")
_executed = telemetry.counter("backstay_steps_total", "Step attempts by outcome.", ["workflow", "kind", "outcome"])
_outcome = lru_cache(maxsize=1024)(_executed.labels)  # looking one up costs more than counting
_log = telemetry.log("workflows")
_NOW: TypeAdapter[Any] = TypeAdapter(datetime)
_NUMBER: TypeAdapter[Any] = TypeAdapter(float)


class Run:
    """What a workflow's code is given: who it acts for, and the ways to do something once.

    The code between the steps runs again from the top after a crash, so it must take the same way each time: take
    time, chance and everything from outside through the run.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        taken: Taken,
        recorded: Iterable[Recorded],
        retry: Retry,
        around: Around,
        recorder: Recorder,
    ) -> None:
        self._db, self._clock, self._taken, self._retry = db, clock, taken, retry
        self._around = around
        self._journal = Journal(recorder, taken)
        self._code: asyncio.Future[Any] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self.cancelled = False  # the run is to stop: a long step may look at it and return early
        self._recorded = {step.seq: step for step in recorded}
        self._next = 0
        self._branches: dict[asyncio.Task[Any], int] = {}  # of `gather`, with the steps that each has taken
        self._patches: dict[str, bool] = {}
        self.undoes: list[Undo] = []  # what is to be called when the run fails
        self.replays_only = taken.undoing is not None  # the code runs for what it has registered, and does nothing more
        self.over: BaseException | None = None  # why this attempt may begin no more steps
        self._done = self._refused = False  # this attempt has finished a step; has refused one because others wait
        self.wake_at: datetime | None = None  # when the first of what the code was left for is due
        self._steps_under_way: set[asyncio.Task[Any]] = set()

    @property
    def id(self) -> UUID:
        return self._taken.id

    @property
    def tenant(self) -> UUID:
        return self._taken.tenant_id

    @property
    def attempt(self) -> int:
        """How often a worker has taken this run up; 1 the first time."""
        return self._taken.attempt

    @property
    def by(self) -> Principal:
        """Who started the run; it acts with their permissions."""
        return self._taken.by

    @property
    def deadline(self) -> datetime | None:
        """When the run is cancelled if it has not ended."""
        return self._taken.deadline

    @overload
    async def step(self, fn: Callable[..., Awaitable[T]], *args: Any, **how: Unpack[How]) -> T: ...
    @overload
    async def step(self, fn: Callable[..., T], *args: Any, **how: Unpack[How]) -> T: ...
    async def step(self, fn: Callable[..., Any], *args: Any, **how: Unpack[How]) -> Any:
        """Calls `fn(*args)` for effects outside, and stores what it returns; a replay gets the stored value.

        At-least-once: the intent is committed first, then `fn` runs outside of any transaction, then its output is
        committed, at the latest with the intent of the next step; a crash in between runs it again. When `fn` has a
        parameter `idempotency_key`, it is handed `<run id>:<step number>`, the same each time. A function that is not
        async runs in a thread. The output is stored as JSON by `fn`'s return annotation.

        How it is taken: its `name` in the records (the function's own), `retry` (the workflow's) and `timeout` (none).
        A failure suspends the run and is tried again after a backoff. An attempt that lasts longer than `timeout` is
        cancelled and has failed (a thread cannot be stopped: it runs on, and what it returns is ignored).

        Raises:
            StepFailed: its attempts are used up, or the error is one that repeating cannot mend.
        """
        place = self._place(StepKind.STEP, how.get("name") or encoding.name_of(fn), encoding.hash_of(args))
        place.retry = how.get("retry") or self._retry
        return await self._perform(place, fn, args, how.get("timeout"))

    async def _perform(
        self, place: Place, fn: Callable[..., Any], args: tuple[Any, ...], timeout: timedelta | None
    ) -> Any:
        adapter = encoding.adapter_of(fn)
        if (standing := self._standing(place)) is not None:
            return self._replayed(standing, adapter)
        began = self._clock.now()
        self._journal.add(place.write(StepState.STARTED, began))
        await self._written()
        extra = {"idempotency_key": f"{self.id}:{place.seq}"} if encoding.wants_key(fn) else {}
        try:
            value = await in_time(called(fn, args, extra), timeout)
            text = encoding.encode(adapter, value, f"step {place.name}")
            result = encoding.decode(adapter, text, f"step {place.name}")
        except Exception as error:
            raise await self._failed(place, error, began) from error
        except (Discard, RetryLater, Snooze) as signal:
            raise await self._signalled(place, signal, began) from signal
        self._complete(place, text, began)
        return result

    async def transaction(self, fn: Callable[..., Awaitable[T]], *args: Any, name: str | None = None) -> T:
        """Calls `fn(tx, *args)` for effects in the database, exactly once: they are committed together with the step.

        The run's row is locked in the same transaction and must still be this worker's, so a worker that lost the run
        cannot commit. Make no outside calls in `fn`: it holds a connection.

        Raises:
            StepFailed: as for `step`.
        """
        place = self._place(StepKind.TRANSACTION, name or encoding.name_of(fn), encoding.hash_of(args))
        adapter = encoding.adapter_of(fn)
        if (standing := self._standing(place)) is not None:
            result: T = self._replayed(standing, adapter)
            return result
        await self._written()
        began = self._clock.now()
        try:
            async with self._db.tenant_tx(self.tenant) as tx:
                if not await store.hold(tx, self._taken, self._db.patience):
                    raise self._leave(Superseded())
                value = await fn(tx, *args)
                text = encoding.encode(adapter, value, f"step {place.name}")
                result = encoding.decode(adapter, text, f"step {place.name}")
                done = place.write(StepState.COMPLETED, began, output=text, finished_at=self._clock.now())
                if await store.record_steps(tx, [(self._taken, [done])]):
                    raise self._leave(Superseded())
        except Exception as error:
            raise await self._failed(place, error, began) from error
        except (Discard, RetryLater, Snooze) as signal:
            raise await self._signalled(place, signal, began) from signal
        self._count(place, "completed")
        return result

    approve = approve
    child = child
    emit = emit
    gather = gather
    on_failure = on_failure
    patched = patched
    signal = signal
    sleep = sleep

    async def now(self) -> datetime:
        """The present moment, recorded: a replay gets the same."""
        moment: datetime = await self._value("now", _NOW, self._clock.now)
        return moment

    async def random(self) -> float:
        """A number in [0, 1), recorded: a replay gets the same."""
        number: float = await self._value("random", _NUMBER, random.random)
        return number

    def finish(self) -> None:
        """Called when the code has returned.

        Raises:
            Nondeterministic: steps are recorded that it did not come by this time.
            Waiting, Suspend, Superseded: it was told to leave and has eaten that.
        """
        if self.over is not None:
            raise self.over
        left = [step for seq, step in self._recorded.items() if self._next <= seq < UNDO and not is_mark(step)]
        if left:
            raise self._diverged(
                f"the code returned after {self._next} steps, but step {left[0].seq} ({left[0].name}) is recorded"
            )

    async def _value(self, name: str, adapter: TypeAdapter[Any], make: Callable[[], Any]) -> Any:
        place = self._place(StepKind.VALUE, name, b"")
        if (standing := self._standing(place)) is not None:
            return self._replayed(standing, adapter)
        value = make()
        self._complete(place, encoding.encode(adapter, value, name), self._clock.now())
        return value

    def executes(self, code: asyncio.Future[Any]) -> None:
        """This runs the workflow's code."""
        self._code = code

    def stop(self, reason: str, grace: timedelta) -> None:
        """The run is to stop: no step begins any more, and what is under way is cancelled after the grace."""
        self.cancelled = True
        self._leave(Stopped(reason))
        self._grace = asyncio.get_running_loop().call_later(grace.total_seconds(), self._interrupt)

    def spare(self) -> None:
        """The attempt has ended: there is nothing left to be cancelled."""
        if self._grace is not None:
            self._grace.cancel()

    def _interrupt(self) -> None:
        for task in {*self._steps_under_way, self._code}:
            if task is not None:
                task.cancel()

    async def wind_up(self) -> None:
        """Waits for steps that were started together with one that ended the attempt, so that none is still under way
        when another worker goes on; then for what is not yet recorded.

        Raises:
            Superseded, Suspend: it could not be recorded.
        """
        others = self._steps_under_way - {self._code}
        if others:
            await asyncio.wait(others)
            for task in others:
                if not task.cancelled() and (error := task.exception()) is not None:
                    _log.info("a step beside the one that ended the attempt ended too", error=text_of(error))
        await self._written()

    def _leave(self, signal: BaseException) -> BaseException:
        """Ends this attempt: a `finally` or a sibling of the code that still asks for a step gets the same signal."""
        self.over = self.over or signal
        due: datetime | None = None
        match signal:
            case Suspend():
                due = self._clock.now() + signal.after
            case Waiting():
                due = signal.due
        self.wake_at = min(filter(None, (self.wake_at, due)), default=None)
        return signal

    async def _written(self) -> None:
        """Returns once all that this attempt has come by is committed; otherwise the attempt ends."""
        try:
            await self._journal.written()
        except (Superseded, Suspend) as signal:
            raise self._leave(signal) from None

    @asynccontextmanager
    async def _recording(self) -> AsyncIterator[Tx]:
        """A transaction for our own bookkeeping, after what came before it. When it fails (the database is away), the
        attempt ends: the workflow's code must not see an error that a replay would not repeat."""
        await self._written()
        try:
            async with self._db.tenant_tx(self.tenant) as tx:
                yield tx
        except Exception as error:
            _log.error("step could not be recorded; the run goes on later", exc_info=error)
            raise self._leave(not_recorded(error)) from error

    def _complete(self, place: Place, text: str, began: datetime) -> None:
        self._journal.add(place.write(StepState.COMPLETED, began, output=text, finished_at=self._clock.now()))
        self._count(place, "completed")

    def _place(self, kind: StepKind, name: str, args_hash: bytes) -> Place:
        # Taken before anything is awaited, so that steps started together are numbered in the order of the code.
        if self.over is not None:
            self._refused = True
            raise self.over
        if (task := asyncio.current_task()) is not None and task not in self._steps_under_way:
            self._steps_under_way.add(task)
            task.add_done_callback(self._steps_under_way.discard)
        count(self, task)
        pass_marks(self)
        seq, self._next = self._next, self._next + 1
        return Place(seq, kind, name, args_hash, self._retry)

    def _standing(self, place: Place) -> Recorded | None:
        """The finished step recorded at this place, if any."""
        recorded = self._recorded.get(place.seq)
        if self.replays_only and (recorded is None or recorded.state == StepState.STARTED):
            raise self._leave(Replayed())
        if recorded is None:
            return None
        if (recorded.kind, recorded.name) != (place.kind, place.name):
            raise self._diverged(
                f"step {place.seq} is recorded as {recorded.kind} {recorded.name}, but the code now asks for "
                f"{place.kind} {place.name}"
            )
        if recorded.args_hash != place.args_hash:
            raise self._diverged(
                f"step {place.seq} ({place.name}) is recorded with other arguments than the code now passes"
            )
        return None if recorded.state == StepState.STARTED else recorded

    def _diverged(self, how: str) -> BaseException:
        mend = (
            "Give changed code a new version, or branch with run.patched, and keep the old way while runs of it are "
            "unfinished. This run can be retried once the code is mended, moved to another version, or forked"
        )
        return self._leave(Nondeterministic(f"{how}. {mend}"))

    def _replayed(self, recorded: Recorded, adapter: TypeAdapter[Any]) -> Any:
        if recorded.state == StepState.FAILED:
            raise StepFailed(recorded.name, recorded.error or "no reason recorded", recorded.seq)
        return encoding.decode(adapter, recorded.output, f"step {recorded.name}")

    async def _signalled(self, place: Place, signal: Discard | RetryLater | Snooze, began: datetime) -> BaseException:
        match signal:
            case Snooze():
                return self._leave(Suspend(signal.after, signal.reason or "snoozed"))
            case Discard():
                return await self._failed(place, signal, began, hopeless=True)
            case RetryLater():
                return await self._failed(place, signal, began, after=signal.after)

    async def _failed(
        self,
        place: Place,
        error: BaseException,
        began: datetime,
        *,
        hopeless: bool = False,
        after: timedelta | None = None,
    ) -> BaseException:
        """Records the failure and says what to raise: Suspend while attempts are left, StepFailed after the last."""
        before = self._recorded.get(place.seq)
        failures = (before.failures if before else 0) + 1
        last = hopeless or isinstance(error, HOPELESS) or failures >= place.retry.max_attempts
        reason = text_of(error)
        state, ended = (StepState.FAILED, self._clock.now()) if last else (StepState.STARTED, None)
        self._journal.add(place.write(state, began, error=reason, failures=1, finished_at=ended))
        try:
            await self._written()
        except (Superseded, Suspend) as signal:
            return signal
        self._count(place, "failed" if last else "retried")
        _log.warning("step failed", step=place.name, seq=place.seq, failures=failures, last=last, exc_info=error)
        if last:
            return StepFailed(place.name, reason, place.seq)
        delay = place.retry.delay(failures, random.random) if after is None else after
        return self._leave(Suspend(delay, f"step {place.name} failed: {reason}"))

    @property
    def goes_on(self) -> bool:
        """Whether another attempt would get further: a branch of the code that waits for nothing was stopped by one
        that waits. Asked again only as long as each attempt finishes a step."""
        return self._done and self._refused

    def _count(self, place: Place, outcome: str) -> None:
        self._done = self._done or outcome != "retried"
        _outcome(self._taken.workflow, place.kind, outcome).inc()
