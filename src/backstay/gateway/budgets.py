"""Budgets: how much may be spent, by whom and on what."""

from decimal import Decimal
from typing import Literal
from uuid import UUID

from pydantic import ValidationError

from ..audit import Audit
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import FieldError, Invalid
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from . import store
from .models import Budget, BudgetExists, BudgetNotFound, NewBudget, Period, Scope

READ, WRITE = "budgets:read", "budgets:write"


class Budgets:
    """Limits in USD. A new one counts from its creation and binds the next call of every process."""

    def __init__(self, db: Database, clock: Clock, audit: Audit) -> None:
        self._db, self._clock, self._audit = db, clock, audit

    async def create(
        self,
        by: Principal,
        scope: Scope | Literal["tenant", "key", "user", "feature", "model"],
        subject: str | None,
        limit: Decimal,
        window: Period | Literal["minute", "hour", "day", "month", "total"] = Period.MONTH,
        hard: bool = True,
        tx: Tx | None = None,
    ) -> Budget:
        """Bounds what `subject` may spend in each `window`. Joins `tx` when given.

        Raises:
            Invalid: a scope without its subject, or a limit that is no amount (422).
            BudgetExists: there is one of this scope, subject and window (409).
        """
        by.require(WRITE)
        try:
            new = NewBudget(scope=Scope(scope), subject=subject, limit=limit, window=Period(window), hard=hard)
        except ValidationError as error:
            found = [FieldError(".".join(map(str, item["loc"])) or "budget", item["msg"]) for item in error.errors()]
            raise Invalid("the budget is wrong", errors=found) from None
        now, id = self._clock.now(), new_id()
        async with self._db.join(tx, by.tenant) as tx:
            if not await store.add_budget(tx, by.tenant, id, new, now):
                of = f" of {new.scope} {new.subject}" if new.subject else " of the tenant"
                raise BudgetExists(f"there is a budget{of} by {new.window} already; delete it first")
            metadata = {"scope": new.scope, "subject": new.subject, "limit": str(new.limit), "window": new.window}
            await self._audit.record(tx, by, "budget.created", f"budget:{id}", metadata={**metadata, "hard": hard})
        return Budget(id, new.scope, new.subject, new.limit, new.window, new.hard, now)

    async def list(self, by: Principal, after: UUID | None = None, limit: int = 50) -> list[Budget]:
        """Budgets with what their running windows hold and have spent, oldest first."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.budgets(tx, by.tenant, after, limit, self._clock.now())

    async def get(self, by: Principal, id: UUID) -> Budget:
        """Raises BudgetNotFound (404)."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            budget = await store.budget(tx, by.tenant, id, self._clock.now())
        if budget is None:
            raise BudgetNotFound(f"there is no budget {id} in this tenant")
        return budget

    async def delete(self, by: Principal, id: UUID, tx: Tx | None = None) -> None:
        """Lifts a limit. Joins `tx` when given.

        Raises:
            BudgetNotFound: there is none (404).
        """
        by.require(WRITE)
        async with self._db.join(tx, by.tenant) as tx:
            if not await store.delete_budget(tx, by.tenant, id):
                raise BudgetNotFound(f"there is no budget {id} in this tenant")
            await self._audit.record(tx, by, "budget.deleted", f"budget:{id}")
