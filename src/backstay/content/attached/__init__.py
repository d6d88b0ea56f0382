"""Attached tables: rows of the user's own tables, searched like the documents of a collection.

Owns        attached, attached_change, attached_fill; the functions attached_<id> and their triggers on user tables
States      of an attachment: attached ⇄ broken → detached → attached; → purging → gone
            of a tenant's rows: filling → pruning → current; purging → gone
Guarantees  A change of a row is noted in its own transaction, whoever makes it in whatever language: if it commits, the
            document follows, and if not, nothing was noted. The note computes no text, calls no outside and waits for
            no lock of ours.
            A document says what its row said at a time, and not before the last change that was taken over: changes are
            taken over by one job at a time for a tenant and a table, each from the row as it is then.
            Rows that stood before are taken over in short transactions and go on after a crash where they were.
            A table that is changed or dropped breaks its attachment and no write; when it is mended, all rows are
            looked at again.
            A row is its tenant's: workers read as a role that row-level security binds.
"""

from .models import (
    AttachedDiffers,
    AttachedNotFound,
    AttachedState,
    AttachedStatus,
    TableBusy,
    TableDefinition,
    TableUnfit,
    TextInvalid,
)
from .service import Attached
from .table import AttachedTable

__all__ = [
    "Attached",
    "AttachedDiffers",
    "AttachedNotFound",
    "AttachedState",
    "AttachedStatus",
    "AttachedTable",
    "TableBusy",
    "TableDefinition",
    "TableUnfit",
    "TextInvalid",
]
