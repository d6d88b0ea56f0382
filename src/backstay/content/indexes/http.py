"""The index of a space over HTTP, for the operator of the installation."""

from datetime import datetime
from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from ...jobs import NotTheOperator
from ...kernel.http import Caller, Router, View, service
from ..models import NAME, CollectionNotFound, IndexKind, NoEmbedder
from .models import Advice, IndexImpossible
from .service import Indexes

router = Router("/api/collections/{name}/index", tag="content")
Service = Annotated[Indexes, service("indexes")]
Name = Annotated[str, Path(pattern=NAME, description="The collection.")]
Space = Annotated[int | None, Query(ge=1, le=2**62, description="The one that is searched, when missing.")]


class Choice(BaseModel):
    """Which index the vectors should have."""

    model_config = ConfigDict(extra="forbid")

    kind: IndexKind = Field(description="`auto` follows the number of vectors and the server's memory.")
    space: int | None = Field(None, ge=1, le=2**62, description="The one that is searched, when missing.")
    rebuild: bool = Field(False, description="Also where that kind stands already.")


class BuildView(View):
    """A build that is under way or has failed."""

    kind: IndexKind
    phase: str
    share: float | None = Field(description="What part of the vectors is in it; null in phases that do not tell.")
    started_at: datetime
    seen_at: datetime
    error: str | None = Field(description="Why it failed; it is tried again.")


class FindingView(View):
    """Something to know, and what to do about it."""

    code: str
    detail: str
    mend: str


class AdviceView(BaseModel):
    """What the index is, what it should be, and what that takes."""

    space: int
    model: str
    dimensions: int | None = Field(description="Null until the model has answered once.")
    vectors: int = Field(description="Of all tenants, about.")
    wish: IndexKind = Field(description="What was asked for.")
    index: IndexKind | None = Field(description="What stands; null: every vector is looked at.")
    lists: int | None = Field(description="Of an ivfflat index.")
    indexed_at: datetime | None
    recommended: IndexKind = Field(description="What suits the vectors there are.")
    table_bytes: int = Field(description="The vectors without indexes.")
    index_bytes: int = Field(description="The recommended index on disk, about.")
    build_bytes: int = Field(description="Memory that its build asks for; `index_memory_mb` bounds it.")
    build_seconds: float = Field(description="How long its build takes, about.")
    cache_bytes: int = Field(description="What the server can keep in memory (`effective_cache_size`).")
    build: BuildView | None
    findings: list[FindingView]

    @classmethod
    def of(cls, advice: Advice) -> "AdviceView":
        state = advice.state
        return cls(
            space=state.space,
            model=state.model,
            dimensions=state.dimensions,
            vectors=state.rows,
            wish=state.wish,
            index=state.kind,
            lists=state.lists,
            indexed_at=state.indexed_at,
            recommended=advice.recommended,
            table_bytes=state.table_bytes,
            index_bytes=advice.index_bytes,
            build_bytes=advice.build_bytes,
            build_seconds=advice.build_seconds,
            cache_bytes=state.cache_bytes,
            build=BuildView.of(advice.build) if advice.build else None,
            findings=[FindingView.of(finding) for finding in advice.findings],
        )


@router.get("", permission="content:read", errors=[CollectionNotFound, NoEmbedder, NotTheOperator])
async def advise(name: Name, by: Caller, indexes: Service, space: Space = None) -> AdviceView:
    """What the index of the collection's vectors is, how its build goes, what it should be, and what that takes."""
    return AdviceView.of(await indexes.advise(by, name, space=space))


@router.put(
    "",
    permission="content:write",
    status=202,
    errors=[CollectionNotFound, NoEmbedder, NotTheOperator, IndexImpossible],
)
async def choose(name: Name, body: Choice, by: Caller, indexes: Service) -> AdviceView:
    """Choose the kind of index. It is built beside the one that stands, and takes its place without a gap."""
    return AdviceView.of(await indexes.choose(by, name, body.kind, space=body.space, rebuild=body.rebuild))
