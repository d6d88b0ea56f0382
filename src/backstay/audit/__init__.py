"""Audit: who did what, when, and how it ended, as evidence.

Owns        audit_entry, audit_payload, audit_key
Guarantees  An entry exists if and only if the business transaction it was written in commits.
            Entries and payloads cannot be changed or deleted, by no role.
            Payloads are encrypted under a key of the person they are about; reading one is an entry itself.
"""

from .models import Entry, EntryNotFound, NewEntry, PayloadErased
from .service import Audit

__all__ = ["Audit", "Entry", "EntryNotFound", "NewEntry", "PayloadErased"]
