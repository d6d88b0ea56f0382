"""Content: documents that are searched as text and by meaning, beside regular SQL.

Owns        collection, content (documents), chunk, space, vec_<space> (vectors), embed_pending, embed_call, bm_term,
            bm_delta
States      of a space: building → active → retired; of an embedding request: asked → written | failed | lost
Guarantees  A document, its chunks, their statistics and the job that embeds them commit together, or not at all.
            Text search sees a document from its commit on; a write's latency does not depend on the embedder.
            A vector is written only where the chunk still has the text that was sent: a late answer changes nothing.
            A crash bills at most one embedding request again. A chunk that the embedder refuses stops no other.
            A tenant finds its own chunks only, and other tenants' words do not weigh in its ranking.
"""

from .collection import Collection
from .models import (
    CollectionDiffers,
    CollectionNeedsCode,
    CollectionNotFound,
    Coverage,
    Definition,
    Document,
    DocumentInvalid,
    DocumentNotFound,
    EmbedderSilent,
    Format,
    Hit,
    Mode,
    NoEmbedder,
    Put,
    SearchAnswer,
    Standing,
)
from .service import Content

__all__ = [
    "Collection",
    "CollectionDiffers",
    "CollectionNeedsCode",
    "CollectionNotFound",
    "Content",
    "Coverage",
    "Definition",
    "Document",
    "DocumentInvalid",
    "DocumentNotFound",
    "EmbedderSilent",
    "Format",
    "Hit",
    "Mode",
    "NoEmbedder",
    "Put",
    "SearchAnswer",
    "Standing",
]
