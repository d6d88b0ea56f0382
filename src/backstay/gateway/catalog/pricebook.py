"""The tenant's own prices."""

from typing import Any
from uuid import UUID

from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.errors import Invalid
from ...kernel.ids import new_id
from ...kernel.principal import Principal
from ...kernel.recorder import Recorder
from . import store
from .change import Changes
from .models import CatalogFull, PriceExists, PriceNotFound
from .price import NewPrice, Price

READ, WRITE = "prices:read", "prices:write"
MOST = 5_000


class PriceBook:
    """Prices with dates. A later one takes over when it starts; what was spent before stays as it was counted."""

    def __init__(self, db: Database, clock: Clock, audit: Recorder, changes: Changes) -> None:
        self._db, self._clock, self._audit, self._changes = db, clock, audit, changes

    async def add(self, by: Principal, new: NewPrice, *, tx: Tx | None = None) -> Price:
        """Sets a price, from now on unless it says from when. Joins `tx` when given.

        Raises:
            Invalid: it ends before it starts (422).
            PriceExists: the pattern has one from that moment on already (409). CatalogFull: there are 5,000 (409).
        """
        by.require(WRITE)
        async with self._changes.begin(by, tx) as tx:
            if await store.count_prices(tx, by.tenant) >= MOST:
                raise CatalogFull(f"there are {MOST} prices in this tenant; remove some that have ended")
            price = await self._write(tx, by, new_id(), new)
            payload = {"before": None, "after": _told(price)}
            await self._audit.record(tx, by, "price.created", f"price:{price.id}", payload=payload)
        return price

    async def replace(self, by: Principal, id: UUID, new: NewPrice, *, tx: Tx | None = None) -> Price:
        """Corrects a price. Joins `tx` when given.

        Raises:
            PriceNotFound: there is none with this id (404). Invalid, PriceExists: as `add`.
        """
        by.require(WRITE)
        async with self._changes.begin(by, tx) as tx:
            before = await self._required(tx, by.tenant, id)
            price = await self._write(tx, by, id, new)
            payload = {"before": _told(before), "after": _told(price)}
            await self._audit.record(tx, by, "price.changed", f"price:{id}", payload=payload)
        return price

    async def get(self, by: Principal, id: UUID) -> Price:
        """Raises PriceNotFound (404)."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await self._required(tx, by.tenant, id)

    async def list(self, by: Principal, after: UUID | None = None, limit: int = 50) -> list[Price]:
        """Prices, in the order in which they were made, after the one with the id `after`."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.prices(tx, by.tenant, after, limit)

    async def delete(self, by: Principal, id: UUID, *, tx: Tx | None = None) -> None:
        """Removes a price: what held before it, or the listed price, holds again. Joins `tx` when given.

        Raises:
            PriceNotFound: there is none with this id (404).
        """
        by.require(WRITE)
        async with self._changes.begin(by, tx) as tx:
            before = await self._required(tx, by.tenant, id)
            await store.delete_price(tx, by.tenant, id)
            payload = {"before": _told(before), "after": None}
            await self._audit.record(tx, by, "price.deleted", f"price:{id}", payload=payload)

    async def _write(self, tx: Tx, by: Principal, id: UUID, new: NewPrice) -> Price:
        now = self._clock.now()
        starts_at = new.starts_at or now
        if new.ends_at is not None and new.ends_at <= starts_at:
            raise Invalid("`ends_at` must be later than `starts_at`, which is now unless it is given")
        price = await store.put_price(tx, by.tenant, id, new, starts_at, now)
        if price is None:
            raise PriceExists(f"there is a price for {new.pattern} from {starts_at.isoformat()} on already")
        return price

    async def _required(self, tx: Tx, tenant: UUID, id: UUID) -> Price:
        if (price := await store.price(tx, tenant, id)) is None:
            raise PriceNotFound(f"this tenant has no price {id}")
        return price


def _told(price: Price) -> dict[str, Any]:
    return {
        **price.rates.model_dump(mode="json", exclude_none=True),
        "pattern": price.pattern,
        "starts_at": price.starts_at.isoformat(),
        "ends_at": price.ends_at.isoformat() if price.ends_at else None,
    }
