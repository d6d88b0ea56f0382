"""Routes, provider accounts, prices and mandatory tags over HTTP, and the plan for a request."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Header, Path
from pydantic import BaseModel, ConfigDict, Field

from ...kernel.db import Tx
from ...kernel.http import Caller, Page, PageRequest, Router, View, service
from ..errors import ModelNotFound
from .accounts import LONGEST_OVERLAP
from .decision import Plan
from .models import (
    ACCOUNT_NAME,
    CatalogFull,
    NewAccount,
    PriceExists,
    PriceNotFound,
    ProviderNotFound,
    RevisionMismatch,
    RouteNotFound,
    RouteUnreadable,
    Secret,
    SecretNeeded,
    SecretNotFound,
    StoredRoute,
)
from .price import NewPrice, Price
from .route import MAX_MODEL, ROUTE_NAME, Level, Route, RouteDefinition, Strategy
from .service import Catalog
from .tags import TagName

router = Router("/api/gateway", tag="gateway")
Service = Annotated[Catalog, service("catalog")]
RouteName = Annotated[str, Path(pattern=ROUTE_NAME, description="The route.")]
AccountName = Annotated[str, Path(pattern=ACCOUNT_NAME, description="The account: the prefix in `name:model`.")]
IfMatch = Annotated[
    str | None,
    Header(pattern=r'^"?[0-9]{1,18}"?$', description="Change it only if it stands at this `revision`."),
]


class RouteView(BaseModel):
    """A route that calls may take. `source`: the tenant's own, or the operator's, which the tenant's own overrides.

    `definition` is what a PUT takes; null when a newer release than the one that answers has stored it.
    """

    name: str
    source: Literal["tenant", "operator"]
    definition: RouteDefinition | None
    revision: int | None = Field(description="Counts the changes of the tenant's own, from 1.")
    created_at: datetime | None
    updated_at: datetime | None

    @classmethod
    def of(cls, stored: StoredRoute) -> "RouteView":
        return cls(
            name=stored.name,
            source="operator" if stored.revision is None else "tenant",
            definition=None if stored.route is None else RouteDefinition(**stored.route.definition()),
            revision=stored.revision,
            created_at=stored.created_at,
            updated_at=stored.updated_at,
        )


class SecretView(BaseModel):
    """That there is a secret. `last4` are its last characters, nothing of a short one."""

    id: UUID
    last4: str
    set_at: datetime
    ends_at: datetime | None = Field(description="Until when it is used, once a newer one has been set.")


class AccountView(View):
    """An account at a provider. Its secrets are never shown, newest first."""

    name: str
    kind: str
    base_url: str | None
    options: dict[str, Any]
    secrets: list[SecretView]
    revision: int
    created_at: datetime
    updated_at: datetime


class NewSecret(BaseModel):
    """A secret that takes over."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"secret": "the new key", "overlap_seconds": 3600}]},
    )

    secret: Secret
    overlap_seconds: float = Field(
        0, ge=0, le=LONGEST_OVERLAP.total_seconds(), description="For how long those that stand are good beside it."
    )


class PriceView(BaseModel):
    """A price (USD per million tokens, and per 1,000 web searches) and when it holds."""

    id: UUID
    pattern: str
    input: Decimal
    output: Decimal
    cached: Decimal | None
    written: Decimal | None
    written_hour: Decimal | None
    input_audio: Decimal | None
    output_audio: Decimal | None
    web_search: Decimal | None
    starts_at: datetime
    ends_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, price: Price) -> "PriceView":
        dates = {"starts_at": price.starts_at, "ends_at": price.ends_at, "created_at": price.created_at}
        return cls(id=price.id, pattern=price.pattern, **price.rates.model_dump(), **dates)


