"""The audit over HTTP, for auditors."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query

from ..kernel.http import Caller, Page, PageRequest, Router, View, service
from .models import EntryNotFound, PayloadErased
from .service import Audit

router = Router("/api/audit", tag="audit")
Service = Annotated[Audit, service("audit")]
Text = Annotated[str | None, Query(max_length=300)]


class EntryView(View):
    """Who did what to which resource, and how it ended."""

    id: UUID
    at: datetime
    actor_id: UUID
    actor: str
    action: str
    resource: str
    outcome: str
    run_id: UUID | None
    call_id: UUID | None
    metadata: dict[str, Any]
    has_payload: bool


@router.get("/entries", permission="audit:read")
async def entries(
    by: Caller,
    page: PageRequest,
    audit: Service,
    action: Text = None,
    resource: Text = None,
    run: UUID | None = None,
    call: UUID | None = None,
) -> Page[EntryView]:
    """Entries of the tenant, newest first."""
    found = await audit.entries(by, page.after_id, page.limit + 1, action=action, resource=resource, run=run, call=call)
    return Page.of([EntryView.of(entry) for entry in found], page, lambda entry: [entry.id])


@router.get("/entries/{id}/payload", permission="audit:payload", errors=[EntryNotFound, PayloadErased])
async def payload(id: UUID, by: Caller, audit: Service) -> dict[str, Any]:
    """The decrypted payload of an entry. Reading it is recorded."""
    return await audit.payload(by, id)
