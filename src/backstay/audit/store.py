"""Rows in, models out: one function per query, no decisions."""

from binascii import b2a_base64
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from ..kernel import json, sql
from ..kernel.db import Tx
from .models import Entry, NewEntry, NewPayload, SealedPayload, SubjectKey

_queries = sql.load(__package__)


async def add_entries(tx: Tx, entries: Sequence[NewEntry], sealed: Sequence[NewPayload | None]) -> None:
    """`sealed`: the payload of each entry, if it has one."""
    rows = json.dumps(list(map(_row, entries, sealed)), default=str)
    await _queries.add_entries.run(tx, entries=json.Encoded(rows))


def _row(entry: NewEntry, payload: NewPayload | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "tenant_id": entry.tenant,
        "id": entry.id,
        "at": entry.at,
        "actor_id": entry.actor_id,
        "actor": entry.actor,
        "action": entry.action,
        "resource": entry.resource,
        "outcome": entry.outcome,
        "run_id": entry.run,
        "call_id": entry.call,
        "metadata": dict(entry.metadata),
    }
    if payload is not None:
        row["payload_hash"] = _text(payload.hash)
        row["key_id"] = payload.key
        row["salt"] = _text(payload.salt)
        row["ciphertext"] = _text(payload.ciphertext)
    return row


def _text(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


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


def span(tx: Tx, tenant: UUID, since: datetime, until: datetime) -> AsyncGenerator[Entry, None]:
    return _queries.span.stream(tx, Entry, tenant_id=tenant, since=since, until=until)
