"""What content speaks about: collections, documents, chunks, spaces, searches. No I/O."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..kernel.errors import Conflict, Invalid, NotFound, TimedOut
from .chunker import Chunker

NAME = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}$"
DEV_EMBEDDER = "sim:dev-hash"
FEATURE_EMBED, FEATURE_SEARCH = "content.embed", "content.search"


class CollectionNotFound(NotFound):
    code, title = "collection_not_found", "Collection not found"


class DocumentNotFound(NotFound):
    code, title = "document_not_found", "Document not found"


class CollectionDiffers(Conflict):
    """A collection of that name stands with another definition, and has documents."""

    code, title = "collection_differs", "The collection is defined otherwise"


class CollectionNeedsCode(Conflict):
    """The searched text is made by a Python function that this process does not have."""

    code, title = "collection_needs_code", "The collection is written by its own program"


class CollectionAttached(Conflict):
    """Its documents are the rows of an attached table, and only those who write the table write them."""

    code, title = "collection_attached", "The collection's documents are rows of a table"


class DocumentInvalid(Invalid):
    code, title = "document_invalid", "The document cannot be stored"


class NoEmbedder(Conflict):
    """The collection has no embedder, so it can be searched as text only."""

    code, title = "no_embedder", "The collection has no embedder"


class EmbedderSilent(TimedOut):
    """The query's vector took too long."""

    code, title = "embedder_silent", "The embedder took too long"


def valid_name(name: str) -> str:
    """The name of a collection.

    Raises:
        Invalid: it is no such name (422).
    """
    if not re.fullmatch(NAME, name):
        raise Invalid(f"a collection's name has 1 to 100 letters, digits, dots, dashes or underscores, not {name!r}")
    return name


class Format(StrEnum):
    """How documents are cut: by Markdown structure, or by paragraphs alone."""

    MARKDOWN = "markdown"
    PLAIN = "plain"


class Mode(StrEnum):
    """What is searched. `auto`: hybrid when vectors stand and the embedder answers, else text."""

    AUTO = "auto"
    TEXT = "text"
    SEMANTIC = "semantic"
    HYBRID = "hybrid"


class Flag(StrEnum):
    """What an answer should be read with.

    text_only: vectors were not used though the collection has an embedder: it did not answer, no chunk has a vector
        yet, or its vectors are those of the hashing embedder for tests, which only a demand gets.
    stale: vectors were used, and some chunks still wait for theirs: those can be found by their words only.
    short: there are fewer hits than asked for.
    dev_hash: the vectors are those of the hashing embedder for tests, which knows no meanings.
    not_reranked: the reranker failed or was late, so hits stand in the order that it would have changed.
    unindexed: each one of very many vectors was looked at, because their space has no index.
    """

    TEXT_ONLY = "text_only"
    STALE = "stale"
    SHORT = "short"
    DEV_HASH = "dev_hash"
    NOT_RERANKED = "not_reranked"
    UNINDEXED = "unindexed"


class IndexKind(StrEnum):
    """How a space's vectors are indexed. `auto`: not at all, then `hnsw`, then `binary`, as they become more.

    `binary` keeps one bit of each number and compares what it finds by the vectors themselves.
    """

    AUTO = "auto"
    NONE = "none"
    HNSW = "hnsw"
    IVFFLAT = "ivfflat"
    BINARY = "binary"


