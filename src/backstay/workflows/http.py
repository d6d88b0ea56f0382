"""Runs over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from ..kernel.db import Tx
from ..kernel.http import Caller, Page, PageRequest, Router, service
from .models import NewRun, RunDetail, RunInputInvalid, RunNotFound, RunState, RunView, UnknownWorkflow
from .service import Workflows

router = Router("/api/runs", tag="runs")
Service = Annotated[Workflows, service("workflows")]


@router.post("", permission="runs:write", status=201, errors=[UnknownWorkflow, RunInputInvalid])
async def start(body: NewRun, by: Caller, tx: Tx, workflows: Service) -> RunDetail:
    """Start a run of a registered workflow. A second start with the same `key` returns the first run."""
    return await workflows.start_raw(body.workflow, body.input, by=by, key=body.key, tx=tx)


@router.get("", permission="runs:read")
async def index(
    by: Caller,
    page: PageRequest,
    workflows: Service,
    state: RunState | None = None,
    workflow: Annotated[str | None, Query(max_length=200)] = None,
) -> Page[RunView]:
    """The tenant's runs, newest first."""
    found = await workflows.list(by, limit=page.limit + 1, after=page.after_id, state=state, workflow=workflow)
    return Page.of(found, page, lambda run: [run.id])


@router.get("/{id}", permission="runs:read", errors=[RunNotFound])
async def show(id: UUID, by: Caller, workflows: Service) -> RunDetail:
    """One run with its input, output and steps."""
    return await workflows.get(by, id)
