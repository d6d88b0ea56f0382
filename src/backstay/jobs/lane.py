"""One of a worker's lanes: runs one claimed job after the other and says how each ended."""

import asyncio
import contextvars
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from datetime import timedelta
from enum import StrEnum
from typing import Any

import structlog
from pydantic import ValidationError

from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database
from ..kernel.errors import BackstayError
from . import store
from .handlers import Handler, JobContext
from .models import Claimed, JobLost, JobState, Verdict
from .processes import Processes
from .progress import Progress
from .signals import Cancel, Discard, RetryLater, Snooze

_log = telemetry.log("jobs")
_MAX_ERROR = 4_000
_COARSE = 10.0  # seconds; a timeout this long may be noticed half a second late


class Interruption(StrEnum):
    """Why a worker stops a handler."""

    CANCELLED = "cancelled on request"
    DRAINED = "the worker stops"
    LAPSED = "the worker's lease is over"
    TIMED_OUT = "it took longer than its timeout"


class _Now:
    """In a lane's log lines: what it runs at that moment. Binding the values for each job would cost more than a small
    job does."""

    def __init__(self, lane: "Lane", field: str) -> None:
        self._lane, self._field = lane, field

    def __repr__(self) -> str:
        return str(getattr(self._lane.current, self._field, None))

    __str__ = __structlog__ = __repr__


