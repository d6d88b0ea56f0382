"""The worker protocol: jobs for programs in other languages, over HTTP. See docs/reference/worker-protocol.md."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Query, Request, Response

from ...kernel.db import Tx
from ...kernel.http import NO_CONTENT, Caller, Router, service
from ..models import JobLost, JobState
from .models import (
    ClaimRequest,
    Claims,
    Completed,
    Ended,
    Failed,
    Heartbeat,
    HeldClaim,
    JobHandledHere,
    NewWorker,
    Outcome,
    Progressed,
    Registered,
    RemoteWorker,
    Snoozed,
    TooManyJobNames,
    WorkerLost,
)
from .service import RemoteWorkers

router = Router("/api/workers", tag="remote workers")
Service = Annotated[RemoteWorkers, service("remote_workers")]
ClaimQuery = Annotated[str, Query(pattern=r"^[0-9]{1,19}$", description="The claim, as it was given.")]
WORK = "jobs:work"


@router.post("", permission=WORK, status=201, errors=[JobHandledHere, TooManyJobNames])
async def register(body: NewWorker, by: Caller, workers: Service) -> Registered:
    """Register a worker and the jobs it can run. Its lease begins."""
    return await workers.register(by, body)


@router.get("", permission="jobs:read")
async def index(by: Caller, workers: Service) -> list[RemoteWorker]:
    """The tenant's remote workers that live."""
    return await workers.living(by)


@router.post("/{worker}/heartbeat", permission=WORK, errors=[WorkerLost])
async def heartbeat(worker: UUID, by: Caller, workers: Service) -> Heartbeat:
    """Renew the lease; the answer says what the worker holds and what it shall stop."""
    return await workers.heartbeat(by, worker)


@router.post("/{worker}/claim", permission=WORK, errors=[WorkerLost])
async def claim(worker: UUID, body: ClaimRequest, by: Caller, workers: Service, request: Request) -> Claims:
    """Claim jobs to run now; waits for the first as long as asked."""
    return await workers.claim(by, worker, body, request.is_disconnected)


@router.get("/{worker}/jobs/{job}/input", permission=WORK, errors=[JobLost])
async def input(worker: UUID, job: UUID, claim: ClaimQuery, by: Caller, workers: Service) -> object:
    """The input of a claimed job, for one that is too large to come with the claim."""
    return Response(await workers.input(by, worker, job, claim), media_type="application/json")


@router.post("/{worker}/jobs/{job}/progress", permission=WORK, errors=[JobLost])
async def progress(worker: UUID, job: UUID, body: Progressed, by: Caller, workers: Service) -> HeldClaim:
    """Tell how far the attempt is; the answer says whether it shall stop."""
    return await workers.progress(by, worker, job, body.claim, body.fraction, body.note)


@router.post("/{worker}/jobs/{job}/complete", permission=WORK, errors=[JobLost])
async def complete(worker: UUID, job: UUID, body: Completed, by: Caller, tx: Tx, workers: Service) -> Outcome:
    """The job is done."""
    return await workers.complete(by, worker, job, body.claim, tx=tx)


@router.post("/{worker}/jobs/{job}/fail", permission=WORK, errors=[JobLost])
async def fail(worker: UUID, job: UUID, body: Failed, by: Caller, tx: Tx, workers: Service) -> Outcome:
    """The attempt failed: the job is repeated after its backoff, or discarded after its last attempt."""
    after = None if body.retry_after_seconds is None else timedelta(seconds=body.retry_after_seconds)
    return await workers.fail(by, worker, job, body.claim, body.error, after=after, tx=tx)


@router.post("/{worker}/jobs/{job}/snooze", permission=WORK, errors=[JobLost])
async def snooze(worker: UUID, job: UUID, body: Snoozed, by: Caller, tx: Tx, workers: Service) -> Outcome:
    """Not yet: run the job again later. Does not count as an attempt."""
    after = timedelta(seconds=body.seconds)
    return await workers.end(by, worker, job, body.claim, JobState.SCHEDULED, body.reason, after=after, tx=tx)


@router.post("/{worker}/jobs/{job}/discard", permission=WORK, errors=[JobLost])
async def discard(worker: UUID, job: UUID, body: Ended, by: Caller, tx: Tx, workers: Service) -> Outcome:
    """Trying again cannot help: the job is dead, to be looked at."""
    return await workers.end(by, worker, job, body.claim, JobState.DISCARDED, body.reason, tx=tx)


@router.post("/{worker}/jobs/{job}/cancel", permission=WORK, errors=[JobLost])
async def cancel(worker: UUID, job: UUID, body: Ended, by: Caller, tx: Tx, workers: Service) -> Outcome:
    """There is nothing left to do, or someone asked to cancel the job."""
    return await workers.end(by, worker, job, body.claim, JobState.CANCELLED, body.reason, tx=tx)


@router.post("/{worker}/jobs/{job}/release", permission=WORK, errors=[JobLost])
async def release(worker: UUID, job: UUID, body: Completed, by: Caller, tx: Tx, workers: Service) -> Outcome:
    """Give a job back that was not begun; it waits again and the attempt does not count."""
    return await workers.end(by, worker, job, body.claim, JobState.AVAILABLE, tx=tx)


@router.delete("/{worker}", permission=WORK, status=NO_CONTENT, errors=[WorkerLost])
async def leave(worker: UUID, by: Caller, workers: Service) -> None:
    """The worker leaves; what it still holds is given to others."""
    await workers.leave(by, worker)
