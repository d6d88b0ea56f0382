"""Collections, documents and search over HTTP."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import Body, Header, Path
from pydantic import BaseModel, ConfigDict, Field

from ..kernel.db import Tx
from ..kernel.http import Caller, Page, PageRequest, Router, View, service
from .files import FileUnreadable, ReaderMissing
from .models import (
    NAME,
    CollectionAttached,
    CollectionDiffers,
    CollectionNeedsCode,
    CollectionNotFound,
    Definition,
    DocumentInvalid,
    DocumentNotFound,
    NoEmbedder,
)
from .service import MAX_BATCH, Content

router = Router("/api/collections", tag="content")
Service = Annotated[Content, service("content")]
Name = Annotated[str, Path(pattern=NAME, description="The collection.")]
Id = Annotated[str, Path(min_length=1, max_length=500, description="The document; its id may contain slashes.")]


class CollectionView(View):
    """A collection and how its documents are read, cut and embedded."""

    name: str
    definition: Definition
    by_code: bool = Field(description="A Python function makes the searched text: only its program may write.")
    created_at: datetime


class NewDocument(BaseModel):
    """A document of a batch."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=500)
    body: dict[str, Any]


class Batch(BaseModel):
    """Documents that are written together, all or none."""

    model_config = ConfigDict(extra="forbid")

    documents: list[NewDocument] = Field(min_length=1, max_length=MAX_BATCH)


class PutView(View):
    """What became of a document. `changed` is false when the same body stood already."""

    id: str
    rev: int
    created: bool
    changed: bool


class BatchView(BaseModel):
    documents: list[PutView]


class DocumentView(View):
    """A document as it stands."""

    id: str
    rev: int
    body: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class DeletedView(BaseModel):
    id: str
    deleted: bool = Field(description="False when there was no such document.")


class CoverageView(View):
    """How much of a collection has vectors."""

    documents: int
    chunks: int
    embedded: int
    pending: int
    parked: int = Field(description="Chunks that the embedder refused.")
    lag: float = Field(description="Seconds that the oldest waiting chunk has waited.")
    rests_until: datetime | None = Field(description="The embedder is not asked before this time.")
    trouble: str | None = Field(description="Why it rests, or is asked slowly.")


class ParkedView(View):
    """A chunk that the embedder refused."""

    chunk: UUID
    id: str = Field(description="Its document.")
    text: str
    error: str
    since: datetime


class EmbedCallView(View):
    """A request to the embedder."""

    id: UUID
    state: str = Field(description="asked, answered (and paid), then written, failed or lost (in a crash).")
    inputs: int
    tokens: int = Field(description="Estimated until the provider has answered.")
    cost: Decimal | None = Field(description="In USD; null until the provider has answered.")
    error: str | None
    asked_at: datetime
    finished_at: datetime | None


class RetriedView(BaseModel):
    chunks: int


@router.get("", permission="content:read")
async def index(by: Caller, page: PageRequest, content: Service) -> Page[CollectionView]:
    """Collections of the tenant, by name."""
    found = await content.collections(by, page.after_name, page.limit + 1)
    return Page.of([CollectionView.of(standing) for standing in found], page, lambda view: [view.name])


@router.get("/{name}", permission="content:read", errors=[CollectionNotFound])
async def show(name: Name, by: Caller, content: Service) -> CollectionView:
    """One collection."""
    return CollectionView.of(await content.find(by, name))


@router.put("/{name}", permission="content:write", errors=[CollectionDiffers, CollectionAttached])
async def declare(name: Name, body: Definition, by: Caller, tx: Tx, content: Service) -> CollectionView:
    """Make a collection. The same definition again changes nothing, another one goes while there are no documents."""
    standing, _ = await content.declare(by, name, body, tx=tx)
    return CollectionView.of(standing)


@router.get("/{name}/documents", permission="content:read", errors=[CollectionNotFound])
async def documents(name: Name, by: Caller, page: PageRequest, content: Service) -> Page[DocumentView]:
    """Documents by id."""
    found = await content.documents(by, name, page.after_name, page.limit + 1)
    return Page.of([DocumentView.of(document) for document in found], page, lambda view: [view.id])


