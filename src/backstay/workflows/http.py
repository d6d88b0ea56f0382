"""Runs over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from ..kernel.db import Tx
from ..kernel.http import Caller, Page, PageRequest, Router, service
from .models import (
    Cancelling,
    Fork,
    Move,
    NewRun,
    RunDetail,
    RunEnded,
    RunInputInvalid,
    RunNotFound,
    RunNotMendable,
    RunState,
    RunView,
    StepOutOfRange,
    UnknownVersion,
    UnknownWorkflow,
)
from .service import Workflows
from .signals import SignalInvalid, SignalView
from .signals.models import NewSignal

router = Router("/api/runs", tag="runs")
Service = Annotated[Workflows, service("workflows")]


@router.post("", permission="runs:write", status=201, errors=[UnknownWorkflow, RunInputInvalid])
async def start(body: NewRun, by: Caller, tx: Tx, workflows: Service) -> RunDetail:
    """Start a run of a registered workflow. A second start with the same `key` returns the first run."""
    return await workflows.start_raw(
        body.workflow, body.input, by=by, key=body.key, deadline=body.deadline, budget=body.budget, tx=tx
    )


@router.get("", permission="runs:read")
async def index(
    by: Caller,
    page: PageRequest,
    workflows: Service,
    state: RunState | None = None,
    workflow: Annotated[str | None, Query(max_length=200)] = None,
    parent: UUID | None = None,
) -> Page[RunView]:
    """The tenant's runs, newest first."""
    found = await workflows.list(
        by, limit=page.limit + 1, after=page.after_id, state=state, workflow=workflow, parent=parent
    )
    return Page.of(found, page, lambda run: [run.id])


@router.get("/{id}", permission="runs:read", errors=[RunNotFound])
async def show(id: UUID, by: Caller, workflows: Service) -> RunDetail:
    """One run with its input, output and steps."""
    return await workflows.get(by, id)


@router.post("/{id}/cancel", permission="runs:write", errors=[RunNotFound, RunEnded])
async def cancel(id: UUID, body: Cancelling, by: Caller, tx: Tx, workflows: Service) -> RunDetail:
    """Cancel a run. One that waits ends at once; one that runs is asked to stop, and its children end with it."""
    return await workflows.cancel(by, id, reason=body.reason, tx=tx)


@router.post("/{id}/signals", permission="runs:write", status=201, errors=[RunNotFound, RunEnded, SignalInvalid])
async def send_signal(id: UUID, body: NewSignal, by: Caller, tx: Tx, workflows: Service) -> SignalView:
    """Send a signal to a run. A second one with the same `key` is not sent: the first is returned."""
    return await workflows.send_signal(id, body.name, body.payload, by=by, key=body.key, tx=tx)


@router.get("/{id}/signals", permission="runs:read", errors=[RunNotFound])
async def signals(id: UUID, by: Caller, page: PageRequest, workflows: Service) -> Page[SignalView]:
    """The signals that were sent to a run, in order."""
    after = int(page.after[0]) if page.after else 0
    found = await workflows.signals.list(by, id, after=after, limit=page.limit + 1)
    return Page.of(found, page, lambda signal: [signal.number])


@router.post("/{id}/retry", permission="runs:write", errors=[RunNotFound, RunNotMendable])
async def retry(id: UUID, by: Caller, tx: Tx, workflows: Service) -> RunDetail:
    """Have a failed or nondeterministic run go on from where it stood; finished steps keep their outputs."""
    await workflows.mending.retry(by, id, tx=tx)
    return await workflows.get(by, id, tx=tx)


@router.post("/{id}/move", permission="runs:write", errors=[RunNotFound, RunNotMendable, UnknownVersion])
async def move(id: UUID, body: Move, by: Caller, tx: Tx, workflows: Service) -> RunDetail:
    """Have an unfinished, failed or nondeterministic run go on in another version of its workflow."""
    await workflows.mending.move(by, id, body.version, tx=tx)
    return await workflows.get(by, id, tx=tx)


@router.post("/{id}/fork", permission="runs:write", status=201, errors=[RunNotFound, StepOutOfRange, UnknownVersion])
async def fork(id: UUID, body: Fork, by: Caller, tx: Tx, workflows: Service) -> RunDetail:
    """Start a new run that takes over the finished steps below `step` and goes on from there."""
    forked = await workflows.mending.fork(by, id, body.step, version=body.version, tx=tx)
    return await workflows.get(by, forked, tx=tx)
