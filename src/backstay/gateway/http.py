"""Budgets, limits, spend and calls over HTTP."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict

from ..kernel.db import Tx
from ..kernel.http import Caller, Page, PageRequest, Router, View, service
from . import sheet
from .models import SpendFilter
from .service import Gateway, Group
from .terms import (
    BudgetExists,
    BudgetNotFound,
    Count,
    LimitExists,
    LimitNotFound,
    NewBudget,
    NewLimit,
    Period,
    Scope,
    Unit,
    Usd,
)

router = Router("/api/gateway", tag="gateway")
Service = Annotated[Gateway, service("gateway")]


class BudgetView(View):
    """A budget, and what its running window has spent and holds for calls under way (USD)."""

    id: UUID
    scope: Scope
    subject: str | None
    limit: Decimal
    window: Period
    hard: bool
    created_at: datetime
    spent: Decimal
    held: Decimal


class BudgetChange(BaseModel):
    """Another amount for a budget."""

    model_config = ConfigDict(extra="forbid")

    limit: Usd


class LimitView(View):
    """A limit, and what its running window has counted and holds for calls under way."""

    id: UUID
    scope: Scope
    subject: str | None
    unit: Unit
    limit: int
    window: Period
    created_at: datetime
    used: int
    held: int


class LimitChange(BaseModel):
    """Another amount for a limit."""

    model_config = ConfigDict(extra="forbid")

    limit: Count


class SpendView(View):
    """What one feature, user, key, model or day used and cost (USD)."""

    name: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal


class CallView(View):
    """One model call. `state`: open, finished, abandoned."""

    id: UUID
    started_at: datetime
    finished_at: datetime | None
    state: str
    outcome: str | None
    provider: str
    model: str
    feature: str
    user: str | None
    key: UUID | None
    run: UUID | None
    input_tokens: int
    output_tokens: int
    cost: Decimal
    route: str | None
    cached: str | None
    rescued: bool


class SavingsView(View):
    """What `calls` cost (USD), and what they would have cost more: `cached` of them without kept answers, `routed` of
    them at the dearest target of their route. `rescued` of them were answered by a fallback, and would have failed."""

    calls: int
    cost: Decimal
    cached: int
    by_cache: Decimal
    routed: int
    by_route: Decimal
    rescued: int


@router.post("/budgets", permission="budgets:write", status=201, errors=[BudgetExists])
async def create_budget(body: NewBudget, by: Caller, tx: Tx, gateway: Service) -> BudgetView:
    """Bound what a tenant, key, user, feature or model may spend in each window."""
    created = await gateway.budgets.create(by, body.scope, body.subject, body.limit, body.window, body.hard, tx=tx)
    return BudgetView.of(created)


@router.get("/budgets", permission="budgets:read")
async def list_budgets(by: Caller, page: PageRequest, gateway: Service) -> Page[BudgetView]:
    """Budgets, oldest first."""
    found = await gateway.budgets.list(by, page.after_id, page.limit + 1)
    return Page.of([BudgetView.of(budget) for budget in found], page, lambda budget: [budget.id])


@router.get("/budgets/{id}", permission="budgets:read", errors=[BudgetNotFound])
async def show_budget(id: UUID, by: Caller, gateway: Service) -> BudgetView:
    """One budget with its running window."""
    return BudgetView.of(await gateway.budgets.get(by, id))


@router.patch("/budgets/{id}", permission="budgets:write", errors=[BudgetNotFound])
async def change_budget(id: UUID, body: BudgetChange, by: Caller, tx: Tx, gateway: Service) -> BudgetView:
    """Set another amount. It binds the next call, in the running window too."""
    return BudgetView.of(await gateway.budgets.change(by, id, body.limit, tx=tx))


@router.delete("/budgets/{id}", permission="budgets:write", status=204, errors=[BudgetNotFound])
async def delete_budget(id: UUID, by: Caller, tx: Tx, gateway: Service) -> None:
    """Lift a budget."""
    await gateway.budgets.delete(by, id, tx=tx)


@router.post("/limits", permission="budgets:write", status=201, errors=[LimitExists])
async def create_limit(body: NewLimit, by: Caller, tx: Tx, gateway: Service) -> LimitView:
    """Bound the requests or tokens of each window, or the calls that are open at the same time."""
    created = await gateway.limits.create(by, body.scope, body.subject, body.unit, body.limit, body.window, tx=tx)
    return LimitView.of(created)


@router.get("/limits", permission="budgets:read")
async def list_limits(by: Caller, page: PageRequest, gateway: Service) -> Page[LimitView]:
    """Limits, oldest first."""
    found = await gateway.limits.list(by, page.after_id, page.limit + 1)
    return Page.of([LimitView.of(limit) for limit in found], page, lambda limit: [limit.id])


@router.get("/limits/{id}", permission="budgets:read", errors=[LimitNotFound])
async def show_limit(id: UUID, by: Caller, gateway: Service) -> LimitView:
    """One limit with its running window."""
    return LimitView.of(await gateway.limits.get(by, id))


@router.patch("/limits/{id}", permission="budgets:write", errors=[LimitNotFound])
async def change_limit(id: UUID, body: LimitChange, by: Caller, tx: Tx, gateway: Service) -> LimitView:
    """Set another amount. It binds the next call, in the running window too."""
    return LimitView.of(await gateway.limits.change(by, id, body.limit, tx=tx))


@router.delete("/limits/{id}", permission="budgets:write", status=204, errors=[LimitNotFound])
async def delete_limit(id: UUID, by: Caller, tx: Tx, gateway: Service) -> None:
    """Lift a limit."""
    await gateway.limits.delete(by, id, tx=tx)


@router.get(
    "/spend",
    permission="gateway:read",
    response_model=list[SpendView],
    responses={200: {"content": {sheet.TYPE: {"schema": {"type": "string"}}}}},
)
async def spend(
    request: Request,
    by: Caller,
    gateway: Service,
    group: Annotated[Group, Query(description="What to add up by; days are those of UTC.")] = "feature",
    since: Annotated[datetime | None, Query(description="Leave out what was spent before. UTC, unless said.")] = None,
    until: Annotated[datetime | None, Query(description="Leave out what was spent from then on.")] = None,
    feature: Annotated[str | None, Query(description="Only this feature.")] = None,
    user: Annotated[str | None, Query(description="Only this user.")] = None,
    key: Annotated[UUID | None, Query(description="Only this key.")] = None,
    model: Annotated[str | None, Query(description="Only this provider:model.")] = None,
    format: Annotated[Literal["json", "csv"] | None, Query(description="Decides over the Accept header.")] = None,
) -> list[SpendView] | Response:
    """What was used and what it cost, dearest first or the newest day first, at most 1,000 rows; as JSON or CSV."""
    rows = await gateway.spend(by, group, SpendFilter(since, until, feature, user, key, model))
    if format == "csv" or (format is None and _prefers_csv(request.headers.get("accept", ""))):
        disposition = {"content-disposition": f'attachment; filename="spend-by-{group}.csv"'}
        return Response(sheet.spend(group, rows), media_type=sheet.TYPE, headers=disposition)
    return [SpendView.of(row) for row in rows]


@router.get("/savings", permission="gateway:read")
async def savings(
    by: Caller,
    gateway: Service,
    since: Annotated[datetime | None, Query(description="Leave out calls that ended before.")] = None,
    until: Annotated[datetime | None, Query(description="Leave out calls that ended from then on.")] = None,
) -> SavingsView:
    """What keeping answers, routing and falling back have saved."""
    return SavingsView.of(await gateway.savings(by, since, until))


@router.get("/calls", permission="gateway:read")
async def calls(by: Caller, page: PageRequest, gateway: Service, run: UUID | None = None) -> Page[CallView]:
    """Model calls, newest first."""
    found = await gateway.calls(by, page.after_id, page.limit + 1, run)
    return Page.of([CallView.of(row) for row in found], page, lambda row: [row.id])


def _prefers_csv(accept: str) -> bool:
    """Whether CSV is named before JSON and before anything at all."""
    kinds = [kind.partition(";")[0].strip() for kind in accept.lower().split(",")]
    known = [kind for kind in kinds if kind in (sheet.TYPE, "application/json", "*/*")]
    return known[:1] == [sheet.TYPE]
