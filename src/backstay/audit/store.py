"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from ..kernel import json, sql
from ..kernel.db import Tx
from .models import Entry, NewEntry, SealedPayload, SubjectKey

_queries = sql.load(__package__)


async def add_entries(tx: Tx, entries: Sequence[NewEntry], payload_hashes: Sequence[bytes | None]) -> None:
    await _queries.add_entries.run(
        tx,
        tenant_ids=[entry.tenant for entry in entries],
        ids=[entry.id for entry in entries],
        ats=[entry.at for entry in entries],
        actor_ids=[entry.actor_id for entry in entries],
        actors=[entry.actor for entry in entries],
        actions=[entry.action for entry in entries],
        resources=[entry.resource for entry in entries],
        outcomes=[entry.outcome for entry in entries],
        run_ids=[entry.run for entry in entries],
        call_ids=[entry.call for entry in entries],
        metadata=[json.dumps(dict(entry.metadata), default=str).decode() for entry in entries],
        payload_hashes=list(payload_hashes),
    )


async def add_payloads(
    tx: Tx, entries: Sequence[NewEntry], keys: Sequence[UUID], salts: Sequence[bytes], ciphertexts: Sequence[bytes]
) -> None:
    await _queries.add_payloads.run(
        tx,
        tenant_ids=[entry.tenant for entry in entries],
        entry_ids=[entry.id for entry in entries],
        key_ids=list(keys),
        salts=list(salts),
        ciphertexts=list(ciphertexts),
    )


async def add_keys(tx: Tx, keys: Sequence[SubjectKey], now: datetime) -> None:
    await _queries.add_keys.run(
        tx,
        tenant_ids=[key.tenant_id for key in keys],
        ids=[key.id for key in keys],
        subjects=[key.subject for key in keys],
        wrapped=[key.wrapped for key in keys],
        now=now,
    )


async def keys(tx: Tx, wanted: Sequence[tuple[UUID, str]]) -> list[SubjectKey]:
    return await _queries.keys.all(
        tx,
        SubjectKey,
        tenant_ids=[tenant for tenant, _ in wanted],
        subjects=[subject for _, subject in wanted],
    )


async def entries(
    tx: Tx,
    tenant: UUID,
    after: UUID | None,
    limit: int,
    *,
    action: str | None,
    resource: str | None,
    run: UUID | None,
    call: UUID | None,
) -> list[Entry]:
    return await _queries.entries.all(
        tx,
        Entry,
        tenant_id=tenant,
        after=after,
        limit=limit,
        action=action,
        resource=resource,
        run_id=run,
        call_id=call,
    )


async def payload(tx: Tx, tenant: UUID, entry: UUID) -> SealedPayload | None:
    return await _queries.payload.maybe(tx, SealedPayload, tenant_id=tenant, entry_id=entry)


async def unmatched_calls(tx: Tx, tenant: UUID, limit: int) -> list[dict[str, Any]]:
    return await _queries.unmatched_calls.all(tx, dict, tenant_id=tenant, limit=limit)
