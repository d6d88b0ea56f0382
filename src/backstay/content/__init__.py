"""Content: documents that are searched as text and by meaning, beside regular SQL.

Owns        collection, content (documents), chunk, space, vec_<space> (vectors), embed_pending, embed_call, embed_pace,
            bm_term, bm_delta
States      of a space: see `spaces`; of an embedding request: asked → answered → written | failed | lost
Guarantees  A document, its chunks, their statistics and the job that embeds them commit together, or not at all.
            Text search sees a document from its commit on; a write's latency does not depend on the embedder.
            A vector is written only where the chunk still has the text that was sent: a late answer changes nothing.
            A crash bills at most one embedding request again, and the ledger of requests says what was paid.
            A chunk that the embedder refuses is parked with the reason and stops no other. An embedder that asks for
            patience, or is down, is asked by one request at a time until it answers again.
            A search as SQL finds what a search finds, and runs with the rights of who runs it.
            A tenant finds its own chunks only, and other tenants' words do not weigh in its ranking.
"""

from .collection import Collection
from .files import FileUnreadable, ReaderMissing
from .models import (
    BatchLimit,
    CollectionAttached,
    CollectionDiffers,
    CollectionNeedsCode,
    CollectionNotFound,
    Coverage,
    Definition,
    Document,
    DocumentInvalid,
    DocumentNotFound,
    EmbedCall,
    EmbedderSilent,
    Format,
    Hit,
    Mode,
    NoEmbedder,
    Parked,
    Put,
    SearchAnswer,
    Standing,
)
from .service import Content

__all__ = [
    "BatchLimit",
    "Collection",
    "CollectionAttached",
    "CollectionDiffers",
    "CollectionNeedsCode",
    "CollectionNotFound",
    "Content",
    "Coverage",
    "Definition",
    "Document",
    "DocumentInvalid",
    "DocumentNotFound",
    "EmbedCall",
    "EmbedderSilent",
    "FileUnreadable",
    "Format",
    "Hit",
    "Mode",
    "NoEmbedder",
    "Parked",
    "Put",
    "ReaderMissing",
    "SearchAnswer",
    "Standing",
]
