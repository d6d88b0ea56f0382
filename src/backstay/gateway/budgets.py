"""Budgets: how much may be spent, by whom and on what."""

from decimal import Decimal
from typing import Literal
from uuid import UUID

from pydantic import TypeAdapter

from ..audit import Audit
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import ConfigurationError
from ..kernel.principal import Principal
from . import store
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

    async def open_purse(self, tx: Tx, by: Principal, run: UUID, allowance: Allowance) -> None:
        """What a run and its children may spend, until `close_purse`.

        Raises:
            ConfigurationError: the allowance is for a window; a run's is in total.
        """
        if allowance.window is not Period.TOTAL:
            raise ConfigurationError(f"the budget of a run is in total, not for a {allowance.window}: write `0.50 USD`")
        purse = NewBudget.model_construct(
            scope=Scope.RUN, subject=str(run), limit=allowance.limit, window=Period.TOTAL, hard=True
        )
        await self._add(by, purse, tx, hard=True)

    async def close_purse(self, tx: Tx, tenant: UUID, run: UUID) -> None:
        """The run has ended: calls for it and its children are refused from now on. Nothing when it had no budget."""
        closed = await store.close_purse(tx, tenant, run)
        if closed is not None:
            facts = {
                "limit": str(closed.amount),
                "spent": str(closed.spent),
                "held": str(closed.held),
            }
            by = Principal.system(tenant, "gateway")
            await self._audit.record(tx, by, "budget.closed", f"budget:{closed.id}", run=run, metadata=facts)


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
