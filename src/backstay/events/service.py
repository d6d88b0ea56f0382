"""Puts events into the outbox, in the transaction of what they tell about."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import Invalid
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from . import store
from .models import Event

_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


class Events:
    """The outbox. Delivery is at-least-once, in the order of commits within a tenant."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db, self._clock = db, clock

    async def emit(self, tx: Tx, type: str, payload: Mapping[str, Any], *, tenant: UUID | None = None) -> UUID:
        """Writes an event in `tx` and returns its id. `tenant` is needed in a system transaction only.

        Raises:
            Invalid: `type` is not written like `run.completed`, or there is no tenant (422).
        """
        event = Event(new_id(), _owner(tx, type, tenant), self._clock.now(), type, dict(payload))
        await store.emit(tx, event)
        tx.notify("outbox")
        return event.id

    async def emit_many(
        self, tx: Tx, type: str, payloads: Sequence[Mapping[str, Any]], *, tenant: UUID | None = None
    ) -> None:
        """As `emit` for several events of one type, in this order, by one statement."""
        if payloads:
            owner, ids = _owner(tx, type, tenant), [new_id() for _ in payloads]
            await store.emit_many(tx, owner, self._clock.now(), type, ids, payloads)
            tx.notify("outbox")

    async def page(
        self, by: Principal, after: UUID | None = None, limit: int = 50, type: str | None = None
    ) -> list[Event]:
        """Events of the caller's tenant, newest first, after the event with id `after`."""
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.page(tx, by.tenant, after, limit, type)


def _owner(tx: Tx, type: str, tenant: UUID | None) -> UUID:
    """Whose event it is, when it may be written at all."""
    owner = tenant or tx.tenant
    if owner is None:
        raise Invalid(f"the event {type} needs a tenant: the transaction crosses tenants")
    if not _TYPE.fullmatch(type):
        raise Invalid(f"an event type reads like `run.completed`, not {type!r}")
    return owner
