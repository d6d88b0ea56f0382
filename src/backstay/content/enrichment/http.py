"""Fields that models fill, over HTTP."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, Field

from ...kernel.db import Tx
from ...kernel.http import Caller, Page, PageRequest, Router, View, service
from ..models import NAME, CollectionAttached, CollectionNotFound
from .models import FIELD, Enrichment, EnrichmentNotFound
from .service import Enrichments

router = Router("/api/collections/{name}/enrichments", tag="content")
Service = Annotated[Enrichments, service("enrichments")]
Name = Annotated[str, Path(pattern=NAME, description="The collection.")]
FieldName = Annotated[str, Path(pattern=FIELD, alias="field", description="The field of the body.")]


class EnrichmentView(View):
    """A field that a model fills, and how far that is."""

    field: str
    model: str
    prompt: str
    max_tokens: int
    waiting: int = Field(description="Documents that wait for the model.")
    done: int
    failed: int = Field(description="Documents that the model refused, or answered in a way that cannot be kept.")
    cost: Decimal = Field(description="In USD, of the documents that stand.")


class EnrichmentsView(BaseModel):
    items: list[EnrichmentView]


class DeclaredView(BaseModel):
    field: str
    new: bool = Field(description="False when it stood so already; else documents that stand are gone through now.")


class FailedView(View):
    """A document whose field could not be filled."""

    id: str
    error: str
    since: datetime


class TriedView(BaseModel):
    documents: int


@router.get("", permission="content:read", errors=[CollectionNotFound])
async def index(name: Name, by: Caller, enrichments: Service) -> EnrichmentsView:
    """Fields that models fill, how far that is, and what it has cost."""
    found = await enrichments.standings(by, name)
    return EnrichmentsView(items=[EnrichmentView.of(one) for one in found])


@router.put("/{field}", permission="content:write", errors=[CollectionNotFound, CollectionAttached])
async def declare(
    name: Name, field: FieldName, body: Enrichment, by: Caller, tx: Tx, enrichments: Service
) -> DeclaredView:
    """Have a model fill a field of every document that lacks it, now and later."""
    return DeclaredView(field=field, new=await enrichments.declare(by, name, field, body, tx=tx))


@router.delete("/{field}", permission="content:write", status=204, errors=[EnrichmentNotFound])
async def remove(name: Name, field: FieldName, by: Caller, tx: Tx, enrichments: Service) -> None:
    """Fill the field no longer. What was filled stays in the documents."""
    await enrichments.remove(by, name, field, tx=tx)


@router.get("/{field}/failed", permission="content:read", errors=[EnrichmentNotFound])
async def failed(name: Name, field: FieldName, by: Caller, page: PageRequest, enrichments: Service) -> Page[FailedView]:
    """Documents whose field could not be filled, and why."""
    found = await enrichments.failed(by, name, field, page.after_name, page.limit + 1)
    return Page.of([FailedView.of(one) for one in found], page, lambda view: [view.id])


@router.post("/{field}/retry", permission="content:write", errors=[EnrichmentNotFound])
async def retry(name: Name, field: FieldName, by: Caller, tx: Tx, enrichments: Service) -> TriedView:
    """Try those again that have failed."""
    return TriedView(documents=await enrichments.retry(by, name, field, tx=tx))
