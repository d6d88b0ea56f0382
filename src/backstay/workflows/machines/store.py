"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from ...kernel import sql
from ...kernel.db import Tx
from ...kernel.principal import Principal
from .models import Instance, InstanceView, TransitionView

_queries = sql.load(__package__)
_LAST = UUID(int=2**128 - 1)
_LAST_SEQ = 2**63 - 1


async def register(tx: Tx, document: Mapping[str, Any], fingerprint: bytes, now: datetime) -> bytes:
    """The fingerprint of the version that stands now."""
    standing = await _queries.register.value(tx, definition=dict(document), fingerprint=fingerprint, now=now)
    return bytes(standing)


async def newest(tx: Tx, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = await _queries.newest.value(tx, name=name)
    return found


async def definition(tx: Tx, name: str, version: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = await _queries.definition.value(tx, name=name, version=version)
    return found


async def definitions(
    tx: Tx, *, name: str | None, after: tuple[str, str] | None, limit: int
) -> list[tuple[dict[str, Any], datetime]]:
    after_name, after_version = after or ("", "")
    rows = await _queries.definitions.rows(
        tx, name=name, after_name=after_name, after_version=after_version, limit=limit
    )
    return [(document, registered_at) for document, registered_at in rows]


async def add_instance(
    tx: Tx,
    *,
    tenant: UUID,
    id: UUID,
    machine: str,
    version: str,
    key: str | None,
    state: str,
    data: Mapping[str, Any],
    now: datetime,
    due_at: datetime | None,
    finished_at: datetime | None,
) -> bool:
    """False when the machine has an instance with this key."""
    added = await _queries.add_instance.value(
        tx,
        tenant_id=tenant,
        id=id,
        machine=machine,
        version=version,
        key=key,
        state=state,
        data=dict(data),
        now=now,
        due_at=due_at,
        finished_at=finished_at,
    )
    return added is not None


async def find(tx: Tx, tenant: UUID, id: UUID) -> Instance | None:
    return await _queries.find.maybe(tx, Instance, tenant_id=tenant, id=id)


async def id_of_key(tx: Tx, tenant: UUID, machine: str, key: str) -> UUID | None:
    found: UUID | None = await _queries.id_of_key.value(tx, tenant_id=tenant, machine=machine, key=key)
    return found


async def lock(tx: Tx, tenant: UUID, id: UUID) -> Instance | None:
    return await _queries.lock.maybe(tx, Instance, tenant_id=tenant, id=id)


async def move(
    tx: Tx,
    tenant: UUID,
    instance: InstanceView,
    state: str,
    now: datetime,
    due_at: datetime | None,
    finished_at: datetime | None,
) -> Instance:
    return await _queries.move.one(
        tx,
        Instance,
        tenant_id=tenant,
        id=instance.id,
        seq=instance.seq,
        state=state,
        now=now,
        due_at=due_at,
        finished_at=finished_at,
    )


async def delete_instance(tx: Tx, tenant: UUID, id: UUID) -> bool:
    gone: bool = await _queries.delete_instance.value(tx, tenant_id=tenant, id=id)
    return gone


async def add_transition(
    tx: Tx, by: Principal, instance: InstanceView, event: str | None, from_state: str | None, entry: UUID
) -> None:
    await _queries.add_transition.run(
        tx,
        tenant_id=by.tenant,
        instance_id=instance.id,
        seq=instance.seq,
        event=event,
        from_state=from_state,
        to_state=instance.state,
        at=instance.entered_at,
        actor_id=by.id,
        actor=by.name,
        entry_id=entry,
    )


async def history(tx: Tx, tenant: UUID, instance: UUID, *, before: int | None, limit: int) -> list[TransitionView]:
    return await _queries.history.all(
        tx,
        TransitionView,
        tenant_id=tenant,
        instance_id=instance,
        before=_LAST_SEQ if before is None else before,
        limit=limit,
    )


async def page(
    tx: Tx,
    tenant: UUID,
    *,
    after: UUID | None,
    limit: int,
    machine: str | None,
    state: str | None,
    key: str | None,
) -> list[InstanceView]:
    return await _queries.page.all(
        tx,
        InstanceView,
        tenant_id=tenant,
        after=after or _LAST,
        limit=limit,
        machine=machine,
        state=state,
        key=key,
    )
