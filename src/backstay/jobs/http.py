"""Jobs over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from ..kernel.db import Tx
from ..kernel.http import Caller, Page, PageRequest, Router, service
from .bulk.models import BulkCancel, BulkResult, BulkRetry
from .models import (
    JobDetail,
    JobFinished,
    JobInputInvalid,
    JobNotFound,
    JobNotRetryable,
    JobState,
    JobView,
    NewJob,
    QueueView,
    UnknownJob,
)
from .service import Jobs

router = Router("/api", tag="jobs")
Service = Annotated[Jobs, service("jobs")]
Text = Annotated[str | None, Query(max_length=200)]


@router.post("/jobs", permission="jobs:write", status=201, errors=[UnknownJob, JobInputInvalid])
async def enqueue(body: NewJob, by: Caller, tx: Tx, jobs: Service) -> JobDetail:
    """Enqueue a registered job. With a `key`, the job that waits under it is returned instead of a second one."""
    return await jobs.enqueue_raw(
        body.name,
        body.input,
        by=by,
        key=body.key,
        at=body.at,
        priority=body.priority,
        queue=body.queue,
        tx=tx,
    )


@router.get("/jobs", permission="jobs:read")
async def index(
    by: Caller,
    page: PageRequest,
    jobs: Service,
    state: JobState | None = None,
    queue: Text = None,
    name: Text = None,
) -> Page[JobView]:
    """The tenant's jobs, newest first; `state=discarded` shows the dead ones."""
    found = await jobs.list(by, limit=page.limit + 1, after=page.after_id, state=state, queue=queue, name=name)
    return Page.of(found, page, lambda job: [job.id])


@router.get("/jobs/{id}", permission="jobs:read", errors=[JobNotFound])
async def show(id: UUID, by: Caller, jobs: Service) -> JobDetail:
    """One job with its input."""
    return await jobs.get(by, id)


@router.post("/jobs/{id}/retry", permission="jobs:write", errors=[JobNotFound, JobNotRetryable])
async def retry(id: UUID, by: Caller, tx: Tx, jobs: Service) -> JobDetail:
    """Run a job now that waits, was cancelled or is dead."""
    return await jobs.retry(by, id, tx=tx)


@router.post("/jobs/{id}/cancel", permission="jobs:write", errors=[JobNotFound, JobFinished])
async def cancel(id: UUID, by: Caller, tx: Tx, jobs: Service) -> JobDetail:
    """Cancel a waiting job, or ask the worker of a running one to stop it."""
    return await jobs.cancel(by, id, tx=tx)


@router.get("/queues", permission="jobs:read")
async def queues(by: Caller, jobs: Service) -> list[QueueView]:
    """The tenant's unfinished jobs by queue."""
    return await jobs.queues(by)


@router.post("/jobs/retry", permission="jobs:write")
async def retry_many(body: BulkRetry, by: Caller, jobs: Service) -> BulkResult:
    """Run all the jobs again that fit: the dead ones unless `states` says otherwise. Answers with their number."""
    return await jobs.retry_many(by, body)


@router.post("/jobs/cancel", permission="jobs:write")
async def cancel_many(body: BulkCancel, by: Caller, jobs: Service) -> BulkResult:
    """Cancel all the jobs that fit: the waiting ones unless `states` says otherwise. Answers with their number."""
    return await jobs.cancel_many(by, body)
