"""What a job leaves, as data. No I/O."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from ..kernel.errors import NotFound

COMMON = "jobs:read"  # what everybody may who may look at jobs


class NoResult(NotFound):
    code, title = "job_result_not_found", "The job has left no result"


class NoFile(NotFound):
    code, title = "job_file_not_found", "The job has left no file"


class FileView(BaseModel):
    """A file that a job has made. Its content is at `GET /api/jobs/{id}/file`."""

    name: str
    media_type: str
    bytes: int
    permission: str = Field(description="What its reader must be permitted.")


class ResultView(BaseModel):
    """What a built-in job has left. Kept for BACKSTAY_KEEP_RESULTS_DAYS."""

    job_id: UUID
    name: str = Field(description="The job's name.")
    created_at: datetime
    result: dict[str, Any]
    file: FileView | None = None
