"""The transaction of a change to the catalogue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.principal import Principal
from . import store
from .models import RevisionMismatch
from .snapshots import TOPIC, Snapshots


class Changes:
    """Begins changes: each is counted in its own transaction, and told to every process when that is committed."""

    def __init__(self, db: Database, clock: Clock, snapshots: Snapshots) -> None:
        self._db, self._clock, self._snapshots = db, clock, snapshots

    @asynccontextmanager
    async def begin(self, by: Principal, tx: Tx | None) -> AsyncIterator[Tx]:
        """`tx`, or a transaction of its own. Changes of one tenant come one after the other."""
        async with self._db.join(tx, by.tenant) as joined:
            await store.bump(joined, by.tenant, self._clock.now())
            joined.notify(TOPIC, str(by.tenant))
            if joined.owned:
                # With a caller's own transaction, the notification tells this process as it tells the others.
                joined.after_commit(partial(self._snapshots.forget, by.tenant))
            yield joined


def expect(revision: int | None, standing: int | None, what: str) -> None:
    """Raises RevisionMismatch (412) when a revision was expected and another one stands."""
    if revision is not None and revision != standing:
        now = "it is gone" if standing is None else f"it has the revision {standing} now"
        raise RevisionMismatch(f"{what} was read at the revision {revision}, and {now}: read it again and decide anew")
