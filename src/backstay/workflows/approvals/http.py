"""The inbox of approvals over HTTP."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query

from ...kernel.db import Tx
from ...kernel.http import Caller, Page, PageRequest, Router, service
from .models import (
    ApprovalClosed,
    ApprovalNotFound,
    ApprovalState,
    ApprovalView,
    EditInvalid,
    Override,
    Refusal,
    Verdict,
)
from .service import Approvals

router = Router("/api/approvals", tag="approvals")
Service = Annotated[Approvals, service("approvals")]
Text = Annotated[str | None, Query(max_length=200)]


@router.get("", permission="approvals:read")
async def index(
    by: Caller,
    page: PageRequest,
    approvals: Service,
    state: ApprovalState | Literal["all"] = ApprovalState.PENDING,
    run: UUID | None = None,
    workflow: Text = None,
    role: Text = None,
) -> Page[ApprovalView]:
    """The tenant's approvals, newest first: the pending ones unless `state` says otherwise."""
    found = await approvals.list(
        by,
        limit=page.limit + 1,
        after=page.after_id,
        state=None if state == "all" else state,
        run=run,
        workflow=workflow,
        role=role,
    )
    return Page.of(found, page, lambda approval: [approval.id])


@router.get("/{id}", permission="approvals:read", errors=[ApprovalNotFound])
async def show(id: UUID, by: Caller, approvals: Service) -> ApprovalView:
    """One approval."""
    return await approvals.get(by, id)


@router.post("/{id}/approve", permission="approvals:write", errors=[ApprovalNotFound, ApprovalClosed])
async def approve(id: UUID, body: Verdict, by: Caller, tx: Tx, approvals: Service) -> ApprovalView:
    """Approve what was asked for. 409 when it is not pending any more."""
    return await approvals.approve(by, id, reason=body.reason, tx=tx)


@router.post("/{id}/deny", permission="approvals:write", errors=[ApprovalNotFound, ApprovalClosed])
async def deny(id: UUID, body: Refusal, by: Caller, tx: Tx, approvals: Service) -> ApprovalView:
    """Deny what was asked for. 409 when it is not pending any more."""
    return await approvals.deny(by, id, reason=body.reason, tx=tx)


@router.post("/{id}/edit", permission="approvals:write", errors=[ApprovalNotFound, ApprovalClosed, EditInvalid])
async def edit(id: UUID, body: Override, by: Caller, tx: Tx, approvals: Service) -> ApprovalView:
    """Approve it with other values in some of its fields. 409 when it is not pending any more."""
    return await approvals.edit(by, id, body.request, reason=body.reason, tx=tx)
