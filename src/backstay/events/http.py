"""The outbox over HTTP."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel

from ..kernel.http import Caller, Page, PageRequest, Router, service
from .models import Event
from .service import Events

router = Router("/api/events", tag="events")
Service = Annotated[Events, service("events")]


class EventView(BaseModel):
    """Something that happened in the tenant."""

    id: UUID
    at: datetime
    type: str
    payload: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> "EventView":
        return cls(id=event.id, at=event.at, type=event.type, payload=event.payload)


@router.get("", permission="events:read")
async def index(
    by: Caller,
    page: PageRequest,
    events: Service,
    type: Annotated[str | None, Query(max_length=200)] = None,
) -> Page[EventView]:
    """Events of the tenant, newest first."""
    found = await events.page(by, page.after_id, page.limit + 1, type)
    return Page.of([EventView.of(event) for event in found], page, lambda event: [event.id])
