"""Explanations: why a search found what it found, and what would help it.

Owns        nothing
Guarantees  All of it is counted under the tenant's own rights: nothing of another tenant is in it, not even a size.
"""

from .models import Advice, Explanation, LegReport, Selection, Term
from .service import Explainer

__all__ = ["Advice", "Explainer", "Explanation", "LegReport", "Selection", "Term"]
