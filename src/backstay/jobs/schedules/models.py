"""Schedules as data: what is asked for, what callers see, what was fired. No I/O."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ...kernel.errors import NotFound

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$"


class Missed(StrEnum):
    """What happens to times at which no worker ran."""

    ONCE = "once"
    SKIP = "skip"


class ScheduleNotFound(NotFound):
    code, title = "schedule_not_found", "Schedule not found"


class NewSchedule(BaseModel):
    """What a schedule enqueues, and when."""

    model_config = ConfigDict(extra="forbid")

    job: str = Field(min_length=1, max_length=200, description="Name of a registered job.")
    input: dict[str, Any] = Field(default_factory=dict, description="The job's input.")
    cron: str = Field(
        min_length=1,
        max_length=200,
        description="Minute, hour, day, month, weekday; or six fields, with seconds in front.",
        examples=["0 3 * * *"],
    )
    timezone: str = Field("UTC", min_length=1, max_length=100, description="Where the times are read.")
    queue: str | None = Field(None, min_length=1, max_length=100, description="The job's own queue when missing.")
    priority: int = Field(0, ge=-100, le=100, description="Higher runs first.")
    missed: Missed = Field(
        Missed.ONCE,
        description="After a time without workers: `once` fires for the last time that was missed, `skip` waits for "
        "the next.",
    )
    overlap: bool = Field(
        True,
        description="Whether a firing may run beside an earlier one. If not, it waits for it, and is left out while "
        "another one waits already.",
    )


class ScheduleView(NewSchedule):
    """A schedule. Times are UTC."""

    name: str
    queue: str
    remote: bool = Field(description="Whether the tenant's workers in other languages run the job.")
    paused: bool
    next_at: datetime | None = Field(description="When it fires next; null when never again, or while it is paused.")
    last_at: datetime | None = Field(description="The time it fired for last.")
    created_at: datetime
    updated_at: datetime


class ScheduleDetail(ScheduleView):
    """A schedule with the times ahead."""

    coming: list[datetime] = Field(description="The next times, were it not paused.")


class Fire(BaseModel):
    """One firing: for which time, which job, and when it was enqueued."""

    at: datetime
    job_id: UUID
    fired_at: datetime


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule whose time has come, locked."""

    tenant_id: UUID
    name: str
    job: str
    input: dict[str, Any]
    cron: str
    timezone: str
    queue: str
    remote: bool
    priority: int
    missed: Missed
    overlap: bool
    next_at: datetime
