"""Which tags a tenant makes mandatory."""

from collections.abc import Iterable

from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.errors import Invalid
from ...kernel.principal import Principal
from ...kernel.recorder import Recorder
from . import store
from .change import Changes
from .tags import RequiredTags, TagName

READ, WRITE = "tags:read", "tags:write"


class Tagging:
    """The tags that callers must send. Calls that are under way are not asked any more."""

    def __init__(self, db: Database, clock: Clock, audit: Recorder, changes: Changes) -> None:
        self._db, self._clock, self._audit, self._changes = db, clock, audit, changes

    async def get(self, by: Principal) -> RequiredTags:
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.required_tags(tx, by.tenant)

    async def require(self, by: Principal, names: Iterable[str], *, tx: Tx | None = None) -> RequiredTags:
        """Asks for these tags and no others, from the next call on; for none when there are none. Joins `tx` when
        given.

        Raises:
            Invalid: there is no such tag (422).
        """
        by.require(WRITE)
        wanted = RequiredTags(frozenset(_known(name) for name in names))
        async with self._changes.begin(by, tx) as tx:
            before = await store.required_tags(tx, by.tenant)
            await store.require_tags(tx, by.tenant, wanted, self._clock.now())
            payload = {"before": before.told(), "after": wanted.told()}
            await self._audit.record(tx, by, "tags.changed", "tags:required", payload=payload)
        return wanted


def _known(name: str) -> TagName:
    try:
        return TagName(name)
    except ValueError:
        raise Invalid(f"{name!r} is no tag that may be mandatory: there are {' and '.join(TagName)}") from None
