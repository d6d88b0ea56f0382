"""What auth knows: tenants, principals, roles and API keys."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ..kernel.errors import Conflict, Invalid, NotFound
from ..kernel.principal import ALL

ROLES: dict[str, frozenset[str]] = {
    "owner": frozenset({ALL}),
    "admin": frozenset(
        {
            *("keys:*", "gateway:*", "budgets:*", "routes:*", "providers:*", "prices:*", "tags:*"),
            *("jobs:*", "queues:*", "runs:*", "approvals:*", "machines:*", "content:*"),
            *("streams:*", "events:*", "audit:read"),
        }
    ),
    "developer": frozenset(
        {
            *("gateway:*", "budgets:read", "routes:read", "providers:read", "prices:read", "tags:read"),
            *("jobs:*", "runs:*", "approvals:read", "machines:*", "content:*", "streams:*", "events:read"),
        }
    ),
    "operator": frozenset(
        {
            *("gateway:read", "budgets:*", "jobs:*", "runs:*", "approvals:*", "machines:*"),
            *("content:read", "streams:read", "events:*"),
        }
    ),
    "approver": frozenset({"runs:read", "approvals:*", "machines:read", "streams:read"}),
    "auditor": frozenset({"audit:*", "gateway:read", "runs:read", "approvals:read", "machines:read", "budgets:read"}),
    "viewer": frozenset(
        {
            *("gateway:read", "budgets:read", "jobs:read", "runs:read", "approvals:read", "machines:read"),
            *("content:read", "streams:read", "events:read"),
        }
    ),
}


class UnknownRole(Invalid):
    code, title = "unknown_role", "There is no such role"


class KeyNotFound(NotFound):
    code, title = "key_not_found", "API key not found"


class TenantExists(Conflict):
    code, title = "tenant_exists", "A tenant with this slug exists"


class PrincipalExists(Conflict):
    code, title = "principal_exists", "A principal with this name exists"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who owns rows. `slug` is its unique short name."""

    id: UUID
    slug: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it may be shown: never with its secret."""

    id: UUID
    principal_id: UUID
    principal: str
    role: str
    name: str
    prefix: str
    scopes: list[str]
    feature: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key with its secret, which exists nowhere else: show it once."""

    id: UUID
    prefix: str
    secret: str


@dataclass(frozen=True, slots=True)
class Credential:
    """What a key's digest leads to."""

    tenant_id: UUID
    key_id: UUID
    principal_id: UUID
    principal: str
    role: str
    scopes: list[str]
    feature: str | None
    expires_at: datetime | None
    last_used_at: datetime | None
