"""Attached tables over HTTP, for the operator of the installation. They are searched as collections are."""

from datetime import datetime
from typing import Annotated

from fastapi import Path, Query
from pydantic import Field

from ...jobs import NotTheOperator
from ...kernel.http import Caller, Page, PageRequest, Router, View, service
from ..models import NAME, CollectionDiffers
from .models import (
    AttachedDiffers,
    AttachedNotFound,
    AttachedState,
    TableBusy,
    TableDefinition,
    TableUnfit,
    TextInvalid,
)
from .service import Attached

router = Router("/api/attached", tag="content")
Service = Annotated[Attached, service("attached")]
Name = Annotated[str, Path(pattern=NAME, description="The attachment, and the collection that is searched.")]


class AttachedView(View):
    """An attached table and how far its rows are, over all tenants."""

    name: str
    definition: TableDefinition
    state: AttachedState
    trouble: str | None = Field(description="Why it is broken, and what mends it.")
    created_at: datetime
    rows: int = Field(description="Rows in the table, as Postgres estimates them.")
    tenants: int = Field(description="Tenants whose rows are followed.")
    filling: int = Field(description="Of these, tenants whose rows are being looked at as a whole.")
    seen: int = Field(description="Rows that this has looked at.")
    refused: int = Field(description="Rows whose text could not be computed.")
    refusal: str | None = Field(description="The key of one of them, and why.")
    waiting: int = Field(description="Writing statements whose rows are not taken over yet.")
    lag: float = Field(description="Seconds that the oldest of them has waited.")
    current: bool = Field(description="Whether all that was committed is taken over.")


@router.get("", permission="content:read", errors=[NotTheOperator])
async def index(by: Caller, page: PageRequest, attached: Service) -> Page[AttachedView]:
    """Attached tables by name."""
    found = await attached.list(by, page.after_name, page.limit + 1)
    return Page.of([AttachedView.of(one) for one in found], page, lambda view: [view.name])


@router.get("/{name}", permission="content:read", errors=[NotTheOperator, AttachedNotFound])
async def show(name: Name, by: Caller, attached: Service) -> AttachedView:
    """One attached table, its state and its progress."""
    return AttachedView.of(await attached.status(by, name))


@router.put(
    "/{name}",
    permission="content:write",
    errors=[NotTheOperator, TableUnfit, TextInvalid, AttachedDiffers, CollectionDiffers, TableBusy],
)
async def attach(name: Name, body: TableDefinition, by: Caller, attached: Service) -> AttachedView:
    """Attach a table: its rows are searched from now on, and followed. The same definition again changes nothing."""
    return AttachedView.of(await attached.attach(by, name, body))


@router.post("/{name}/resync", permission="content:write", errors=[NotTheOperator, AttachedNotFound, AttachedDiffers])
async def resync(name: Name, by: Caller, attached: Service) -> AttachedView:
    """Have every row looked at again. What is the same costs no embedding."""
    return AttachedView.of(await attached.resync(by, name))


@router.delete("/{name}", permission="content:write", errors=[NotTheOperator, AttachedNotFound, TableBusy])
async def detach(
    name: Name,
    by: Caller,
    attached: Service,
    purge: Annotated[bool, Query(description="Delete its documents, too; else they stay and are searched.")] = False,
) -> AttachedView:
    """Take the triggers from a table. The table itself is left alone."""
    return AttachedView.of(await attached.detach(by, name, purge=purge))
