"""Schedules over HTTP."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Path
from pydantic import BaseModel, Field

from ...kernel.db import Tx
from ...kernel.http import Caller, Page, PageRequest, Router, service
from ..models import JobInputInvalid, UnknownJob
from .cron import CronInvalid
from .models import NAME, Fire, NewSchedule, ScheduleDetail, ScheduleNotFound, ScheduleView
from .service import Schedules

router = Router("/api", tag="jobs")
Service = Annotated[Schedules, service("schedules")]
Name = Annotated[str, Path(pattern=NAME, description="The schedule.")]


class Enqueued(BaseModel):
    """The job that was enqueued."""

    job_id: UUID = Field(description="See `GET /api/jobs/{id}`.")


@router.get("/schedules", permission="jobs:read")
async def index(by: Caller, page: PageRequest, schedules: Service) -> Page[ScheduleView]:
    """The tenant's schedules by name."""
    found = await schedules.list(by, page.after[0] if page.after else None, page.limit + 1)
    return Page.of(found, page, lambda schedule: [schedule.name])


@router.put("/schedules/{name}", permission="jobs:write", errors=[CronInvalid, UnknownJob, JobInputInvalid])
async def put(name: Name, body: NewSchedule, by: Caller, tx: Tx, schedules: Service) -> ScheduleView:
    """Make a schedule, or change it. It keeps its next time unless the expression or the time zone changes."""
    return await schedules.put(by, name, body, tx=tx)


@router.get("/schedules/{name}", permission="jobs:read", errors=[ScheduleNotFound])
async def show(name: Name, by: Caller, schedules: Service) -> ScheduleDetail:
    """One schedule and its next times."""
    return await schedules.get(by, name)


@router.delete("/schedules/{name}", permission="jobs:write", status=204, errors=[ScheduleNotFound])
async def delete(name: Name, by: Caller, tx: Tx, schedules: Service) -> None:
    """Remove a schedule. Jobs that it has enqueued stay."""
    await schedules.delete(by, name, tx=tx)


@router.get("/schedules/{name}/fires", permission="jobs:read", errors=[ScheduleNotFound])
async def fires(name: Name, by: Caller, page: PageRequest, schedules: Service) -> Page[Fire]:
    """Its firings of the last 30 days, newest first."""
    before = datetime.fromisoformat(page.after[0]) if page.after else None
    found = await schedules.fires(by, name, before, page.limit + 1)
    return Page.of(found, page, lambda fire: [fire.at])


@router.post("/schedules/{name}/pause", permission="jobs:write", errors=[ScheduleNotFound])
async def pause(name: Name, by: Caller, tx: Tx, schedules: Service) -> ScheduleView:
    """Let a schedule fire no more until it is resumed."""
    return await schedules.pause(by, name, tx=tx)


@router.post("/schedules/{name}/resume", permission="jobs:write", errors=[ScheduleNotFound])
async def resume(name: Name, by: Caller, tx: Tx, schedules: Service) -> ScheduleView:
    """Let a schedule fire again from its next time on; times within the pause were not missed."""
    return await schedules.resume(by, name, tx=tx)


@router.post("/schedules/{name}/run", permission="jobs:write", status=201, errors=[ScheduleNotFound])
async def run(name: Name, by: Caller, tx: Tx, schedules: Service) -> Enqueued:
    """Enqueue its job now, besides its times."""
    return Enqueued(job_id=await schedules.run_now(by, name, tx=tx))
