"""Writes evidence in the business transaction, and reads it back for those who may."""

import hashlib
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from ..kernel import json
from ..kernel.clock import Clock
from ..kernel.crypto import Cipher, Vault
from ..kernel.db import Database, Tx
from ..kernel.principal import Principal
from . import store
from .keyring import Keyring
from .models import Entry, EntryNotFound, NewEntry, NewPayload

_ACTION = "audit.payload.read"
_NOBODY = "-"  # the subject of payloads that are about no person
_SALT_BYTES = 16


class Audit:
    """Append-only entries with encrypted payloads. An entry exists if and only if its transaction commits."""

    def __init__(self, db: Database, clock: Clock, vault: Vault) -> None:
        self._db, self._clock = db, clock
        self._keyring = Keyring(vault)

    async def record(
        self,
        tx: Tx,
        by: Principal,
        action: str,
        resource: str,
        *,
        outcome: str = "ok",
        run: UUID | None = None,
        call: UUID | None = None,
        metadata: Mapping[str, Any] | None = None,
        payload: Mapping[str, Any] | None = None,
        subject: str | None = None,
    ) -> UUID:
        """Writes one entry in `tx` and returns its id. See NewEntry for `payload`, `subject` and `metadata`."""
        entry = NewEntry(
            tenant=by.tenant,
            actor_id=by.id,
            actor=by.name,
            action=action,
            resource=resource,
            at=self._clock.now(),
            outcome=outcome,
            run=run,
            call=call,
            metadata=metadata or {},
            payload=payload,
            subject=subject,
        )
        await self.record_many(tx, [entry])
        return entry.id

    async def record_many(self, tx: Tx, entries: Sequence[NewEntry]) -> None:
        """Writes many entries, of one or several tenants, in one statement."""
        if not entries:
            return
        owners = [None if entry.payload is None else _owner(entry) for entry in entries]
        wanted = {owner for owner in owners if owner is not None}
        keys = await self._keyring.of(tx, wanted, self._clock.now()) if wanted else {}
        ready = {owner: (key.id, key.cipher) for owner, key in keys.items()}
        sealed = [
            None if owner is None else _sealed(entry, *ready[owner])
            for entry, owner in zip(entries, owners, strict=True)
        ]
        await store.add_entries(tx, entries, sealed)

    async def entries(
        self,
        by: Principal,
        after: UUID | None = None,
        limit: int = 50,
        *,
        action: str | None = None,
        resource: str | None = None,
        run: UUID | None = None,
        call: UUID | None = None,
    ) -> list[Entry]:
        """Entries of the caller's tenant, newest first, after the entry with id `after`."""
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.entries(
                tx, by.tenant, after, limit, action=action, resource=resource, run=run, call=call
            )

    def span(self, tx: Tx, tenant: UUID, since: datetime, until: datetime) -> AsyncGenerator[Entry, None]:
        """Every entry from `since` until before `until`, oldest first, while `tx` stays open; few are in memory."""
        return store.span(tx, tenant, since, until)

    async def payload(self, by: Principal, entry: UUID) -> dict[str, Any]:
        """The decrypted payload of an entry. Reading it is an entry too.

        Raises:
            EntryNotFound: no such entry, or one without a payload (404).
            PayloadErased: the subject was erased (410).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            sealed = await store.payload(tx, by.tenant, entry)
            if sealed is None:
                raise EntryNotFound(f"there is no entry {entry} with a payload in this tenant")
            cipher = self._keyring.open(by.tenant, sealed.subject, sealed.wrapped)
            body: dict[str, Any] = orjson.loads(cipher.open(sealed.ciphertext, _context(by.tenant, entry)))
            await self.record(tx, by, _ACTION, f"audit_entry:{entry}")
            return body

    async def unmatched_calls(self, by: Principal, limit: int = 100) -> list[dict[str, Any]]:
        """Model calls that started and of which no end is recorded: in flight, or lost in a crash."""
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.unmatched_calls(tx, by.tenant, limit)


def _sealed(entry: NewEntry, key: UUID, cipher: Cipher) -> NewPayload:
    salt, body = os.urandom(_SALT_BYTES), json.dumps(dict(entry.payload or {}), default=str)
    ciphertext = cipher.seal(body, _context(entry.tenant, entry.id))
    return NewPayload(key, hashlib.sha256(salt + body).digest(), salt, ciphertext)


def _owner(entry: NewEntry) -> tuple[UUID, str]:
    return entry.tenant, entry.subject or _NOBODY


def _context(tenant: UUID, entry: UUID) -> bytes:
    return f"audit-payload:{tenant}:{entry}".encode()
