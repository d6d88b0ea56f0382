"""Keys of subjects: one data key each, wrapped by the master key, so that a person's payloads can be erased."""

import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from uuid import UUID

from ..kernel.crypto import Cipher, Vault
from ..kernel.db import Tx
from ..kernel.ids import new_id
from . import store
from .models import PayloadErased, SubjectKey

_CACHED_KEYS = 10_000
Owner = tuple[UUID, str]  # tenant and subject


@dataclass(frozen=True, slots=True)
class OpenKey:
    """A data key ready for use. The bytes are kept and not the cipher, which is made in a microsecond and takes 2.4 KB:
    24 MB for all that may be remembered.
    """

    id: UUID
    key: bytes = field(repr=False)

    @property
    def cipher(self) -> Cipher:
        return Cipher(self.key)


class Keyring:
    """Finds, makes and remembers the data keys of subjects."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._open: OrderedDict[Owner, OpenKey] = OrderedDict()

    async def of(self, tx: Tx, owners: Iterable[Owner], now: datetime) -> dict[Owner, OpenKey]:
        """The keys of these subjects; missing ones are made in `tx`."""
        wanted = set(owners)
        found = {owner: self._open[owner] for owner in wanted if owner in self._open}
        missing = sorted(wanted - set(found))
        if missing:
            fresh = await self._fetch_or_make(tx, missing, now)
            found |= fresh
            if tx.owned:
                # Remembered only once the rows are there to stay.
                tx.after_commit(partial(self._remember, fresh))
        return found

    def open(self, tenant: UUID, subject: str, wrapped: bytes | None) -> Cipher:
        """The cipher of a wrapped key.

        Raises:
            PayloadErased: the subject was erased (410).
        """
        return Cipher(self._unwrapped(tenant, subject, wrapped))

    async def _fetch_or_make(self, tx: Tx, missing: list[Owner], now: datetime) -> dict[Owner, OpenKey]:
        standing = await store.keys(tx, missing)
        known = {(key.tenant_id, key.subject) for key in standing}
        absent = [owner for owner in missing if owner not in known]
        if absent:
            await store.add_keys(tx, [self._make(owner) for owner in absent], now)
            standing = await store.keys(tx, missing)  # read back: another process may have been first
        return {
            (key.tenant_id, key.subject): OpenKey(key.id, self._unwrapped(key.tenant_id, key.subject, key.wrapped))
            for key in standing
        }

    def _unwrapped(self, tenant: UUID, subject: str, wrapped: bytes | None) -> bytes:
        if wrapped is None:
            raise PayloadErased("the key of this payload was destroyed")
        return self._vault.open(wrapped, _context(tenant, subject))

    def _make(self, owner: Owner) -> SubjectKey:
        tenant, subject = owner
        return SubjectKey(tenant, new_id(), subject, self._vault.seal(os.urandom(32), _context(tenant, subject)))

    def _remember(self, keys: dict[Owner, OpenKey]) -> None:
        self._open |= keys
        while len(self._open) > _CACHED_KEYS:
            self._open.popitem(last=False)


def _context(tenant: UUID, subject: str) -> bytes:
    return f"audit-key:{tenant}:{subject}".encode()
