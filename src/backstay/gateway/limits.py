"""Limits: how many requests, how many tokens, how many calls at a time, by whom and on what."""

from typing import Literal

from pydantic import TypeAdapter

from ..audit import Audit
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.principal import Principal
from .bounds import WRITE, Bounds
from .terms import Bound, Count, LimitExists, LimitNotFound, NewLimit, Period, RateLimit, Scope, Unit


class Limits(Bounds[RateLimit]):
    """Bounds of what is not money, exact over all processes. A new one counts from its creation."""

    word, units = "limit", (Unit.REQUESTS, Unit.TOKENS, Unit.CONCURRENCY)
    missing, exists = LimitNotFound, LimitExists
    amount = TypeAdapter(Count)

    def __init__(self, db: Database, clock: Clock, audit: Audit) -> None:
        super().__init__(db, clock, audit, _limit)

    async def create(
        self,
        by: Principal,
        scope: Scope | Literal["tenant", "key", "user", "feature", "model"],
        subject: str | None,
        unit: Unit | Literal["requests", "tokens", "concurrency"],
        limit: int,
        window: Period | Literal["minute", "hour", "day", "month", "total"] | None = None,
        tx: Tx | None = None,
    ) -> RateLimit:
        """Bounds how much of `unit` `subject` may use in each `window` (a minute, unless said). Joins `tx` when given.

        Concurrency is counted while calls are open and has no window.

        Raises:
            Invalid: a scope without its subject, a unit that is none of these, or a limit that is no count (422).
            LimitExists: there is one of this scope, subject, unit and window (409).
        """
        by.require(WRITE)
        given = {"scope": scope, "subject": subject, "unit": unit, "limit": limit, "window": window}
        new = self._checked(NewLimit, given)
        return await self._add(by, new, tx, unit=new.unit)


def _limit(bound: Bound) -> RateLimit:
    return RateLimit(
        id=bound.id,
        scope=Scope(bound.scope),
        subject=bound.subject,
        unit=Unit(bound.unit),
        limit=int(bound.amount),
        window=Period(bound.period),
        created_at=bound.created_at,
        used=int(bound.spent),
        held=int(bound.held),
    )
