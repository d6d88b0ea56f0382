"""Statements: a search as SQL that stands in the caller's own SELECT, next to their tables, in their transaction.

Owns        nothing
Guarantees  It finds what `search()` finds, with the same scores in the same order.
            Whether vectors are looked at one by one or by their index is decided when it runs.
            No value of a caller becomes SQL. It runs with the rights of whoever runs it, so the fence between tenants
            holds; run for another tenant than it was made for, it finds nothing.
            The query's vector is made before, so that the caller's transaction waits for nobody outside.
"""

from .models import COLUMNS, Statement
from .service import Statements

__all__ = ["COLUMNS", "Statement", "Statements"]
