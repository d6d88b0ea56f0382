"""Budgets, spend and calls over HTTP."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel

from ..kernel.db import Tx
from ..kernel.http import Caller, Page, PageRequest, Router, service
from .models import Budget, BudgetExists, BudgetNotFound, CallRow, NewBudget, Period, Scope, SpendRow
from .service import Gateway, Group

router = Router("/api/gateway", tag="gateway")
Service = Annotated[Gateway, service("gateway")]


class BudgetView(BaseModel):
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

    @classmethod
    def of(cls, budget: Budget) -> "BudgetView":
        return cls.model_validate(budget, from_attributes=True)


class SpendView(BaseModel):
    """What one feature, user, key or model used and cost (USD)."""

    name: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal

    @classmethod
    def of(cls, row: SpendRow) -> "SpendView":
        return cls.model_validate(row, from_attributes=True)


class CallView(BaseModel):
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

    @classmethod
    def of(cls, row: CallRow) -> "CallView":
        return cls.model_validate(row, from_attributes=True)


@router.post("/budgets", permission="budgets:write", status=201, errors=[BudgetExists])
async def create_budget(body: NewBudget, by: Caller, tx: Tx, gateway: Service) -> BudgetView:
    """Bound what a tenant, key, user, feature or model may spend in each window."""
    created = await gateway.budgets.create(by, body.scope, body.subject, body.limit, body.window, body.hard, tx=tx)
    return BudgetView.of(created)


@router.get("/budgets", permission="budgets:read")
async def list_budgets(by: Caller, page: PageRequest, gateway: Service) -> Page[BudgetView]:
    """Budgets, oldest first."""
    after = UUID(page.after[0]) if page.after else None
    found = await gateway.budgets.list(by, after, page.limit + 1)
    return Page.of([BudgetView.of(budget) for budget in found], page, lambda budget: [budget.id])


@router.get("/budgets/{id}", permission="budgets:read", errors=[BudgetNotFound])
async def show_budget(id: UUID, by: Caller, gateway: Service) -> BudgetView:
    """One budget with its running window."""
    return BudgetView.of(await gateway.budgets.get(by, id))


@router.delete("/budgets/{id}", permission="budgets:write", status=204, errors=[BudgetNotFound])
async def delete_budget(id: UUID, by: Caller, tx: Tx, gateway: Service) -> None:
    """Lift a limit."""
    await gateway.budgets.delete(by, id, tx=tx)


@router.get("/spend", permission="gateway:read")
async def spend(
    by: Caller,
    gateway: Service,
    group: Annotated[Group, Query(description="What to add up by.")] = "feature",
    since: Annotated[datetime | None, Query(description="Leave out what was spent before.")] = None,
) -> list[SpendView]:
    """What was used and what it cost, dearest first, at most 1,000 rows."""
    return [SpendView.of(row) for row in await gateway.spend(by, group, since)]


@router.get("/calls", permission="gateway:read")
async def calls(by: Caller, page: PageRequest, gateway: Service, run: UUID | None = None) -> Page[CallView]:
    """Model calls, newest first."""
    after = UUID(page.after[0]) if page.after else None
    found = await gateway.calls(by, after, page.limit + 1, run)
    return Page.of([CallView.of(row) for row in found], page, lambda row: [row.id])