@router.post(
    "/{name}/documents",
    permission="content:write",
    errors=[CollectionNotFound, CollectionNeedsCode, CollectionDiffers, CollectionAttached, DocumentInvalid],
)
async def put_many(name: Name, body: Batch, by: Caller, tx: Tx, content: Service) -> BatchView:
    """Write up to 1,000 documents, all or none. They are found as text at once and by their vectors soon after."""
    puts = await content.put_many(by, name, [(document.id, document.body) for document in body.documents], tx=tx)
    return BatchView(documents=[PutView.of(put) for put in puts])


@router.put(
    "/{name}/documents/{id:path}",
    permission="content:write",
    errors=[CollectionNotFound, CollectionNeedsCode, CollectionDiffers, CollectionAttached, DocumentInvalid],
)
async def put(name: Name, id: Id, body: dict[str, Any], by: Caller, tx: Tx, content: Service) -> PutView:
    """Write one document; the request's body is the document's. Nothing is written when the same stands already."""
    return PutView.of((await content.put_many(by, name, [(id, body)], tx=tx))[0])


@router.put(
    "/{name}/files/{id:path}",
    permission="content:write",
    errors=[CollectionNotFound, CollectionNeedsCode, CollectionDiffers, DocumentInvalid, FileUnreadable, ReaderMissing],
)
async def put_file(
    name: Name,
    id: Id,
    by: Caller,
    content: Service,
    body: Annotated[bytes, Body(media_type="application/octet-stream", description="The file.")],
    content_type: Annotated[
        str | None, Header(description="Its media type; one that is not known leaves it to the end of the id.")
    ] = None,
) -> PutView:
    """Write a PDF, DOCX, HTML, Markdown or text file as a document with its title, text and number of pages."""
    return PutView.of(await content.put_file(by, name, id, body, type=content_type))


@router.get("/{name}/documents/{id:path}", permission="content:read", errors=[DocumentNotFound])
async def get(name: Name, id: Id, by: Caller, content: Service) -> DocumentView:
    """One document."""
    return DocumentView.of(await content.get(by, name, id))


@router.delete(
    "/{name}/documents/{id:path}", permission="content:write", errors=[CollectionNotFound, CollectionAttached]
)
async def delete(name: Name, id: Id, by: Caller, tx: Tx, content: Service) -> DeletedView:
    """Delete a document with its chunks and vectors."""
    return DeletedView(id=id, deleted=await content.delete(by, name, id, tx=tx))


@router.get("/{name}/coverage", permission="content:read", errors=[CollectionNotFound])
async def coverage(name: Name, by: Caller, content: Service) -> CoverageView:
    """How many chunks have their vectors, how many wait, and for how long."""
    return CoverageView.of(await content.coverage(by, name))


@router.get("/{name}/parked", permission="content:read", errors=[CollectionNotFound, NoEmbedder])
async def parked(name: Name, by: Caller, page: PageRequest, content: Service) -> Page[ParkedView]:
    """Chunks that the embedder refused, and why."""
    found = await content.parked(by, name, page.after_id, page.limit + 1)
    return Page.of([ParkedView.of(chunk) for chunk in found], page, lambda view: [str(view.chunk)])


@router.get("/{name}/embed-calls", permission="content:read", errors=[CollectionNotFound, NoEmbedder])
async def embed_calls(name: Name, by: Caller, page: PageRequest, content: Service) -> Page[EmbedCallView]:
    """Requests to the embedder and what they cost, newest first."""
    found = await content.embed_calls(by, name, page.after_id, page.limit + 1)
    return Page.of([EmbedCallView.of(call) for call in found], page, lambda view: [str(view.id)])


@router.post("/{name}/retry-parked", permission="content:write", errors=[CollectionNotFound, NoEmbedder])
async def retry_parked(name: Name, by: Caller, tx: Tx, content: Service) -> RetriedView:
    """Try the chunks again that the embedder refused, and ask an embedder that rests."""
    return RetriedView(chunks=await content.retry_parked(by, name, tx=tx))
