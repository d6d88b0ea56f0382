"""Decides who a caller is and what keys there are."""

import re
import time
from collections import OrderedDict
from datetime import datetime, timedelta
from functools import partial
from hashlib import blake2b
from os import urandom
from uuid import UUID

from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.crypto import Vault
from ..kernel.db import Database, Tx
from ..kernel.errors import Forbidden, Invalid, Unauthorized
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from ..kernel.recorder import Recorder
from . import secrets, store
from .models import (
    ROLES,
    ApiKey,
    Credential,
    IssuedKey,
    KeyNotFound,
    PrincipalExists,
    Tenant,
    TenantExists,
    UnknownRole,
)

DEFAULT_TENANT = "default"
_CACHED_FOR = 10.0  # seconds: the longest that a key works on after it was revoked in another process
_CACHED_KEYS = 10_000
_TOUCH_EVERY = timedelta(minutes=1)
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_log = telemetry.log("auth")


class Auth:
    """Tenants, principals and API keys. A key's secret is shown once and stored as a keyed digest."""

    def __init__(self, db: Database, clock: Clock, vault: Vault, audit: Recorder) -> None:
        self._db, self._clock, self._vault, self._audit = db, clock, vault, audit
        self._known: OrderedDict[bytes, tuple[float, Credential, Principal]] = OrderedDict()
        self._mark_key = urandom(32)
        self._revocations = 0

    async def authenticate(self, secret: str) -> Principal:
        """The principal that holds this API key.

        Raises:
            Unauthorized: unknown, revoked or expired; the answer does not say which.
        """
        mark = blake2b(secret.encode(), key=self._mark_key).digest()  # in memory only, and quicker than what is stored
        known = self._known.get(mark)
        if known is None or known[0] < time.monotonic():
            if secrets.mistyped(secret):
                raise _refused()
            known = await self._look_up(mark, self._vault.digest(secret))
        _, credential, principal = known
        if credential.expires_at is not None and credential.expires_at <= self._clock.now():
            raise _refused()
        return principal

    async def create_tenant(self, slug: str, name: str, *, tx: Tx | None = None) -> Tenant:
        """A new tenant. `slug` is its short unique name.

        Raises:
            TenantExists: the slug is taken (409).
            Invalid: it is not 1 to 63 lower-case letters, digits and hyphens, or begins with a hyphen (422).
        """
        if not _SLUG.fullmatch(slug):
            raise Invalid(f"the slug {slug!r} must be 1 to 63 of a-z, 0-9 and -, and not begin with -")
        async with self._db.join_system(tx) as tx:
            tenant = await store.add_tenant(tx, new_id(), slug, name, self._clock.now())
        if tenant is None:
            raise TenantExists(f"there is a tenant {slug} already; choose another slug")
        return tenant

    async def ensure_default_tenant(self) -> Tenant:
        """The tenant that a single-tenant installation uses; made on first boot."""
        async with self._db.system_tx() as tx:
            added = await store.add_tenant(tx, new_id(), DEFAULT_TENANT, "Default", self._clock.now())
            tenant = added or await store.tenant_by_slug(tx, DEFAULT_TENANT)
        if tenant is None:
            raise LookupError("the default tenant was neither made nor found")
        return tenant

    async def operator(self) -> Principal:
        """Who uses the command line: everything is permitted, for the default tenant."""
        return Principal.system((await self.ensure_default_tenant()).id, "command line")

    async def tenants(self) -> list[Tenant]:
        async with self._db.system_tx() as tx:
            return await store.tenants(tx)

    async def ensure_admin(self, tenant: UUID, preset: str | None) -> IssuedKey | None:
        """The first admin key of a tenant: `preset`, or a generated one. None when it stands already.

        A preset that is new (BACKSTAY_ADMIN_KEY was changed) is added beside the others.
        """
        async with self._db.tenant_tx(tenant) as tx:
            principal = await store.add_principal(tx, tenant, new_id(), "admin", "owner", self._clock.now())
            if principal is None:  # it stands, or another process that boots at the same time was first
                standing = await store.principal_by_name(tx, tenant, "admin")
                if preset is None or standing is None:
                    return None
                principal = standing["id"]
            text = secrets.KeyText(preset, f"{preset[:4]}…") if preset else secrets.generate()
            issued = await self._issue(tx, tenant, principal, "first admin key", text)
            if issued is not None:
                operator, about = Principal.system(tenant, "operator"), {"name": "admin", "prefix": issued.prefix}
                await self._audit.record(tx, operator, "key.created", f"api_key:{issued.id}", metadata=about)
            return issued

    async def create_owner(self, tenant: UUID, name: str) -> IssuedKey:
        """A principal with every permission in its tenant, and its key. For set-up by the operator."""
        return await self.create_key(Principal.system(tenant, "operator"), name, "owner")

    async def create_key(
        self,
        by: Principal,
        name: str,
        role: str,
        *,
        scopes: list[str] | None = None,
        feature: str | None = None,
        expires_at: datetime | None = None,
        tx: Tx | None = None,
    ) -> IssuedKey:
        """A new principal called `name` with `role`, and its key. The secret is in the answer and nowhere else.

        `scopes` narrows what the key may do within its role; `feature` tags the key's model calls.

        Raises:
            UnknownRole, PrincipalExists, Invalid: as they say (422, 409, 422).
            Forbidden: the role has more than `by` has, even if `scopes` would leave it out (403).
        """
        granted = _granted(role, scopes or [])
        if expires_at is not None and expires_at <= self._clock.now():
            raise Invalid("expires_at has passed already")
        # The whole role counts, also when scopes narrow the key: the principal keeps its role.
        for permission in sorted(ROLES[role] | granted):
            if not by.may(permission):
                raise Forbidden(f"{by.name} lacks {permission} and so cannot grant it")
        async with self._db.join(tx, by.tenant) as tx:
            principal = await store.add_principal(tx, by.tenant, new_id(), name, role, self._clock.now())
            if principal is None:
                raise PrincipalExists(f"there is a principal {name} in this tenant already; choose another name")
            issued = await self._issue(tx, by.tenant, principal, name, secrets.generate(), scopes, feature, expires_at)
            if issued is None:
                raise LookupError("a generated key collided with a standing one")
            about = {"name": name, "role": role, "scopes": scopes or [], "prefix": issued.prefix}
            await self._audit.record(tx, by, "key.created", f"api_key:{issued.id}", metadata=about)
        return issued

    async def keys(self, by: Principal, after: UUID | None, limit: int) -> list[ApiKey]:
        """Keys of the caller's tenant, newest first, after the key with id `after`."""
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.keys(tx, by.tenant, after, limit)

    async def revoke_key(self, by: Principal, id: UUID, *, tx: Tx | None = None) -> None:
        """Ends a key: at once here, within ten seconds in other processes and with a caller's own transaction.

        Raises:
            KeyNotFound: no such key in the tenant (404).
        """
        async with self._db.join(tx, by.tenant) as tx:
            if not await store.revoke_key(tx, by.tenant, id, self._clock.now()):
                raise KeyNotFound(f"there is no key {id} in this tenant")
            await self._audit.record(tx, by, "key.revoked", f"api_key:{id}")
            if tx.owned:
                tx.after_commit(partial(self._forget, id))
            else:
                self._forget(id)

    def _forget(self, id: UUID) -> None:
        self._revocations += 1
        for mark, (_, credential, _) in list(self._known.items()):
            if credential.key_id == id:
                del self._known[mark]

    async def _issue(
        self,
        tx: Tx,
        tenant: UUID,
        principal: UUID,
        name: str,
        text: secrets.KeyText,
        scopes: list[str] | None = None,
        feature: str | None = None,
        expires_at: datetime | None = None,
    ) -> IssuedKey | None:
        id, digest, now = new_id(), self._vault.digest(text.text), self._clock.now()
        added = await store.add_key(
            tx, tenant, id, principal, name, text.prefix, digest, scopes or [], feature, now, expires_at
        )
        return IssuedKey(id, text.prefix, text.text) if added else None

    async def _look_up(self, mark: bytes, digest: bytes) -> tuple[float, Credential, Principal]:
        now, revocations = self._clock.now(), self._revocations
        async with self._db.system_tx() as tx:
            credential = await store.credential(tx, digest)
            if credential is None:
                raise _refused()
            if credential.last_used_at is None or credential.last_used_at < now - _TOUCH_EVERY:
                await store.touch_key(tx, credential.tenant_id, credential.key_id, now)
        known = (time.monotonic() + _CACHED_FOR, credential, _principal(credential))
        if revocations != self._revocations:
            return known  # what was read may be revoked by now: good for this request, not remembered
        self._known[mark] = known
        self._known.move_to_end(mark)
        if len(self._known) > _CACHED_KEYS:
            self._known.popitem(last=False)
        return known


def _refused() -> Unauthorized:
    return Unauthorized("the API key is not known, was revoked, or has expired", headers={"www-authenticate": "Bearer"})


def _granted(role: str, scopes: list[str]) -> frozenset[str]:
    if role not in ROLES:
        raise UnknownRole(f"there is no role {role}; roles are {', '.join(ROLES)}")
    if not scopes:
        return ROLES[role]
    within = Principal(UUID(int=0), UUID(int=0), role, ROLES[role])
    beyond = sorted(scope for scope in scopes if not within.may(scope))
    if beyond:
        raise Invalid(f"the role {role} does not have {', '.join(beyond)}")
    return frozenset(scopes)


def _principal(credential: Credential) -> Principal:
    return Principal(
        tenant=credential.tenant_id,
        id=credential.principal_id,
        name=credential.principal,
        permissions=frozenset(credential.scopes) or ROLES.get(credential.role, frozenset()),
        key=credential.key_id,
        feature=credential.feature,
        role=credential.role,
    )
