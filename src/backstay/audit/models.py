"""Entries of the audit, as they are made and as they are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from ..kernel.errors import Gone, NotFound
from ..kernel.ids import new_id


class EntryNotFound(NotFound):
    code, title = "audit_entry_not_found", "Audit entry not found"


class PayloadErased(Gone):
    code, title = "audit_payload_erased", "The payload was erased"


@dataclass(frozen=True, slots=True)
class NewEntry:
    """Who did what to which resource, and how it ended.

    `payload` (input, output, before, after) is stored encrypted under the key of `subject`, the person whose data it
    is; the entry itself holds only a salted hash of it. `metadata` is stored in clear: no personal data in it.
    """

    tenant: UUID
    actor_id: UUID
    actor: str
    action: str
    resource: str
    at: datetime
    outcome: str = "ok"
    run: UUID | None = None
    call: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    payload: Mapping[str, Any] | None = None
    subject: str | None = None
    id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it stands."""

    id: UUID
    at: datetime
    actor_id: UUID
    actor: str
    action: str
    resource: str
    outcome: str
    run_id: UUID | None
    call_id: UUID | None
    metadata: dict[str, Any]
    has_payload: bool


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """The wrapped key of one subject; `wrapped` is None once the subject was erased."""

    tenant_id: UUID
    id: UUID
    subject: str
    wrapped: bytes | None


@dataclass(frozen=True, slots=True)
class SealedPayload:
    """A payload as stored, with the key it needs."""

    salt: bytes
    ciphertext: bytes
    subject: str
    wrapped: bytes | None


@dataclass(frozen=True, slots=True)
class NewPayload:
    """A payload ready to be stored: encrypted under the key with id `key`; `hash` is of salt and plain bytes."""

    key: UUID
    hash: bytes
    salt: bytes
    ciphertext: bytes
