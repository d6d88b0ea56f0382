"""Budgets: how much may be spent, by whom and on what."""

from decimal import Decimal
from typing import Literal

from pydantic import TypeAdapter

from ..audit import Audit
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.principal import Principal
from .allowance import Allowance
from .bounds import WRITE, Bounds
from .terms import Bound, Budget, BudgetExists, BudgetNotFound, NewBudget, Period, Scope, Unit, Usd

_ALL = 10_000


class Budgets(Bounds[Budget]):
    """Bounds in USD. A new one counts from its creation and binds the next call of every process."""

    word, units = "budget", (Unit.USD,)
    missing, exists = BudgetNotFound, BudgetExists
    amount = TypeAdapter(Usd)

    def __init__(self, db: Database, clock: Clock, audit: Audit) -> None:
        super().__init__(db, clock, audit, _budget)

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
        given = {"scope": scope, "subject": subject, "limit": limit, "window": window, "hard": hard}
        return await self._add(by, self._checked(NewBudget, given), tx, hard=hard)

    async def ensure(
        self,
        by: Principal,
        scope: Scope | Literal["tenant", "key", "user", "feature", "model"],
        subject: str | None,
        allowance: Allowance,
    ) -> Budget:
        """There is such a budget, and it allows just that."""
        async with self._db.tenant_tx(by.tenant) as tx:
            for bound in await self.list(by, limit=_ALL):
                if (bound.scope, bound.subject, bound.window) == (scope, subject, allowance.window):
                    same = bound.limit == allowance.limit
                    return bound if same else await self.change(by, bound.id, allowance.limit, tx=tx)
            return await self.create(by, scope, subject, allowance.limit, allowance.window, tx=tx)


def _budget(bound: Bound) -> Budget:
    return Budget(
        id=bound.id,
        scope=Scope(bound.scope),
        subject=bound.subject,
        limit=bound.amount,
        window=Period(bound.period),
        hard=bound.hard,
        created_at=bound.created_at,
        spent=bound.spent,
        held=bound.held,
    )
