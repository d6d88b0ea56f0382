"""Workers in other languages: decides what a remote worker may claim and what its answers change.

A remote worker has the same row, lease and fences as one of ours, with two bounds: it serves one tenant, and it gets
only jobs that were enqueued for remote workers. No connection is held while it waits for a job or runs one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from ...kernel.db import Database, Tx
from ...kernel.errors import Invalid, Unavailable
from ...kernel.ids import new_id
from ...kernel.notify import Subscription
from ...kernel.principal import Principal
from .. import metrics, topics, upkeep
from .. import store as jobs_store
from ..lane import clean
from ..models import Claimed, JobLost, JobState, Retry, Verdict
from ..progress import MAX_NOTE
from . import store
from .models import (
    MAX_NAMES,
    ClaimRequest,
    Claims,
    Heartbeat,
    HeldClaim,
    JobHandledHere,
    NewWorker,
    Outcome,
    Registered,
    RemoteClaim,
    RemoteJob,
    RemoteWorker,
    TooManyJobNames,
    WorkerLost,
)

if TYPE_CHECKING:
    from ..service import Jobs

_POLL = 1.0
_BATCH = 500
_BREATH = 0.05  # seconds between two looks: a busy queue of others wakes those who wait far more often
_UNKNOWN = Retry()


async def never_gone() -> bool:
    return False


class RemoteWorkers:
    """Registers, feeds and hears the remote workers of every tenant."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs, self._db, self._clock = jobs, jobs.db, jobs.clock
        self._closing = False
        self._waiting: set[Subscription] = set()
        self._tended: dict[str, float] = {}

    async def register(self, by: Principal, worker: NewWorker) -> Registered:
        """A new worker of the caller's tenant. What it says of its jobs stands for the tenant from now on, also while
        no worker lives: such jobs can be enqueued and wait.

        Raises:
            JobHandledHere: a handler of this process runs jobs of that name.
            TooManyJobNames: the tenant's workers would have registered more than 1,000 names.
        """
        taken = sorted(job.name for job in worker.jobs if job.name in self._jobs.handlers)
        if taken:
            raise JobHandledHere(f"the server runs {', '.join(taken)} itself; give yours another name")
        queues = list(dict.fromkeys(worker.queues or [job.queue for job in worker.jobs]))
        if len(queues) > 20:
            raise Invalid("a worker claims from at most 20 queues; name them in `queues`")
        id, names = new_id(), [job.name for job in worker.jobs]
        async with self._db.system_tx(indexed=True) as tx:
            await store.lock_declared(tx, by.tenant)
            await store.declare(tx, by.tenant, worker.jobs, self._clock.now())
            if await store.count_declared(tx, by.tenant) > MAX_NAMES:
                raise TooManyJobNames(
                    f"the tenant's workers have registered {MAX_NAMES} names; use the same names again and put what "
                    "differs into the input"
                )
            await store.register(
                tx,
                tenant=by.tenant,
                id=id,
                name=clean(worker.name),
                queues=queues,
                names=names,
                lease=worker.lease_seconds,
            )
        lease = worker.lease_seconds
        return Registered(id=id, queues=queues, lease_seconds=lease, heartbeat_seconds=lease / 3)

    async def living(self, by: Principal, limit: int = 200) -> list[RemoteWorker]:
        """The tenant's remote workers that live."""
        async with self._db.system_tx(indexed=True) as tx:
            return await store.workers(tx, by.tenant, limit)

    async def heartbeat(self, by: Principal, worker: UUID) -> Heartbeat:
        """Renews the lease and tells what the worker holds.

        Raises:
            WorkerLost
        """
        async with self._db.system_tx(indexed=True) as tx:
            lease = await store.beat(tx, by.tenant, worker)
            if lease is None:
                raise _lost_worker(worker)
            claims = await store.claims(tx, by.tenant, worker)
        await self._tend()
        return Heartbeat(lease_seconds=lease, claims=claims)

    async def leave(self, by: Principal, worker: UUID) -> None:
        """Gives the lease up; what the worker still holds waits again.

        Raises:
            WorkerLost
        """
        async with self._db.system_tx(indexed=True) as tx:
            if not await store.leave(tx, by.tenant, worker):
                raise _lost_worker(worker)
        await upkeep.rescue(self._db, self._clock.now())

    # -- claims -----------------------------------------------------------------------------------------------------

    async def claim(
        self, by: Principal, worker: UUID, ask: ClaimRequest, gone: Callable[[], Awaitable[bool]] = never_gone
    ) -> Claims:
        """At most `ask.limit` jobs; waits for the first as long as asked. `gone` says that nobody waits any more.

        Raises:
            WorkerLost
        """
        ends = time.monotonic() + ask.wait_seconds
        with self._db.notifier.subscribe(topics.READY) as ready:
            while True:
                looked = time.monotonic()
                await self._tend()
                found = await self._claim_once(by.tenant, worker, ask.limit)
                left = ends - time.monotonic()
                if found or left <= 0 or self._closing:
                    return Claims(jobs=found)
                self._waiting.add(ready)
                try:
                    await ready.wait(min(left, _POLL))
                finally:
                    self._waiting.discard(ready)
                await asyncio.sleep(min(left, max(0.0, looked + _BREATH - time.monotonic())))
                if self._closing or await gone():
                    return Claims(jobs=[])  # a claim now would be for nobody

    def release_waiting(self) -> None:
        """Answers everyone who waits for a job, and nobody waits from now on: this process ends."""
        self._closing = True
        for ready in self._waiting:
            ready.wake()

    async def _claim_once(self, tenant: UUID, worker: UUID, room: int) -> list[RemoteClaim]:
        now = self._clock.now()
        async with self._db.system_tx(indexed=True) as tx:
            await store.lock_limits(tx, tenant, worker)
            claimed = await store.claim(tx, tenant, worker, room, now)
            if claimed is None:
                raise _lost_worker(worker)
            deadly = await self._deadly(tx, tenant, claimed)
            if deadly and await jobs_store.settle(tx, deadly, now) is None:
                raise Unavailable("a job with the same key came in between; ask again")
        refused = {verdict.fence for verdict in deadly}
        return [_handed(job) for job in claimed if job.fence not in refused]

    async def _deadly(self, tx: Tx, tenant: UUID, claimed: list[Claimed]) -> list[Verdict]:
        """Jobs during which so many workers died that they are discarded: they may be what kills them."""
        rescued = {job.name for job in claimed if job.rescues}
        if not rescued:
            return []
        known = await store.declared(tx, tenant, sorted(rescued))
        return [
            Verdict(job.fence, JobState.DISCARDED, job.run_at, True, f"{job.rescues} workers died while they ran it")
            for job in claimed
            if _retry_of(known.get(job.name)).gives_up(job.rescues)
        ]

    async def _tend(self) -> None:
        """Promotes and rescues now and then, since an installation may have no worker of its own."""
        now = time.monotonic()
        for name, seconds, what in (
            ("promote", _POLL, upkeep.promote),
            ("rescue", self._jobs.settings.lease_seconds / 3, upkeep.rescue),
            ("time out", _POLL, time_out),
        ):
            if now - self._tended.get(name, float("-inf")) >= seconds:
                self._tended[name] = now
                await what(self._db, self._clock.now())

    # -- answers ----------------------------------------------------------------------------------------------------

    async def input(self, by: Principal, worker: UUID, job: UUID, claim: str) -> bytes:
        """The JSON text of a claimed job's input.

        Raises:
            JobLost: the claim is over.
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            found = await store.input(tx, by.tenant, worker, job, int(claim))
        if not found:
            raise _lost_job(job)
        return (found[0] or "null").encode()

    async def progress(
        self, by: Principal, worker: UUID, job: UUID, claim: str, fraction: float, note: str | None = None
    ) -> HeldClaim:
        """How far the attempt is. The answer says whether it is to be stopped.

        Raises:
            JobLost: the claim is over; nothing is changed.
        """
        told = note and clean(note)[:MAX_NOTE]
        async with self._db.tenant_tx(by.tenant) as tx:
            cancelling = await store.progress(tx, by.tenant, worker, job, int(claim), fraction, told)
        if cancelling is None:
            raise _lost_job(job)
        return HeldClaim(job=job, claim=claim, cancelling=cancelling)

    async def complete(self, by: Principal, worker: UUID, job: UUID, claim: str, *, tx: Tx | None = None) -> Outcome:
        """The job is done.

        Raises:
            JobLost: the claim is over; nothing is changed.
        """
        async with self._db.join(tx, by.tenant) as tx:
            done = await store.complete(tx, by.tenant, worker, job, int(claim), self._clock.now())
            if done is None:
                raise _lost_job(job)
            queue, awaited = done
            if awaited:
                tx.notify(topics.READY, queue)
        metrics.remote.labels("completed").inc()
        return Outcome(job=job, state=JobState.COMPLETED)

    async def fail(
        self,
        by: Principal,
        worker: UUID,
        job: UUID,
        claim: str,
        error: str,
        *,
        after: timedelta | None = None,
        tx: Tx | None = None,
    ) -> Outcome:
        """The attempt failed: again after `after` or the job's own backoff, or discarded after its last attempt.

        Raises:
            JobLost: the claim is over; nothing is changed.
        """
        async with self._db.join(tx, by.tenant) as tx:
            held = await self._hold(tx, by.tenant, worker, job, claim)
            known = await store.declared(tx, by.tenant, [held.name])
            retry, now = _retry_of(known.get(held.name)), self._clock.now()
            if held.attempt >= retry.max_attempts:
                verdict = Verdict(int(claim), JobState.DISCARDED, now, True, clean(error))
            else:
                wait = retry.delay(held.attempt, random.random) if after is None else after
                verdict = Verdict(int(claim), JobState.RETRYABLE, now + wait, True, clean(error))
            return await self._settle(tx, job, verdict, held.cancelling)

    async def end(
        self,
        by: Principal,
        worker: UUID,
        job: UUID,
        claim: str,
        state: JobState,
        reason: str | None = None,
        *,
        after: timedelta = timedelta(0),
        tx: Tx | None = None,
    ) -> Outcome:
        """The attempt ends otherwise: SCHEDULED snoozes it by `after`, AVAILABLE gives it back (neither counts as an
        attempt), CANCELLED and DISCARDED finish the job.

        Raises:
            JobLost: the claim is over; nothing is changed.
        """
        async with self._db.join(tx, by.tenant) as tx:
            held = await self._hold(tx, by.tenant, worker, job, claim)
            counted = state in (JobState.CANCELLED, JobState.DISCARDED)
            at = self._clock.now() + after
            verdict = Verdict(int(claim), state, at, counted, reason and clean(reason))
            return await self._settle(tx, job, verdict, held.cancelling)

    async def _hold(self, tx: Tx, tenant: UUID, worker: UUID, job: UUID, claim: str) -> store.Held:
        held = await store.hold(tx, tenant, worker, job, int(claim))
        if held is None:
            raise _lost_job(job)
        return held

    async def _settle(self, tx: Tx, job: UUID, verdict: Verdict, cancelling: bool) -> Outcome:
        kept = await jobs_store.settle(tx, [verdict], self._clock.now())
        if kept is None:
            raise Unavailable("a newer job with the same key came in between; send it again")
        if verdict.fence not in kept:
            raise _lost_job(job)
        tx.notify(topics.DUE)
        tx.notify(topics.READY)
        waits = verdict.state not in (JobState.CANCELLED, JobState.DISCARDED)
        state = JobState.CANCELLED if waits and cancelling else verdict.state
        metrics.remote.labels(state).inc()
        return Outcome(job=job, state=state, run_at=verdict.run_at if waits and not cancelling else None)


async def time_out(db: Database, now: datetime) -> int:
    """Fails the attempts that take longer than their job says. Their claims are over. Returns how many."""
    async with db.system_tx(indexed=True) as tx:
        late = await store.overdue(tx, now, _BATCH)
        if late and await jobs_store.settle(tx, [_timed_out(attempt, now) for attempt in late], now) is None:
            raise Unavailable("a newer job with the same key came in between; send it again")
        for topic in (topics.DUE, topics.READY) if late else ():
            tx.notify(topic)
    metrics.remote.labels("timed out").inc(len(late))
    return len(late)


def _timed_out(late: store.Overdue, now: datetime) -> Verdict:
    error = f"it took longer than its timeout of {late.timeout_seconds:g} seconds"
    if late.attempt >= late.max_attempts:
        return Verdict(late.fence, JobState.DISCARDED, now, True, error)
    retry = Retry(late.max_attempts, timedelta(seconds=late.base_seconds), timedelta(seconds=late.cap_seconds))
    return Verdict(late.fence, JobState.RETRYABLE, now + retry.delay(late.attempt, random.random), True, error)


def _handed(job: Claimed) -> RemoteClaim:
    return RemoteClaim(
        job=job.id,
        claim=str(job.fence),
        name=job.name,
        queue=job.queue,
        attempt=job.attempt,
        rescues=job.rescues,
        priority=job.priority,
        run_at=job.run_at,
        unique_key=job.unique_key,
        input=None if job.payload is None else orjson.loads(job.payload),
        input_is_large=job.payload is None,
    )


def _retry_of(job: RemoteJob | None) -> Retry:
    return job.retry() if job else _UNKNOWN


def _lost_worker(worker: UUID) -> WorkerLost:
    return WorkerLost(f"there is no worker {worker} any more; stop its jobs and register anew")


def _lost_job(job: UUID) -> JobLost:
    metrics.lost.inc()
    return JobLost(f"job {job} is not this claim's any more; drop it")
