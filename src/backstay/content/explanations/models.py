"""What is told of a search. No I/O."""

from pydantic import BaseModel, ConfigDict, Field

from ..models import Flag, Mode


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)


class Term(_Told):
    """A term of the query, as text search sees it."""

    term: str = Field(description="Stemmed and folded.")
    chunks: int = Field(description="How many chunks have it.")
    idf: float = Field(description="How much it weighs: the rarer, the more; 0 when no chunk has it.")


class LegReport(_Told):
    """How one leg ran, by itself."""

    leg: str = Field(description="text or vector.")
    how: str = Field(description="bm25, exact (every vector is looked at) or index.")
    why: str
    candidates: int
    best: float | None = Field(description="Its own score: BM25, or cosine similarity.")
    worst: float | None
    seconds: float


class Selection(_Told):
    """What the filter lets through."""

    documents: int = Field(description="In the collection.")
    passing: int
    share: float = Field(description="passing / documents")


class Advice(_Told):
    """What would help, with the statement that does it where one does."""

    text: str
    ddl: str | None = Field(None, description="To be run by the owner of Backstay's tables.")


class Explanation(_Told):
    """A search, explained. Times are in seconds."""

    collection: str
    query: str
    asked: Mode
    mode: str = Field(description="What was searched: text, semantic, hybrid, or dev-hash (test vectors).")
    why: str = Field(description="Why in that mode.")
    flags: list[Flag]
    hits: int
    model: str | None = Field(description="The embedder.")
    terms: list[Term]
    chunks: int = Field(description="In the collection, as the statistics count them.")
    mean_length: float = Field(description="Terms in a chunk.")
    pivot: float = Field(description="The length that weights are normalised by; it follows the mean in steps.")
    legs: list[LegReport]
    filter: Selection | None
    vector_seconds: float = Field(description="Until the query's vector was there.")
    seconds: float = Field(description="The whole search, its vector included.")
    advice: list[Advice]