class Definition(BaseModel):
    """How a collection's documents are read, cut and embedded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedder: str | None = Field(
        DEV_EMBEDDER,
        min_length=3,
        max_length=300,
        description="`provider:model` of the embedder; null for text search only. `sim:dev-hash` is for tests.",
    )
    fields: tuple[str, ...] = Field(
        (), max_length=50, description="Fields of the body that are searched, in order; empty: every text in it."
    )
    format: Format = Format.MARKDOWN
    chunk_size: int = Field(1600, ge=100, le=8000, description="Characters a chunk has at most.")
    overlap: int = Field(200, ge=0, le=4000, description="Characters a chunk repeats from the one before at most.")

    @field_validator("fields")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if any(not name or len(name) > 200 or "\0" in name for name in names):
            raise ValueError("a field's name has 1 to 200 characters, none of them NUL")
        return names

    @field_validator("embedder")
    @classmethod
    def _provider(cls, model: str | None) -> str | None:
        if model is not None and ("\0" in model or not all(model.partition(":")[::2])):
            raise ValueError("write the embedder as provider:model, such as openai:text-embedding-3-small")
        return model

    @model_validator(mode="after")
    def _overlap_fits(self) -> "Definition":
        if self.overlap > self.chunk_size // 2:
            raise ValueError("overlap may be half of chunk_size at most")
        return self

    @property
    def chunker(self) -> Chunker:
        return Chunker(self.chunk_size, self.overlap, self.format is Format.MARKDOWN)


@dataclass(frozen=True, slots=True)
class Standing:
    """A tenant's collection as it stands, with its space (if it has an embedder) and its BM25 totals without deltas.

    `also`: other spaces whose vectors are kept up to date; `models`: those of all its spaces, when it has changed them;
    `attached_id`: the attached table whose rows its documents are; `enriched`: models fill fields of its documents.
    """

    name: str
    definition: Definition
    by_code: bool
    pivot: float
    chunks: int
    length: int
    created_at: datetime
    space: "Space | None"
    also: tuple[int, ...] = ()
    models: frozenset[str] = frozenset()
    attached_id: int | None = None
    enriched: bool = False

    @property
    def embedded_in(self) -> tuple[int, ...]:
        """The spaces in which every chunk gets a vector."""
        return self.also if self.space is None else (self.space.id, *self.also)

    def fits(self, definition: Definition, by_code: bool) -> bool:
        """Whether it is defined so. After a change of models it has the newest of them, whichever the program names."""
        if definition.embedder in self.models:
            definition = definition.model_copy(update={"embedder": self.definition.embedder})
        return (self.definition, self.by_code) == (definition, by_code)

    @classmethod
    def of(cls, **row: Any) -> "Standing":
        space = None
        if row["space_id"] is not None:
            space = Space(
                row["space_id"], row["model"], row["dimensions"], row["indexed_at"], row["index"], row["lists"]
            )
        definition = Definition(
            embedder=row["model"],
            fields=tuple(row["fields"]),
            format=Format(row["format"]),
            chunk_size=row["chunk_size"],
            overlap=row["overlap"],
        )
        return cls(
            row["name"],
            definition,
            row["by_code"],
            row["pivot"],
            row["chunks"],
            row["length"],
            row["created_at"],
            space,
            tuple(row["also"]),
            frozenset(row["models"]),
            row["attached_id"],
            row["enriched"],
        )


@dataclass(frozen=True, slots=True)
class Space:
    """One model's vectors. `dimensions` is None until the model has answered once; then the table stands.

    `index` is the IndexKind that stands, None: nothing; `lists` are those of an ivfflat index.
    """

    id: int
    model: str
    dimensions: int | None
    indexed_at: datetime | None = None
    index: str | None = None
    lists: int | None = None

    @property
    def is_dev(self) -> bool:
        """Whether its vectors come from the hashing embedder for tests, which knows no meanings."""
        return self.model.partition("?")[0] == DEV_EMBEDDER


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it stands. `rev` starts at 1 and rises with every change."""

    id: str
    rev: int
    body: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Put:
    """What a put did. `changed` is False when the same body stood already: nothing was written then."""

    id: str
    rev: int
    created: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A chunk to be written."""

    id: UUID
    content_id: str
    ord: int
    heading: tuple[str, ...]
    text: str
    text_hash: bytes
    length: int
    tokens: int
    bm: str


@dataclass(frozen=True, slots=True)
class OldChunk:
    """A chunk that stands, with what is needed to compare it and to take it out of the statistics."""

    id: UUID
    content_id: str
    ord: int
    text_hash: bytes
    length: int
    bm: str


@dataclass(frozen=True, slots=True)
class Delta:
    """What a write changed in the statistics. `added`: its chunks; None: a release wrote it that does not say."""

    chunks: int
    length: int
    terms: list[int]
    counts: list[int]
    added: list[UUID] | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A chunk that waits for its vector."""

    chunk_id: UUID
    text_hash: bytes
    tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk in one leg's list; `score` is the leg's own: BM25, or cosine similarity."""

    chunk_id: UUID
    content_id: str
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found.

    Attributes:
        id: the document's id.
        chunk: the chunk's id.
        text: the chunk's text.
        heading: the headings it stands under, outermost first.
        score: what the hits are ordered by; comparable within one answer only.
        scores: each leg's own score: `text` is BM25, `vector` is cosine similarity, `rerank` the reranker's.
        body: the document's body.
    """

    id: str
    chunk: UUID
    text: str
    heading: tuple[str, ...]
    score: float
    scores: dict[str, float]
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Hits, best first, and how they were found.

    Attributes:
        mode: what was searched in the end: `text`, `semantic`, `hybrid`, or `dev-hash` where vectors of the hashing
            embedder for tests were asked for, which are not semantic.
        flags: what to read it with, see Flag.
    """

    hits: list[Hit]
    mode: str
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a collection has vectors.

    Attributes:
        parked: chunks that the embedder refused; they wait for an operator or for another text.
        lag: how long the oldest waiting chunk waits, in seconds.
        rests_until: the embedder is not asked before, because of `trouble`; both None while all is well.
    """

    documents: int
    chunks: int
    embedded: int
    pending: int
    parked: int
    lag: float
    rests_until: datetime | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """A chunk that the embedder refused: its document, its text, why, and since when it waits."""

    chunk: UUID
    id: str
    text: str
    error: str
    since: datetime


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """A request to an embedder. `tokens` is an estimate until the provider has answered, `cost` (USD) None until then.

    States: asked → answered → written | failed | lost. One that is `lost` or `failed` with a cost was paid for nothing.
    """

    id: UUID
    state: str
    inputs: int
    tokens: int
    cost: Decimal | None
    error: str | None
    asked_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Pace:
    """How an embedder in trouble may be asked: not before `rests_until`, and then `width` requests at once."""

    rests_until: datetime
    failures: int
    width: int
    reason: str


@dataclass(frozen=True, slots=True)
class BatchLimit:
    """The most that one request to an embedder carries: inputs, and estimated tokens in all of them."""

    inputs: int = 2_048
    tokens: int = 240_000

    def __post_init__(self) -> None:
        if self.inputs < 1 or self.tokens < 1:
            raise ValueError("a request to an embedder carries at least one input and one token")


@dataclass(frozen=True, slots=True)
class Totals:
    """A collection's BM25 statistics: chunks, terms in them, and how many chunks have each term asked for."""

    chunks: int
    length: int
    frequencies: dict[int, int] = field(default_factory=dict)
