"""Search over HTTP: hits, and the search as SQL for programs that have the database at hand."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..gateway import (
    BudgetExceeded,
    ModelNotFound,
    PriceUnknown,
    ProviderFailed,
    ProviderRefused,
    ProviderTimeout,
    RateLimited,
)
from ..kernel.errors import BackstayError
from ..kernel.http import Caller, Router, View, service
from .explanations import Explanation
from .models import NAME, CollectionNotFound, EmbedderSilent, Flag, Mode, NoEmbedder, SearchAnswer
from .search import How
from .service import Content
from .statements import COLUMNS

router = Router("/api/collections/{name}/search", tag="content")
Service = Annotated[Content, service("content")]
Name = Annotated[str, Path(pattern=NAME, description="The collection.")]
_ERRORS: Sequence[type[BackstayError]] = (
    CollectionNotFound,
    NoEmbedder,
    EmbedderSilent,
    BudgetExceeded,
    ModelNotFound,
    PriceUnknown,
    ProviderRefused,
    ProviderFailed,
    ProviderTimeout,
    RateLimited,
)


class Query(BaseModel):
    """What to look for."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=20_000, pattern=r"\S", description="Words, or a question.")
    mode: Mode = Field(Mode.AUTO, description="`auto`: hybrid when vectors stand and the embedder answers, else text.")
    k: int = Field(10, ge=1, le=200, description="Hits wanted.")
    where: dict[str, Any] | None = Field(
        None,
        description="Fields that a document's body must have, with their values or with operators: "
        '`{"price": {"$gte": 10, "$lt": 20}, "lang": {"$in": ["en", "de"]}}`; also $eq, $ne, $exists, $and, $or.',
    )
    per_document: int | None = Field(None, ge=1, le=200, description="At most this many chunks of one document.")
    rerank: Annotated[str, StringConstraints(min_length=1, max_length=300)] | Literal[False] | None = Field(
        None,
        description="A chat model that scores the best 50 hits once more; false: not, though the collection says so.",
    )

    def how(self) -> How:
        return How(mode=self.mode, k=self.k, where=self.where, per_document=self.per_document)


class HitView(View):
    """A chunk that was found, with its document."""

    id: str
    chunk: UUID
    text: str
    heading: list[str] = Field(description="The headings it stands under, outermost first.")
    score: float = Field(description="Comparable within this answer only.")
    scores: dict[str, float] = Field(description="`text` is BM25, `vector` cosine similarity, `rerank` the reranker's.")
    body: dict[str, Any]


class AnswerView(BaseModel):
    """Hits, best first."""

    hits: list[HitView]
    mode: str = Field(description="What was searched: text, semantic, hybrid, or dev-hash (test vectors).")
    flags: list[Flag] = Field(description="What to read it with.")

    @classmethod
    def of(cls, answer: SearchAnswer) -> "AnswerView":
        return cls(hits=[HitView.of(hit) for hit in answer.hits], mode=answer.mode, flags=list(answer.flags))


class StatementView(BaseModel):
    """A search as a subquery in brackets, to stand behind `from` in a statement of your own."""

    sql: str = Field(description="Without parameters. It finds something for this tenant only, under its setting.")
    columns: list[str] = Field(description="Of its rows: `rank` is 1 for the best.")
    mode: str = Field(description="What it searches: text, semantic, hybrid, or dev-hash (test vectors).")
    flags: list[Flag] = Field(description="As in an answer; `short` shows when it runs.")


@router.post("", permission="content:read", errors=_ERRORS)
async def search(name: Name, body: Query, by: Caller, content: Service) -> AnswerView:
    """Find chunks by text, by meaning, or by both."""
    return AnswerView.of(await content.search(by, name, body.query, rerank=body.rerank, **body.how()))


@router.post("/sql", permission="content:read", errors=_ERRORS)
async def sql(name: Name, body: Query, by: Caller, content: Service) -> StatementView:
    """Write a search as SQL. Nothing is searched: run it in your own statement, as `backstay_app`."""
    found = await content.search_sql(by, name, body.query, **body.how())
    return StatementView(sql=found.sql, columns=list(COLUMNS), mode=found.mode, flags=list(found.flags))


@router.post("/explain", permission="content:read", errors=_ERRORS)
async def explain(name: Name, body: Query, by: Caller, content: Service) -> Explanation:
    """Search, and tell how it went. The mode and why, the words' weights, legs, filter, times and advice."""
    return await content.explain(by, name, body.query, **body.how())