class Lane:
    """Takes claims from `work`, runs their handlers and hands each result to `report` (None: nothing to write)."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        handlers: Mapping[str, Handler],
        threads: Executor,
        work: asyncio.Queue[Claimed],
        report: Callable[[Claimed, Verdict | None, float], None],
        progress: Progress,
        processes: Processes,
    ) -> None:
        self._db, self._clock, self._handlers, self._threads = db, clock, handlers, threads
        self._work, self._report, self._progress, self._processes = work, report, progress, processes
        self._task: asyncio.Task[Any] | None = None
        self._interruption: Interruption | None = None
        self._input: Any = None
        self.current: Claimed | None = None
        self.times_out_at = float("inf")  # on the monotonic clock; the worker looks at it twice a second

    async def run(self) -> None:
        """Runs until it is cancelled between two jobs."""
        self._task = asyncio.current_task()
        surroundings, leaks = self._bind(), False
        while True:
            claim = await self._work.get()
            self.current = claim
            started = time.monotonic()
            try:
                verdict = await self._interruptible(claim)
            finally:
                self.current = None
            self._report(claim, verdict, time.monotonic() - started)
            # What a handler binds to this lane's context must not reach the next job's log lines. The first time shows
            # in the number of variables; after that they only change.
            leaks = leaks or len(contextvars.copy_context()) != surroundings
            if leaks:
                self._bind()

    def _bind(self) -> int:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            job=_Now(self, "id"), kind=_Now(self, "name"), attempt=_Now(self, "attempt")
        )
        return len(contextvars.copy_context())

    def interrupt(self, why: Interruption) -> None:
        """Cancels the handler that runs now; the lane goes on with the next job."""
        if self.current is not None and self._task is not None and self._interruption is None:
            self._interruption = why
            self._task.cancel()

    async def _interruptible(self, claim: Claimed) -> Verdict | None:
        try:
            return await self._attempt(claim)
        except asyncio.CancelledError:
            match self._interruption:
                case Interruption.CANCELLED:
                    return self._verdict(claim, JobState.CANCELLED, error=str(self._interruption))
                case Interruption.DRAINED:
                    return self._verdict(claim, JobState.AVAILABLE, counted=False)
                case Interruption.LAPSED:
                    return _LOST
                case Interruption.TIMED_OUT:
                    handler = self._handlers[claim.name]
                    context = JobContext(self._db, claim, self._clock.now(), handler.timeout)
                    return await self._failed(handler, context, claim, self._input, _overdue(handler))
            raise
        finally:
            if self._interruption is not None and self._task is not None:
                self._interruption = None
                self._task.uncancel()

    async def _attempt(self, claim: Claimed) -> Verdict | None:
        handler = self._handlers[claim.name]
        now = self._clock.now()
        if claim.attempt == 1 and not claim.rescues:
            handler.metrics.start.observe(max(0.0, (now - claim.run_at).total_seconds()))
        context = JobContext(self._db, claim, now, handler.timeout, self._progress)
        self._input = input = None
        try:
            input = handler.input.validate_json(claim.payload or await self._large_payload(claim))
            self._input = input
            if handler.retry.gives_up(claim.rescues):
                raise Discard(f"{claim.rescues} workers died while they ran it")
            await self._call(handler, context, input)
        except Snooze as signal:
            at = self._clock.now() + signal.after
            return self._verdict(claim, JobState.SCHEDULED, at=at, counted=False, error=signal.reason)
        except Cancel as signal:
            return self._verdict(claim, JobState.CANCELLED, error=signal.reason)
        except Discard as signal:
            return await self._discard(handler, context, claim, input, signal.reason)
        except RetryLater as signal:
            return await self._failed(handler, context, claim, input, signal.reason, signal.after)
        except JobLost as error:
            _log.warning("job lost to another worker", detail=error.detail)
            return _LOST
        except ValidationError as error:
            if input is not None:
                return await self._failed(handler, context, claim, input, _text(error))
            return await self._discard(handler, context, claim, None, f"the input does not fit: {_text(error)}")
        except asyncio.CancelledError:
            if self._task is not None and self._task.cancelling():
                raise
            reason = "CancelledError: the handler awaited something that was cancelled"
            return await self._failed(handler, context, claim, input, reason)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _log.warning("attempt failed", exc_info=error)
            return await self._failed(handler, context, claim, input, _text(error))
        return None

    async def _call(self, handler: Handler, context: JobContext, input: Any) -> None:
        limit = handler.timeout_seconds
        if limit >= _COARSE:
            # One look at all lanes now and then costs less than a timer for each job.
            self.times_out_at = time.monotonic() + limit
            try:
                await self._invoke(handler, context, input)
            finally:
                self.times_out_at = float("inf")
            return
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                await self._invoke(handler, context, input)
        except TimeoutError:
            if scope.expired():
                raise RetryLater(_overdue(handler)) from None
            raise

    async def _invoke(self, handler: Handler, context: JobContext, input: Any) -> None:
        if handler.asynchronous:
            await handler.run(context, input)
            return
        if handler.place is not None:
            await self._processes.run(handler, context, input)
            return
        surroundings = contextvars.copy_context()
        await asyncio.get_running_loop().run_in_executor(self._threads, surroundings.run, handler.run, context, input)

    async def _large_payload(self, claim: Claimed) -> str:
        async with self._db.system_tx() as tx:
            body = await store.blob(tx, claim.tenant, claim.id)
        if body is None:
            raise Discard("its input is missing from backstay.blob")
        return body

    async def _failed(
        self,
        handler: Handler,
        context: JobContext,
        claim: Claimed,
        input: Any,
        reason: str,
        after: timedelta | None = None,
    ) -> Verdict | None:
        if claim.attempt >= handler.retry.max_attempts:
            return await self._discard(handler, context, claim, input, reason)
        delay = handler.retry.delay(claim.attempt, random.random) if after is None else after
        return self._verdict(claim, JobState.RETRYABLE, at=self._clock.now() + delay, error=reason)

    async def _discard(
        self, handler: Handler, context: JobContext, claim: Claimed, input: Any, reason: str
    ) -> Verdict | None:
        if handler.on_discard is not None and input is not None:
            try:
                await handler.on_discard(context, input, reason)
            except JobLost:
                return _LOST
            except Exception as error:
                # What depends on the job would wait for ever if it died untold: tell it again later.
                _log.error("on_discard failed; the job is kept", exc_info=error)
                at = self._clock.now() + handler.retry.cap
                return self._verdict(claim, JobState.RETRYABLE, at=at, error=reason)
        _log.error("job discarded", reason=reason)
        return self._verdict(claim, JobState.DISCARDED, error=reason)

    def _verdict(
        self,
        claim: Claimed,
        state: JobState,
        *,
        at: Any = None,
        counted: bool = True,
        error: str | None = None,
    ) -> Verdict:
        return Verdict(claim.fence, state, at or self._clock.now(), counted, error and clean(error))


_LOST = Verdict(-1, JobState.RUNNING, None, False, None)  # type: ignore[arg-type]  # never written


def is_lost(verdict: Verdict | None) -> bool:
    """Whether the claim is another worker's by now, so that there is nothing to write."""
    return verdict is _LOST


def _overdue(handler: Handler) -> str:
    return f"it took longer than its timeout of {handler.timeout_seconds:g} seconds"


def _text(error: BaseException) -> str:
    detail = error.detail if isinstance(error, BackstayError) else str(error)
    return f"{type(error).__name__}: {detail}" if detail else type(error).__name__


def clean(text: str) -> str:
    """Storable and short, without what looks like a secret."""
    readable = text.replace("\0", "").encode("utf-8", "replace").decode()
    return telemetry.scrub(readable)[:_MAX_ERROR]
