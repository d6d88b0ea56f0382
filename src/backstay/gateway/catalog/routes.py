"""The tenant's routes: made, changed and removed."""

from collections.abc import Mapping
from typing import Any

from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.principal import Principal
from ...kernel.recorder import Recorder
from . import store
from .change import Changes, expect
from .models import CatalogFull, RouteNotFound, StoredRoute
from .route import Route

READ, WRITE = "routes:read", "routes:write"
MOST = 1_000


class Routes:
    """A change binds every process's next call within a moment; calls under way keep the route they began with."""

    def __init__(
        self, db: Database, clock: Clock, audit: Recorder, changes: Changes, operators: Mapping[str, Route]
    ) -> None:
        self._db, self._clock, self._audit = db, clock, audit
        self._changes, self._operators = changes, operators

    async def put(
        self, by: Principal, route: Route, *, revision: int | None = None, tx: Tx | None = None
    ) -> StoredRoute:
        """Makes a route, or takes the place of the one with its name. Joins `tx` when given.

        `revision`: change it only if it stands at this one.

        Raises:
            RevisionMismatch: somebody has changed it meanwhile (412).
            CatalogFull: the tenant has 1,000 routes (409).
        """
        by.require(WRITE)
        async with self._changes.begin(by, tx) as tx:
            before = await store.route(tx, by.tenant, route.name)
            expect(revision, before.revision if before else None, f"the route {route.name}")
            if before is None and await store.count_routes(tx, by.tenant) >= MOST:
                raise CatalogFull(f"there are {MOST} routes in this tenant; remove one first")
            stored = await store.put_route(tx, by.tenant, route, self._clock.now())
            if before is None:
                await self._audit.record(tx, by, "route.created", f"route:{route.name}", payload=_told(None, stored))
            else:
                await self._audit.record(tx, by, "route.changed", f"route:{route.name}", payload=_told(before, stored))
        return stored

    async def get(self, by: Principal, name: str) -> StoredRoute:
        """The route that calls to `name` take: the tenant's own, else the operator's.

        Raises:
            RouteNotFound: neither has one (404).
        """
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            stored = await store.route(tx, by.tenant, name)
        if stored is None and (route := self._operators.get(name)) is not None:
            return StoredRoute(name, route)
        if stored is None:
            raise _missing(name)
        return stored

    async def list(self, by: Principal, after: str | None = None, limit: int = 50) -> list[StoredRoute]:
        """Routes that calls may take, by name, after the one called `after`."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            own = await store.routes(tx, by.tenant, after, limit)
        found = {name: StoredRoute(name, route) for name, route in self._operators.items() if not after or name > after}
        found |= {stored.name: stored for stored in own}
        return [found[name] for name in sorted(found)][:limit]

    async def delete(self, by: Principal, name: str, *, revision: int | None = None, tx: Tx | None = None) -> None:
        """Removes a route of the tenant's own; one of the operator's of the same name holds again. Joins `tx`.

        Raises:
            RouteNotFound: the tenant has none of that name (404).
            RevisionMismatch: somebody has changed it meanwhile (412).
        """
        by.require(WRITE)
        async with self._changes.begin(by, tx) as tx:
            before = await store.route(tx, by.tenant, name)
            if before is None:
                raise _missing(name, "of its own " if name in self._operators else "")
            expect(revision, before.revision, f"the route {name}")
            await store.delete_route(tx, by.tenant, name)
            await self._audit.record(tx, by, "route.deleted", f"route:{name}", payload=_told(before, None))


def _missing(name: str, own: str = "") -> RouteNotFound:
    return RouteNotFound(f"this tenant has no route {own}called {name!r}")


def _told(before: StoredRoute | None, after: StoredRoute | None) -> dict[str, Any]:
    """What a change was, for the audit's sealed part: conditions may name people."""
    return {
        side: dict(stored.route.definition()) if stored is not None and stored.route is not None else None
        for side, stored in (("before", before), ("after", after))
    }
