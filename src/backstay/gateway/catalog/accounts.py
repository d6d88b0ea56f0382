"""The tenant's accounts at providers, and their secrets: sealed, written once, never shown again."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from pydantic import SecretStr

from ...kernel.clock import Clock
from ...kernel.crypto import Vault
from ...kernel.db import Database, Tx
from ...kernel.errors import Invalid
from ...kernel.ids import new_id
from ...kernel.principal import Principal
from ...kernel.recorder import Recorder
from . import store
from .change import Changes, expect
from .models import (
    MAX_SECRETS,
    RESERVED,
    Account,
    CatalogFull,
    NewAccount,
    ProviderNotFound,
    SealedSecret,
    SecretNeeded,
    SecretNotFound,
    sealing_context,
    shown,
)

READ, WRITE = "providers:read", "providers:write"
MOST = 200
LONGEST_OVERLAP = timedelta(days=30)
NO_OVERLAP = timedelta()
Guard = Callable[[str], Awaitable[None]]


async def no_urls(url: str) -> None:
    """The guard where none is configured: a tenant must not send us to an address that nobody has checked."""
    raise Invalid("base URLs of tenants' own accounts are not allowed here: no guard against inner addresses is set")


class Accounts:
    """Provider accounts. `guard` raises when a base URL must not be called; it may ask the network.

    A stored secret goes only where it was given for: who changes the kind or the base URL gives it again, so that who
    may write an account, but not read its secret, cannot have it sent to a server of their own.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        vault: Vault,
        audit: Recorder,
        changes: Changes,
        *,
        kinds: Collection[str],
        guard: Guard,
    ) -> None:
        self._db, self._clock, self._vault, self._audit = db, clock, vault, audit
        self._changes, self._kinds, self._guard = changes, frozenset(kinds), guard

    async def put(
        self, by: Principal, name: str, new: NewAccount, *, revision: int | None = None, tx: Tx | None = None
    ) -> Account:
        """Makes an account, or changes the one of that name. A secret that is given replaces those that stand at once.

        Joins `tx` when given; the guard is asked before anything else, so keep `tx` short.

        Raises:
            Invalid: the kind is not known, the name is taken by Backstay, or the base URL is refused (422).
            SecretNeeded: the kind or the base URL changes, and the secret is not given (422).
            RevisionMismatch: somebody has changed it meanwhile (412). CatalogFull: there are 200 (409).
        """
        by.require(WRITE)
        self._check(name, new)
        if new.base_url is not None:
            await self._guard(new.base_url)
        async with self._changes.begin(by, tx) as tx:
            before = await self._standing(tx, by.tenant, name)
            expect(revision, before.revision if before else None, f"the account {name}")
            if before is None and await store.count_accounts(tx, by.tenant) >= MOST:
                raise CatalogFull(f"there are {MOST} accounts in this tenant; remove one first")
            _refuse_to_carry_off(before, new)
            await self._write(tx, by.tenant, name, new)
            if new.secret is not None:
                await self._replace_secret(tx, by.tenant, name, new.secret, NO_OVERLAP)
            after = await self._required(tx, by.tenant, name)
            about = {"kind": after.kind, "new_secret": new.secret is not None}
            payload = {"before": before.told() if before else None, "after": after.told()}
            if before is None:
                await self._audit.record(
                    tx, by, "provider.created", f"provider:{name}", metadata=about, payload=payload
                )
            else:
                await self._audit.record(
                    tx, by, "provider.changed", f"provider:{name}", metadata=about, payload=payload
                )
        return after

    async def rotate(
        self,
        by: Principal,
        name: str,
        secret: SecretStr,
        *,
        overlap: timedelta = NO_OVERLAP,
        tx: Tx | None = None,
    ) -> Account:
        """A new secret, used from now on. Those that stood are good for `overlap` more, then for nothing.

        Raises:
            ProviderNotFound: there is no such account (404).
            Invalid: the overlap is negative or longer than 30 days (422).
            CatalogFull: five secrets overlap already (409).
        """
        by.require(WRITE)
        if not NO_OVERLAP <= overlap <= LONGEST_OVERLAP:
            raise Invalid("the overlap must lie between 0 and 30 days")
        async with self._changes.begin(by, tx) as tx:
            account = await self._required(tx, by.tenant, name)
            await self._touch(tx, by.tenant, account)
            id = await self._replace_secret(tx, by.tenant, name, secret, overlap)
            about = {"secret": str(id), "overlap_seconds": overlap.total_seconds()}
            await self._audit.record(tx, by, "provider.rotated", f"provider:{name}", metadata=about)
            return await self._required(tx, by.tenant, name)

    async def revoke(self, by: Principal, name: str, secret: UUID, *, tx: Tx | None = None) -> Account:
        """Ends one secret: it is deleted, and used by no call that begins afterwards.

        Raises:
            ProviderNotFound, SecretNotFound: there is no such account or secret (404).
        """
        by.require(WRITE)
        async with self._changes.begin(by, tx) as tx:
            account = await self._required(tx, by.tenant, name)
            if not await store.delete_secret(tx, by.tenant, name, secret):
                raise SecretNotFound(f"the account {name} has no secret {secret}")
            await self._touch(tx, by.tenant, account)
            about = {"secret": str(secret)}
            await self._audit.record(tx, by, "provider.revoked", f"provider:{name}", metadata=about)
            return await self._required(tx, by.tenant, name)

    async def get(self, by: Principal, name: str) -> Account:
        """Raises ProviderNotFound (404)."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await self._required(tx, by.tenant, name)

    async def list(self, by: Principal, after: str | None = None, limit: int = 50) -> list[Account]:
        """Accounts by name, after the one called `after`."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            found = await store.accounts(tx, by.tenant, after, limit)
            return with_secrets(found, await store.secrets(tx, by.tenant, [account.name for account in found]))

    async def delete(self, by: Principal, name: str, *, revision: int | None = None, tx: Tx | None = None) -> None:
        """Removes an account with its secrets.

        Raises:
            ProviderNotFound: there is no such account (404). RevisionMismatch: it was changed meanwhile (412).
        """
        by.require(WRITE)
        async with self._changes.begin(by, tx) as tx:
            before = await self._required(tx, by.tenant, name)
            expect(revision, before.revision, f"the account {name}")
            await store.delete_account(tx, by.tenant, name)
            payload = {"before": before.told(), "after": None}
            await self._audit.record(tx, by, "provider.deleted", f"provider:{name}", payload=payload)

    def _check(self, name: str, new: NewAccount) -> None:
        if new.kind not in self._kinds:
            raise Invalid(f"there is no kind of provider {new.kind!r}; there are {', '.join(sorted(self._kinds))}")
        if name in RESERVED:
            raise Invalid(f"the name {name} means something else in a model's name; choose another")

    async def _standing(self, tx: Tx, tenant: UUID, name: str) -> Account | None:
        found = await store.account(tx, tenant, name)
        return None if found is None else with_secrets([found], await store.secrets(tx, tenant, [name]))[0]

    async def _required(self, tx: Tx, tenant: UUID, name: str) -> Account:
        if (account := await self._standing(tx, tenant, name)) is None:
            raise ProviderNotFound(f"this tenant has no account called {name!r}")
        return account

    async def _write(self, tx: Tx, tenant: UUID, name: str, new: NewAccount) -> None:
        try:
            await store.put_account(tx, tenant, name, new.kind, new.base_url, new.options, self._clock.now())
        except store.BadValue:
            raise Invalid("`options` hold a character that text may not have") from None

    async def _touch(self, tx: Tx, tenant: UUID, account: Account) -> None:
        """Counts a change of its secrets as one of the account."""
        now = self._clock.now()
        await store.put_account(tx, tenant, account.name, account.kind, account.base_url, account.options, now)

    async def _replace_secret(self, tx: Tx, tenant: UUID, name: str, secret: SecretStr, overlap: timedelta) -> UUID:
        now, id, text = self._clock.now(), new_id(), secret.get_secret_value()
        await store.end_secrets(tx, tenant, name, now + overlap)
        await store.drop_ended(tx, tenant, name, now)
        if len(await store.secrets(tx, tenant, [name])) >= MAX_SECRETS:
            raise CatalogFull(f"{MAX_SECRETS} secrets of {name} overlap already; revoke one first")
        sealed = self._vault.seal(text.encode(), sealing_context(tenant, name, id))
        await store.add_secret(tx, tenant, name, id, sealed, shown(text), now)
        return id


def with_secrets(accounts: Sequence[Account], secrets: Sequence[SealedSecret]) -> list[Account]:
    """Each account with its own."""
    own: dict[str, list[SealedSecret]] = {}
    for secret in secrets:
        own.setdefault(secret.account, []).append(secret)
    return [replace(account, secrets=tuple(own.get(account.name, ()))) for account in accounts]


def _refuse_to_carry_off(before: Account | None, new: NewAccount) -> None:
    if before is None or not before.secrets or new.secret is not None:
        return
    if (before.kind, before.base_url) != (new.kind, new.base_url):
        raise SecretNeeded(
            "a stored secret goes only where it was given for: give `secret` again to change `kind` or `base_url`"
        )
