"""The catalogue: what a tenant's calls go by, and the decision where a call goes."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any
from uuid import UUID

from ...kernel.clock import Clock
from ...kernel.crypto import Vault
from ...kernel.db import Database
from ...kernel.errors import ConfigurationError
from ...kernel.principal import Principal
from ...kernel.recorder import Recorder
from ...kernel.settings import Settings
from ..dialogue import Request
from . import accounts, glance, pricebook, routes, store
from .accounts import Accounts, Guard, no_urls, with_secrets
from .change import Changes
from .decision import Plan, Priced, State, as_listed, decide, direct
from .facts import Facts
from .file import operators_routes
from .latency import LatencyBoard
from .models import KINDS, StoredRoute
from .pins import Pins
from .price import PriceList
from .pricebook import PriceBook
from .route import Route
from .routes import READ, Routes
from .snapshot import Snapshot
from .snapshots import TTL, Snapshots
from .tagging import Tagging

ListedPrice = Callable[[Snapshot, str, datetime], Priced | None]
IsOpen = Callable[[Snapshot, str], bool]
ReadRequest = Callable[[Mapping[str, Any], int | None], Request]
DEFAULT_FEATURE = "default"


class Catalog:
    """Routes, provider accounts and prices of every tenant, and plans for calls.

    `routes`, `providers` and `prices` change them. The pipeline tells `board` what calls took, and `pins` which target
    answered a conversation. Run `keep` while the process lives: without it, changes made elsewhere are seen
    within `ttl` seconds, with it at once.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        vault: Vault,
        audit: Recorder,
        settings: Settings,
        *,
        kinds: Collection[str] = KINDS,
        guard: Guard = no_urls,
        ttl: float = TTL,
    ) -> None:
        self._db, self._clock, self._vault = db, clock, vault
        self._operators = operators_routes(settings.gateway)
        self._snapshots = Snapshots(self._read, self._revisions, ttl=ttl)
        changes = Changes(db, clock, self._snapshots)
        self.routes = Routes(db, clock, audit, changes, MappingProxyType(self._operators))
        self.providers = Accounts(db, clock, vault, audit, changes, kinds=kinds, guard=guard)
        self.prices = PriceBook(db, clock, audit, changes)
        self.tags = Tagging(db, clock, audit, changes)
        self.board, self.pins = LatencyBoard(), Pins()
        self._listed: ListedPrice = lambda snapshot, model, at: None
        self._open: IsOpen = lambda snapshot, model: False
        self._request: ReadRequest = glance.request
        self._operators_openai = bool(settings.openai_api_key or settings.openai_base_url)

    def attach(
        self,
        *,
        listed: ListedPrice | None = None,
        is_open: IsOpen | None = None,
        request: ReadRequest | None = None,
    ) -> None:
        """What the pipeline knows and plans need, for a target `provider:model` of a tenant: its listed price where the
        tenant has set none, and whether its breaker is open. `request` reads a body, for explanations."""
        self._listed = listed or self._listed
        self._open = is_open or self._open
        self._request = request or self._request

    def plain(self, snapshot: Snapshot) -> str | None:
        """The provider that a model's name without one means: openai, as its official client sends it, if there is one
        for the tenant."""
        return "openai" if self._operators_openai or "openai" in snapshot.accounts else None

    def define(self, route: Route) -> None:
        """A route of the operator's, for every tenant that has none of its name. A program may do so at any time.

        Raises:
            ConfigurationError: there is one of that name already.
        """
        if route.name in self._operators:
            raise ConfigurationError(f"there is a route {route.name} for every tenant already; name it once")
        self._operators[route.name] = route
        self._snapshots.forget()

    async def of(self, tenant: UUID) -> Snapshot:
        """What holds for the tenant now. A call keeps its snapshot to its end."""
        return await self._snapshots.of(tenant)

    async def keep(self, ending: asyncio.Event) -> None:
        """Follows changes of other processes until `ending` is set; every process runs it."""
        await self._snapshots.keep(self._db.notifier, ending)

    def plan(
        self,
        snapshot: Snapshot,
        request: Request,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        *,
        feature: str,
        user: str | None = None,
        plain: str | None = None,
    ) -> Plan:
        """Where a call goes, and why. `headers` have names in lower case. `plain`: the provider that a model's name
        without one means, for a surface where that is not openai.

        Raises:
            ModelNotFound: there is no such route or model (404).
            NoTargetServes: no target's conditions hold (422). BadRequest: the task or conversation is no tag (400).
        """
        route = snapshot.route(request.model, plain or self.plain(snapshot))
        if route.is_direct:
            return direct(route.name)
        if route.plain:
            return as_listed(route, partial(self._open, snapshot))
        return self._decided(snapshot, route, request, body, headers, feature, user).required()

    async def explain(self, by: Principal, body: Mapping[str, Any], headers: Mapping[str, str]) -> Plan:
        """The plan for a request as this process would make it now. Nothing is called and nothing is recorded.

        Raises:
            ModelNotFound: there is no such route or model (404). BadRequest: a tag is wrong (400).
        """
        by.require(READ)
        headers = {name.lower(): value for name, value in headers.items()}
        request = self._request(body, None)
        tagged = headers.get("backstay-feature") or request.metadata.get("feature") or by.feature
        feature = tagged if isinstance(tagged, str) else DEFAULT_FEATURE
        user = headers.get("backstay-user") or request.user
        snapshot = await self.of(by.tenant)
        route = snapshot.route(request.model, self.plain(snapshot))
        plan = self._decided(snapshot, route, request, body, headers, feature, user)
        return replace(direct(route.name), complexity=plan.complexity) if route.is_direct else plan

    def _decided(
        self,
        snapshot: Snapshot,
        route: Route,
        request: Request,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        feature: str,
        user: str | None,
    ) -> Plan:
        facts = Facts.of(request, body, headers, tenant=snapshot.tenant, feature=feature, user=user)
        pinned = self.pins.of(route.name, facts.conversation) if route.sticky and facts.conversation else None
        return decide(route, facts, self._state(snapshot, route, pinned))

    def _state(self, snapshot: Snapshot, route: Route, pinned: str | None) -> State:
        """As much as the route's strategy asks for."""
        now, models = self._clock.now(), [target.model for target in route.targets]
        priced, timed = models if route.strategy == "cost" else (), models if route.strategy == "latency" else ()
        prices = {model: snapshot.price(model, now) or self._listed(snapshot, model, now) for model in priced}
        latencies = {model: self.board.p50(snapshot.key(model)) for model in timed}
        return State(
            prices={model: price for model, price in prices.items() if price is not None},
            latencies={model: seconds for model, seconds in latencies.items() if seconds is not None},
            open=frozenset(model for model in models if self._open(snapshot, model)),
            pinned=pinned,
        )

    async def _read(self, tenant: UUID) -> Snapshot:
        async with self._db.tenant_tx(tenant) as tx:
            # The revision first: what is read after it is at least as new, and a change in between is noticed.
            revision = (await store.revisions(tx, [tenant])).get(tenant, 0)
            own = await store.routes(tx, tenant, None, routes.MOST)
            found = await store.accounts(tx, tenant, None, accounts.MOST)
            secrets = await store.secrets(tx, tenant, None)
            prices = await store.prices(tx, tenant, None, pricebook.MOST)
            tags = await store.required_tags(tx, tenant)
        operators = {name: StoredRoute(name, route) for name, route in self._operators.items()}
        return Snapshot(
            tenant=tenant,
            revision=revision,
            routes=MappingProxyType(operators | {stored.name: stored for stored in own}),
            accounts=MappingProxyType({account.name: account for account in with_secrets(found, secrets)}),
            prices=PriceList(prices),
            vault=self._vault,
            tags=tags,
        )

    async def _revisions(self, tenants: Sequence[UUID]) -> dict[UUID, int]:
        async with self._db.system_tx() as tx:
            return await store.revisions(tx, tenants)
