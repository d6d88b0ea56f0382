"""What built-in jobs have left, over HTTP. They are enqueued like any job: `POST /api/jobs`."""

from typing import Annotated
from uuid import UUID

from fastapi.responses import StreamingResponse

from ..jobs import JobDetail, Jobs
from ..kernel.db import Tx
from ..kernel.errors import Forbidden
from ..kernel.http import Caller, Router, service
from .models import NoFile, NoResult, ResultView
from .report import NewReport
from .reports import ReportJob
from .results import Results

router = Router("/api", tag="jobs")
Made = Annotated[ReportJob, service("reports")]
Queue = Annotated[Jobs, service("jobs")]
Kept = Annotated[Results, service("results")]


@router.get("/jobs/{id}/result", permission="jobs:read", errors=[NoResult])
async def result(id: UUID, by: Caller, results: Kept) -> ResultView:
    """What a built-in job has left: an answer, a receipt, or a file."""
    return await results.get(by, id)


@router.get(
    "/jobs/{id}/file",
    permission="jobs:read",
    errors=[NoResult, NoFile, Forbidden],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}, "text/html": {}}, "description": "The file."}},
)
async def file(id: UUID, by: Caller, results: Kept) -> StreamingResponse:
    """The file that a job has made, such as a report. Some need a further permission, which its result names."""
    found, parts = await results.file(by, id)
    # A page that a report is may not act in the name of whoever opens it from here.
    headers = {
        "content-disposition": f'attachment; filename="{found.name}"',
        "content-length": str(found.bytes),
        "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
        "x-content-type-options": "nosniff",
    }
    return StreamingResponse(parts, media_type=found.media_type, headers=headers)


@router.post("/reports", permission="jobs:write", status=201)
async def report(body: NewReport, by: Caller, tx: Tx, reports: Made, jobs: Queue) -> JobDetail:
    """Have a report made. One of spend needs `gateway:read`, one of the audit `audit:read`. Its file is the job's; the
    job's input may also stand in a schedule."""
    return await jobs.get(by, await reports.enqueue(body, by=by, tx=tx), tx=tx)
