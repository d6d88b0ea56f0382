"""Many jobs at once as data: which ones, and how many it was. No I/O."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints

MAX_AT_ONCE = 100_000
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Retried = Literal["discarded", "cancelled", "retryable"]
Cancelled = Literal["scheduled", "available", "retryable", "running"]


class JobFilter(BaseModel):
    """What all the jobs meant have in common; a missing field means any."""

    name: Text | None = None
    queue: Text | None = None
    error: Text | None = Field(None, description="Part of the last error's text; upper and lower case are the same.")
    since: AwareDatetime | None = Field(None, description="Finished at or after this; a waiting job: created.")
    until: AwareDatetime | None = Field(None, description="Finished before this; a waiting job: created.")


class BulkRetry(JobFilter):
    """Which jobs to run again."""

    states: list[Retried] = Field(["discarded"], min_length=1, max_length=3)
    limit: int = Field(10_000, ge=1, le=MAX_AT_ONCE, description="Stop after so many.")


class BulkCancel(JobFilter):
    """Which jobs to cancel."""

    states: list[Cancelled] = Field(["scheduled", "available", "retryable"], min_length=1, max_length=4)
    limit: int = Field(10_000, ge=1, le=MAX_AT_ONCE, description="Stop after so many.")


class BulkResult(BaseModel):
    """How many jobs it was."""

    changed: int = Field(0, description="Jobs that wait again, or were cancelled.")
    asked: int = Field(0, description="Running jobs whose worker was asked to stop them.")
    skipped: int = Field(0, description="Left as they are: a newer job with the same key waits already.")
    complete: bool = Field(True, description="False: the limit was reached and there may be more; ask again.")
