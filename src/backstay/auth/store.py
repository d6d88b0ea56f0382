"""Rows in, models out: one function per query, no decisions."""

from datetime import datetime
from typing import Any
from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx
from .models import ApiKey, Credential, Tenant

_queries = sql.load(__package__)


async def add_tenant(tx: Tx, id: UUID, slug: str, name: str, now: datetime) -> Tenant | None:
    return await _queries.add_tenant.maybe(tx, Tenant, id=id, slug=slug, name=name, now=now)


async def tenant_by_slug(tx: Tx, slug: str) -> Tenant | None:
    return await _queries.tenant_by_slug.maybe(tx, Tenant, slug=slug)


async def tenants(tx: Tx) -> list[Tenant]:
    return await _queries.tenants.all(tx, Tenant)


async def add_principal(tx: Tx, tenant: UUID, id: UUID, name: str, role: str, now: datetime) -> UUID | None:
    added: UUID | None = await _queries.add_principal.value(tx, tenant_id=tenant, id=id, name=name, role=role, now=now)
    return added


async def principal_by_name(tx: Tx, tenant: UUID, name: str) -> dict[str, Any] | None:
    return await _queries.principal_by_name.maybe(tx, dict, tenant_id=tenant, name=name)


async def add_key(
    tx: Tx,
    tenant: UUID,
    id: UUID,
    principal: UUID,
    name: str,
    prefix: str,
    digest: bytes,
    scopes: list[str],
    feature: str | None,
    now: datetime,
    expires_at: datetime | None,
) -> bool:
    added = await _queries.add_key.run(
        tx,
        tenant_id=tenant,
        id=id,
        principal_id=principal,
        name=name,
        prefix=prefix,
        digest=digest,
        scopes=scopes,
        feature=feature,
        now=now,
        expires_at=expires_at,
    )
    return added == 1


async def credential(tx: Tx, digest: bytes) -> Credential | None:
    return await _queries.credential.maybe(tx, Credential, digest=digest)


async def touch_key(tx: Tx, tenant: UUID, id: UUID, now: datetime) -> None:
    await _queries.touch_key.run(tx, tenant_id=tenant, id=id, now=now)


async def keys(tx: Tx, tenant: UUID, after: UUID | None, limit: int) -> list[ApiKey]:
    return await _queries.keys.all(tx, ApiKey, tenant_id=tenant, after=after, limit=limit)


async def revoke_key(tx: Tx, tenant: UUID, id: UUID, now: datetime) -> bool:
    return await _queries.revoke_key.value(tx, tenant_id=tenant, id=id, now=now) is not None