class TagsView(BaseModel):
    """The tags that every model call of the tenant's callers must carry."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"required": ["feature"]}]})

    required: list[TagName] = Field(max_length=len(TagName), description="Left empty: none.")


class Asked(BaseModel):
    """A request whose plan is wanted."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "body": {"model": "smart", "messages": [{"role": "user", "content": "Why is the sky blue?"}]},
                    "headers": {"backstay-task": "explain"},
                }
            ]
        },
    )

    body: dict[str, Any] = Field(description="The request as it would be sent, in any of the formats.")
    headers: dict[str, str] = Field(default_factory=dict, description="Those that matter: `backstay-…`.")
    model: str | None = Field(
        None, max_length=MAX_MODEL, description="In the place of the body's, or where it has none."
    )


class ChoiceView(BaseModel):
    model: str
    reason: str


class RuleView(BaseModel):
    """A rule that fired, and what it saw."""

    rule: str
    points: int
    because: str


class ComplexityView(BaseModel):
    score: int
    level: Level
    rules: list[RuleView]


class PlanView(BaseModel):
    """Targets in the order in which they would be tried, those left out, and why."""

    route: str
    strategy: Strategy
    why: str
    targets: list[ChoiceView]
    skipped: list[ChoiceView]
    complexity: ComplexityView | None
    conversation: str | None = Field(description="A digest; the same for every turn of a conversation on this route.")

    @classmethod
    def of(cls, plan: Plan) -> "PlanView":
        return cls(strategy=plan.route.strategy, **plan.explained())


@router.get("/routes", permission="routes:read")
async def list_routes(by: Caller, page: PageRequest, catalog: Service) -> Page[RouteView]:
    """Routes that the tenant's calls may take, by name."""
    found = await catalog.routes.list(by, page.after_name, page.limit + 1)
    return Page.of([RouteView.of(stored) for stored in found], page, lambda view: [view.name])


@router.get("/routes/{name}", permission="routes:read", errors=[RouteNotFound])
async def show_route(name: RouteName, by: Caller, catalog: Service) -> RouteView:
    """One route: the tenant's own, else the operator's."""
    return RouteView.of(await catalog.routes.get(by, name))


@router.put("/routes/{name}", permission="routes:write", errors=[RevisionMismatch, CatalogFull])
async def put_route(
    name: RouteName, body: RouteDefinition, by: Caller, tx: Tx, catalog: Service, if_match: IfMatch = None
) -> RouteView:
    """Make a route or change it. The next calls take it, those under way keep what they began with."""
    route = Route.of(name, body)
    return RouteView.of(await catalog.routes.put(by, route, revision=_revision(if_match), tx=tx))


@router.delete("/routes/{name}", permission="routes:write", status=204, errors=[RouteNotFound, RevisionMismatch])
async def delete_route(name: RouteName, by: Caller, tx: Tx, catalog: Service, if_match: IfMatch = None) -> None:
    """Remove a route of the tenant's own."""
    await catalog.routes.delete(by, name, revision=_revision(if_match), tx=tx)


@router.get("/providers", permission="providers:read")
async def list_providers(by: Caller, page: PageRequest, catalog: Service) -> Page[AccountView]:
    """The tenant's own accounts at providers, by name."""
    found = await catalog.providers.list(by, page.after_name, page.limit + 1)
    return Page.of([AccountView.of(account) for account in found], page, lambda view: [view.name])


@router.get("/providers/{name}", permission="providers:read", errors=[ProviderNotFound])
async def show_provider(name: AccountName, by: Caller, catalog: Service) -> AccountView:
    """One account. Its secrets are never shown."""
    return AccountView.of(await catalog.providers.get(by, name))


# Without a transaction of the request's own: the guard may ask the network, and nothing is held meanwhile.
@router.put("/providers/{name}", permission="providers:write", errors=[RevisionMismatch, CatalogFull, SecretNeeded])
async def put_provider(
    name: AccountName, body: NewAccount, by: Caller, catalog: Service, if_match: IfMatch = None
) -> AccountView:
    """Make an account or change it. A secret that is given replaces the others at once; without one they stay."""
    return AccountView.of(await catalog.providers.put(by, name, body, revision=_revision(if_match)))


