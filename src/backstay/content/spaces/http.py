"""A collection's spaces over HTTP."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from ...gateway import ModelNotFound, PriceUnknown
from ...kernel.http import Caller, Router, View, service
from ..models import NAME, CollectionNotFound, IndexKind
from .models import Judgement, MigrationRunning, SpaceBusy, SpaceNotFound, SpaceNotReady, SpaceState
from .service import LOSS, RECALL, Spaces

router = Router("/api/collections/{name}/spaces", tag="content")
Service = Annotated[Spaces, service("spaces")]
Name = Annotated[str, Path(pattern=NAME, description="The collection.")]
Id = Annotated[int, Path(ge=1, le=2**62, description="The space.")]


class NewModel(BaseModel):
    """The embedder to change to."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=3, max_length=300, description="`provider:model`.")


class Gate(BaseModel):
    """What is demanded of the space before it is searched."""

    model_config = ConfigDict(extra="forbid")

    recall: float = Field(RECALL, ge=0, le=1, description="Share of the nearest ten that a search must find.")
    loss: float = Field(LOSS, ge=0, le=1, description="How much lower nDCG@10 of judged queries may be than before.")
    force: bool = Field(False, description="Search it though it is not ready. The audit keeps what was wrong.")


class JudgementView(View):
    """Documents that a query should find."""

    query: str = Field(min_length=1, max_length=500)
    relevant: dict[str, int] = Field(description="Ids of documents with grades from 1 to 10.")


class JudgementsView(BaseModel):
    judgements: list[JudgementView] = Field(max_length=1_000)


class Sample(BaseModel):
    """How recall is measured."""

    model_config = ConfigDict(extra="forbid")

    space: int | None = Field(None, ge=1, le=2**62, description="The one that is searched, when missing.")
    queries: int = Field(50, ge=1, le=1_000, description="Vectors of the space that are looked for.")
    k: int = Field(10, ge=1, le=100, description="How many of the nearest count.")


class PreviewView(View):
    """What a change of models would take."""

    model: str
    chunks: int
    tokens: int = Field(description="Estimated.")
    cost: Decimal = Field(description="In USD.")


class SpaceView(View):
    """A space and how far it is."""

    id: int
    model: str
    state: SpaceState
    dimensions: int | None = Field(description="Null until the model has answered once.")
    indexed_at: datetime | None
    since: datetime | None = Field(description="When it came into its state.")
    chunks: int = Field(description="Chunks of the collection.")
    embedded: int = Field(description="Those that have a vector here.")
    pending: int
    parked: int
    index_wish: IndexKind = Field(description="Which index was asked for.")
    index: IndexKind | None = Field(description="Which kind stands; null: every vector is looked at.")
    build: IndexKind | None = Field(description="The kind that is being built.")
    build_phase: str | None
    build_share: float | None = Field(description="What part of the vectors is in it; null in phases that do not tell.")
    build_error: str | None = Field(description="Why the build failed; it is tried again.")


class SpacesView(BaseModel):
    spaces: list[SpaceView]


class RecallView(View):
    """How much of the nearest a search finds."""

    space: int
    recall: float
    queries: int
    k: int
    exact: bool = Field(description="Every vector is looked at, so that nothing can be missed.")


@router.get("", permission="content:read", errors=[CollectionNotFound])
async def index(name: Name, by: Caller, spaces: Service) -> SpacesView:
    """The collection's spaces, the one that is searched first."""
    return SpacesView(spaces=[SpaceView.of(space) for space in await spaces.list(by, name)])


@router.post("/preview", permission="content:read", errors=[CollectionNotFound, ModelNotFound, PriceUnknown])
async def preview(name: Name, body: NewModel, by: Caller, spaces: Service) -> PreviewView:
    """What a change to another embedding model would take and cost. Nothing is changed."""
    return PreviewView.of(await spaces.preview(by, name, body.model))


@router.post(
    "",
    permission="content:write",
    status=202,
    errors=[CollectionNotFound, ModelNotFound, PriceUnknown, MigrationRunning, SpaceBusy],
)
async def migrate(name: Name, body: NewModel, by: Caller, spaces: Service) -> SpaceView:
    """Begin a change to another embedding model. Searches go on with the present one until the switch."""
    return SpaceView.of(await spaces.migrate(by, name, body.model))


@router.post(
    "/{id}/switch",
    permission="content:write",
    errors=[CollectionNotFound, SpaceNotFound, SpaceNotReady, SpaceBusy],
)
async def switch(name: Name, id: Id, body: Gate, by: Caller, spaces: Service) -> SpaceView:
    """Search this space from now on, when it is ready."""
    return SpaceView.of(await spaces.switch(by, name, id, recall=body.recall, loss=body.loss, force=body.force))


@router.put("/judgements", permission="content:write", errors=[CollectionNotFound])
async def judge(name: Name, body: JudgementsView, by: Caller, spaces: Service) -> JudgementsView:
    """Say which documents queries should find, in place of what was said before. The switch compares models by it."""
    await spaces.judgements.put(by, name, [Judgement(one.query, one.relevant) for one in body.judgements])
    return body


@router.get("/judgements", permission="content:read", errors=[CollectionNotFound])
async def judgements(name: Name, by: Caller, spaces: Service) -> JudgementsView:
    """Which documents queries should find."""
    return JudgementsView(judgements=[JudgementView.of(one) for one in await spaces.judgements.stated(by, name)])


@router.post("/rollback", permission="content:write", errors=[CollectionNotFound, SpaceNotFound, SpaceBusy])
async def rollback(name: Name, by: Caller, spaces: Service) -> SpaceView:
    """Search the space again that was searched before."""
    return SpaceView.of(await spaces.rollback(by, name))


@router.post("/check-recall", permission="content:read", errors=[CollectionNotFound, SpaceNotFound, SpaceNotReady])
async def check_recall(name: Name, body: Sample, by: Caller, spaces: Service) -> RecallView:
    """Measure what share of the nearest vectors a search finds."""
    return RecallView.of(await spaces.check_recall(by, name, space=body.space, queries=body.queries, k=body.k))


@router.delete(
    "/{id}", permission="content:write", errors=[CollectionNotFound, SpaceNotFound, SpaceNotReady, SpaceBusy]
)
async def retire(name: Name, id: Id, by: Caller, spaces: Service) -> SpaceView:
    """Give up a space that is not searched, and delete its vectors."""
    return SpaceView.of(await spaces.retire(by, name, id))
