"""A worker: claims batches, runs them in its lanes, writes outcomes in batches, and keeps its lease.

One conversation with the database does both halves of the work: what has been completed since the last turn is moved
away and the next batch is claimed in the same statement. No handler ever runs while that connection is held.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.notify import Subscription
from . import metrics, store, topics, upkeep
from .flows import Flows, pause_after
from .handlers import Handler
from .lane import Interruption, Lane, is_lost
from .lease import Lease
from .models import Claimed, JobState, Verdict
from .processes import Processes
from .progress import Progress

_MAX_AHEAD = 1_000  # jobs claimed beyond those that run
_AHEAD_SECONDS = 0.05  # claim ahead what is worked off in this time, so that no other worker waits for it
_POLL = 1.0
_BREATH = 0.005  # the shortest wait for a window of starts
_log = telemetry.log("jobs")


class Worker:
    """Runs jobs of every tenant until it is told to stop. Made by `Jobs.worker`."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        handlers: Mapping[str, Handler],
        *,
        chores: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
        queues: Sequence[str] | None,
        concurrency: int,
        lease: timedelta,
        grace: timedelta,
    ) -> None:
        self._db, self._clock, self._handlers, self._chores = db, clock, handlers, chores
        self._fixed_queues = tuple(queues) if queues is not None else None
        self._grace = grace.total_seconds()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._lease = Lease(
            self._db,
            self.name,
            self._fixed_queues or (),
            lease.total_seconds(),
            ready=lambda: self._until_free(lease.total_seconds()),
            lapsed=self._stop_work,
        )
        self._unknown: set[int] = set()
        self._work: asyncio.Queue[Claimed] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="backstay-job")
        self._held: dict[int, Claimed] = {}
        self._progress = Progress(self._db, self._held.keys())
        self._processes = Processes(min(concurrency, os.cpu_count() or 1))
        self._lanes = [
            Lane(self._db, clock, handlers, self._threads, self._work, self._report, self._progress, self._processes)
            for _ in range(concurrency)
        ]
        self._completed: list[int] = []
        self._verdicts: list[Verdict] = []
        self._successors = False  # a completed job had a key: another with that key may have waited for it
        self._average = _AHEAD_SECONDS
        self._other_queues: list[str] = []
        self._flows = Flows()
        self._limited = any(handler.limits for handler in handlers.values())
        self._declared = False
        self._whole_look_at = 0.0
        self._wait = _POLL
        self._turns = 0
        self._draining = False
        self._wake: Subscription | None = None

    @property
    def id(self) -> UUID | None:
        """The present registration; None while there is none."""
        return self._lease.id

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set, then lets running jobs end (at most the grace), gives back the rest and leaves."""
        await self._prepare()
        with self._db.notifier.subscribe(topics.READY) as self._wake:
            async with asyncio.TaskGroup() as group:
                loops = [
                    self._lease.keep(),
                    self._lease.watch(),
                    self._watch_cancellations(),
                    self._watch_timeouts(),
                    self._progress.keep(),
                    upkeep.promote_when_due(self._db, self._clock, min(_POLL, self._lease.seconds)),
                    upkeep.repeat(
                        "rescue", lambda: upkeep.rescue(self._db, self._clock.now()), self._lease.seconds / 3
                    ),
                    upkeep.repeat("look around", self._look_around, min(_POLL, self._lease.seconds / 3)),
                    upkeep.repeat("prune", self._prepare, 600),
                    upkeep.repeat("measure", lambda: upkeep.measure(self._db), 15),
                    *(chore() for chore in self._chores),
                    *(lane.run() for lane in self._lanes),
                ]
                others = [group.create_task(loop) for loop in loops]
                pump = group.create_task(self._pump())
                try:
                    await stop.wait()
                    await self._drain()
                finally:
                    await _end([pump, *others])
        await self._lease.leave()
        self._db.notifier.notify(topics.READY)
        self._threads.shutdown(wait=False)
        await self._processes.close()

    async def _prepare(self) -> None:
        # Finished rows of today need their partition; without it they would land in the safety net.
        try:
            await upkeep.prune(self._db, self._clock.now())
        except Exception as error:
            _log.error("partitions not kept; trying again later", exc_info=error)

    async def run_until_idle(self) -> None:
        """Works off everything that is ready or due now, and then leaves. For tests and one-off runs."""
        stop = asyncio.Event()

        async def watch() -> None:
            try:
                while True:
                    async with self._db.system_tx() as tx:
                        queues = self._queues() or ["default"]
                        if not await store.waiting(tx, queues, self._clock.now()) and not self._held:
                            return
                    await asyncio.sleep(0.01)
            finally:
                stop.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(self.run(stop))
            group.create_task(watch())

    # -- the pump ---------------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        hungry, pause = True, 0.05
        while True:
            room = self._room()
            if not self._completed and not self._verdicts and not (hungry and room):
                await self._subscription.wait(self._wait)
                hungry = True
                continue
            try:
                hungry = await self._turn(room)
            except Exception as error:
                _log.error("claiming failed; trying again", seconds=pause, exc_info=error)
                self._whole_look_at = 0.0
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
                hungry = True
                continue
            pause = 0.05
            hungry = hungry or self._successors
            self._successors = False

    async def _turn(self, room: int) -> bool:
        """Writes the outcomes at hand and claims at most `room` jobs. Returns whether there may be more at once."""
        await self._settle()
        if not self._declared:
            await upkeep.declare(self._db, self._handlers)
            self._declared = True
        fences, self._completed = self._completed, []
        now = self._clock.now()
        queues, names, worker = self._queues(), list(self._handlers), self.id
        try:
            in_turns = self._limited and room > 0
            async with self._db.claims_tx(pipelined=not in_turns) as tx:
                if in_turns:
                    await store.lock_limits(tx, queues, names)
                read = await store.turn(
                    tx,
                    worker=worker or _NOBODY,
                    first_fence=self._lease.take_fences(room),
                    fences=fences,
                    queues=queues,
                    names=names,
                    room=room,
                    now=now,
                    memory=self._flows.memory(),
                )
                if self._limited and fences:
                    tx.notify(topics.READY)  # others may have waited for these places
            turn = await read()
        except BaseException:
            self._completed = fences + self._completed
            raise
        self._written(fences, len(fences) - turn.finished)
        if worker != self.id:
            return False  # the lease lapsed meanwhile: these claims are for others to rescue
        for claim in turn.claimed:
            self._held[claim.fence] = claim
            if self._draining:
                self._verdicts.append(Verdict(claim.fence, JobState.AVAILABLE, now, False, None))
            else:
                self._work.put_nowait(claim)
        if room and not turn.alive:
            self._lease.lapse("another worker declared this one dead")
        if not room:
            return False
        self._flows.learn(turn)
        for kind, name in turn.full:
            metrics.full.labels(kind, name).inc()
        self._wait = _POLL if turn.wait is None else min(_POLL, max(_BREATH, turn.wait))
        return self._flows.goes_on(turn, room)

    async def _settle(self) -> None:
        verdicts, self._verdicts = self._verdicts, []
        if not verdicts:
            return
        kept: set[int] | None = None
        try:
            while kept is None:
                kept = await self._settle_once(verdicts)
        except BaseException:
            self._verdicts = verdicts + self._verdicts
            raise
        self._written([verdict.fence for verdict in verdicts], len(verdicts) - len(kept))

    async def _settle_once(self, verdicts: list[Verdict]) -> set[int] | None:
        try:
            async with self._db.system_tx(indexed=True) as tx:
                kept = await store.settle(tx, verdicts, self._clock.now())
                if kept is None:
                    raise _KeyTakenMeanwhile
                tx.notify(topics.DUE)
                tx.notify(topics.READY)
                return kept
        except _KeyTakenMeanwhile:
            return None

    def _written(self, fences: Sequence[int], refused: int) -> None:
        for fence in fences:
            self._held.pop(fence, None)
        if refused:
            metrics.lost.inc(refused)
            _log.warning("outcomes refused: the jobs were another worker's by then", count=refused)

    def _give_back_unknown(self, claims: AbstractSet[int]) -> None:
        """Claims of ours that we do not hold wait again: their answer was lost with a connection, or the server forgot
        in a crash that they were completed. Seen twice, because a turn may be under way."""
        unknown = claims - self._held.keys()
        lost = unknown & self._unknown
        self._unknown = unknown - lost
        if lost:
            _log.warning("claims given back that this worker does not hold", count=len(lost))
            now = self._clock.now()
            self._verdicts += [Verdict(fence, JobState.AVAILABLE, now, False, None) for fence in lost]

    def _room(self) -> int:
        if self.id is None or self._draining:
            return 0
        busy = sum(lane.current is not None for lane in self._lanes)
        lanes = len(self._lanes)
        if self._limited:
            return lanes - busy - self._work.qsize()  # what is claimed begins at once: a claim is a start
        ahead = min(_MAX_AHEAD, int(lanes * _AHEAD_SECONDS / max(self._average, 1e-6)))
        wanted = lanes - busy + ahead - self._work.qsize()
        # small top-ups would cost a turn for each job that ends
        return wanted if wanted * 2 >= ahead or not self._work.qsize() else 0

    def _report(self, claim: Claimed, verdict: Verdict | None, seconds: float) -> None:
        self._average += (seconds - self._average) * 0.05
        handler = self._handlers[claim.name]
        handler.metrics.run.observe(seconds)
        if is_lost(verdict):
            self._held.pop(claim.fence, None)
            handler.metrics.ended("lost")
        elif verdict is None:
            self._completed.append(claim.fence)
            self._successors |= claim.unique_key is not None
            handler.metrics.completed.inc()
        else:
            self._verdicts.append(verdict)
            handler.metrics.ended(verdict.state)
        self._subscription.wake()

    def _queues(self) -> list[str]:
        """Ours, beginning with another one each time, so that a full queue does not starve the next."""
        if self._fixed_queues is not None:
            names = list(self._fixed_queues)
        else:
            names = sorted({handler.queue for handler in self._handlers.values()} | set(self._other_queues))
        self._turns += 1
        first = self._turns % len(names) if names else 0
        return names[first:] + names[:first]

    @property
    def _subscription(self) -> Subscription:
        if self._wake is None:
            raise RuntimeError("the worker does not run")
        return self._wake

    # -- the lease, cancellation and the end ------------------------------------------------------------------------

    async def _look_around(self) -> None:
        """Which queues there are, which of them are limited, and what became of our claims."""
        worker = self.id
        async with self._db.system_tx(indexed=True) as tx:
            if self._fixed_queues is None:
                self._other_queues = await store.ready_queues(tx)
            limited = await store.limited(tx, self._queues(), list(self._handlers))
            self._limited = limited or any(handler.limits for handler in self._handlers.values())
            claims = await self._claims(tx, worker) if worker else {}
        if worker is not None and worker == self.id:
            self._stop_cancelled({fence for fence, cancelling in claims.items() if cancelling})
            self._give_back_unknown(claims.keys())
        self._subscription.wake()

    async def _claims(self, tx: Tx, worker: UUID) -> dict[int, bool]:
        """Our claims: all of them, for an answer may have been lost, or the server may have forgotten in a crash what
        was completed. Only while an old snapshot is held, so that the entries of all that ran since lie there, those
        from the oldest on that we hold, and all of them now and then."""
        if not self._unknown and time.monotonic() < self._whole_look_at:
            return (await store.claims(tx, worker, min(self._held, default=self._lease.next_fence)))[0]
        claims, read = await store.claims(tx, worker, 0)
        self._whole_look_at = time.monotonic() + pause_after(read, len(claims))
        return claims

    def _stop_work(self) -> None:
        while not self._work.empty():
            self._held.pop(self._work.get_nowait().fence, None)
        for lane in self._lanes:
            lane.interrupt(Interruption.LAPSED)

    async def _watch_cancellations(self) -> None:
        with self._db.notifier.subscribe(topics.CANCEL) as asked:
            while True:
                if await asked.wait(60):
                    try:
                        await self._look_around()
                    except Exception as error:
                        _log.error("cancellations not read; they are read again soon", exc_info=error)

    async def _watch_timeouts(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            now = time.monotonic()
            for lane in self._lanes:
                if lane.times_out_at <= now:
                    lane.interrupt(Interruption.TIMED_OUT)

    def _stop_cancelled(self, fences: set[int]) -> None:
        for lane in self._lanes:
            if lane.current is not None and lane.current.fence in fences:
                lane.interrupt(Interruption.CANCELLED)

    async def _drain(self) -> None:
        self._draining = True
        now = self._clock.now()
        while not self._work.empty():
            claim = self._work.get_nowait()
            self._verdicts.append(Verdict(claim.fence, JobState.AVAILABLE, now, False, None))
        self._subscription.wake()
        if not await self._until_free(self._grace):
            for lane in self._lanes:
                lane.interrupt(Interruption.DRAINED)
            await self._until_free(5.0)
        await self._until_written(5.0)

    async def _until_free(self, seconds: float) -> bool:
        return await _until(lambda: all(lane.current is None for lane in self._lanes), seconds)

    async def _until_written(self, seconds: float) -> bool:
        return await _until(lambda: not self._held or self.id is None, seconds)


_NOBODY = UUID(int=0)


class _KeyTakenMeanwhile(Exception):
    """A newer job with the same key came in between."""


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancels tasks until they have ended. Once may not do: `asyncio.wait_for` of Python 3.11 can swallow it in a chore
    of another room, and a loop goes on."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1.0)


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        await asyncio.sleep(0.005)
    return True