@router.post("/providers/{name}/rotate", permission="providers:write", errors=[ProviderNotFound, CatalogFull])
async def rotate_provider(name: AccountName, body: NewSecret, by: Caller, tx: Tx, catalog: Service) -> AccountView:
    """Set a new secret. It is used from now on; those that stand are good a while longer, if so wished."""
    overlap = timedelta(seconds=body.overlap_seconds)
    return AccountView.of(await catalog.providers.rotate(by, name, body.secret, overlap=overlap, tx=tx))


@router.delete(
    "/providers/{name}/secrets/{id}",
    permission="providers:write",
    status=204,
    errors=[ProviderNotFound, SecretNotFound],
)
async def revoke_secret(name: AccountName, id: UUID, by: Caller, tx: Tx, catalog: Service) -> None:
    """Revoke one secret: it is deleted, and no further call uses it."""
    await catalog.providers.revoke(by, name, id, tx=tx)


@router.delete(
    "/providers/{name}", permission="providers:write", status=204, errors=[ProviderNotFound, RevisionMismatch]
)
async def delete_provider(name: AccountName, by: Caller, tx: Tx, catalog: Service, if_match: IfMatch = None) -> None:
    """Remove an account with its secrets."""
    await catalog.providers.delete(by, name, revision=_revision(if_match), tx=tx)


@router.get("/prices", permission="prices:read")
async def list_prices(by: Caller, page: PageRequest, catalog: Service) -> Page[PriceView]:
    """The tenant's own prices, oldest first."""
    found = await catalog.prices.list(by, page.after_id, page.limit + 1)
    return Page.of([PriceView.of(price) for price in found], page, lambda view: [view.id])


@router.post("/prices", permission="prices:write", status=201, errors=[PriceExists, CatalogFull])
async def add_price(body: NewPrice, by: Caller, tx: Tx, catalog: Service) -> PriceView:
    """Set what a model costs, from a moment on. It goes before listed prices; zero is a price."""
    return PriceView.of(await catalog.prices.add(by, body, tx=tx))


@router.get("/prices/{id}", permission="prices:read", errors=[PriceNotFound])
async def show_price(id: UUID, by: Caller, catalog: Service) -> PriceView:
    """One price."""
    return PriceView.of(await catalog.prices.get(by, id))


@router.put("/prices/{id}", permission="prices:write", errors=[PriceNotFound, PriceExists])
async def replace_price(id: UUID, body: NewPrice, by: Caller, tx: Tx, catalog: Service) -> PriceView:
    """Correct a price. What was spent stays as it was counted."""
    return PriceView.of(await catalog.prices.replace(by, id, body, tx=tx))


@router.delete("/prices/{id}", permission="prices:write", status=204, errors=[PriceNotFound])
async def delete_price(id: UUID, by: Caller, tx: Tx, catalog: Service) -> None:
    """Remove a price: an earlier one, or the listed price, holds again."""
    await catalog.prices.delete(by, id, tx=tx)


@router.get("/tags", permission="tags:read")
async def show_tags(by: Caller, catalog: Service) -> TagsView:
    """The tags without which a model call is refused."""
    return TagsView(required=(await catalog.tags.get(by)).told())


@router.put("/tags", permission="tags:write")
async def put_tags(body: TagsView, by: Caller, tx: Tx, catalog: Service) -> TagsView:
    """Make tags mandatory: from the next call on, one without them is refused with `tag_required`."""
    return TagsView(required=(await catalog.tags.require(by, body.required, tx=tx)).told())


@router.post("/explain", permission="routes:read", errors=[ModelNotFound, RouteUnreadable])
async def explain(body: Asked, by: Caller, catalog: Service) -> PlanView:
    """Show where a request would go, and why. Nothing is called and nothing is recorded."""
    asked = body.body if body.model is None else {**body.body, "model": body.model}
    return PlanView.of(await catalog.explain(by, asked, body.headers))


def _revision(if_match: str | None) -> int | None:
    return None if if_match is None else int(if_match.strip('"'))
