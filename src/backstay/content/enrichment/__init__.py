"""Enrichment: fields of documents that a model fills in the background, such as a summary or keywords.

Owns        enrichment, enriched
States      of a document's field: waiting → done | failed (→ waiting); a new text or prompt makes it wait again
Guarantees  That a field is to be filled commits with the document; a write never waits for the model.
            A field is filled by an answer about the text that stands: one that comes late changes nothing, and what was
            made of another text is taken out with it.
            What a caller writes into the field stays. The same question is not asked twice, except after a crash.
            A document that the model refuses fails with the reason and stops no other.
"""

from .models import Enrichment, EnrichmentNotFound, EnrichmentStanding, Failed
from .service import Enrichments

__all__ = ["Enrichment", "EnrichmentNotFound", "EnrichmentStanding", "Enrichments", "Failed"]
