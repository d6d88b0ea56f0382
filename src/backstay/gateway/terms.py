"""The terms of budgets and limits: whom they bound, what they count, and how often they start anew."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..kernel.errors import Conflict, NotFound


class Scope(StrEnum):
    """What is bounded. The subject is nothing, a key's id, a user tag, a feature tag, `provider:model`, or a run's id:
    the budget that a run was started with, for all that it and its children spend."""

    TENANT = "tenant"
    KEY = "key"
    USER = "user"
    FEATURE = "feature"
    MODEL = "model"
    RUN = "run"


class Period(StrEnum):
    """How often a budget or a limit starts anew; windows begin at full minutes, hours, days, months of UTC."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"

    def resets_at(self, start: datetime) -> datetime | None:
        """When the window that began at `start` ends; None for `total`, which never does."""
        if self is Period.TOTAL:
            return None
        if self is Period.MONTH:
            return (start.replace(day=1) + timedelta(days=32)).replace(day=1)
        return start + timedelta(**{f"{self.value}s": 1})


class Unit(StrEnum):
    """What is counted: budgets bound dollars, limits the rest. `concurrency` is calls that are open at a time."""

    USD = "usd"
    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"


class BudgetNotFound(NotFound):
    code, title = "budget_not_found", "Budget not found"


class BudgetExists(Conflict):
    code, title = "budget_exists", "There is such a budget already"


class LimitNotFound(NotFound):
    code, title = "limit_not_found", "Limit not found"


class LimitExists(Conflict):
    code, title = "limit_exists", "There is such a limit already"


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `limit` USD for `subject` in each window."""

    id: UUID
    scope: Scope
    subject: str | None
    limit: Decimal
    window: Period
    hard: bool
    created_at: datetime
    spent: Decimal = Decimal(0)
    held: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `limit` requests or tokens for `subject` in each window, or `limit` calls open at the same time.

    `used` is what has been counted in the running window, `held` what calls under way have reserved of the rest.
    """

    id: UUID
    scope: Scope
    subject: str | None
    unit: Unit
    limit: int
    window: Period
    created_at: datetime
    used: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Bound:
    """A budget or a limit as its row has it: `amount` of `unit` in each `period`."""

    id: UUID
    scope: str
    subject: str | None
    unit: str
    amount: Decimal
    period: str
    hard: bool
    created_at: datetime
    spent: Decimal
    held: Decimal


@dataclass(frozen=True, slots=True)
class Purse:
    """What a run had to spend, when it ended. `held`: by calls that were under way."""

    id: UUID
    amount: Decimal
    spent: Decimal
    held: Decimal


class _Bounded(BaseModel):
    """Whom a budget or a limit is for."""

    model_config = ConfigDict(extra="forbid")

    scope: Scope = Field(description="What is bounded.")
    subject: str | None = Field(
        None, max_length=256, description="Key id, user, feature or provider:model; none for the tenant."
    )

    @model_validator(mode="after")
    def _subject_fits_scope(self) -> Self:
        if (self.subject is None) != (self.scope is Scope.TENANT):
            raise ValueError("the scope `tenant` has no subject, every other scope needs one")
        if self.subject is not None and (not self.subject or "\x00" in self.subject):
            raise ValueError("the subject must be a text without NUL characters")
        if self.scope is Scope.RUN:
            raise ValueError("a run gets its budget when it is started: hand in `budget` there")
        return self


Usd = Annotated[Decimal, Field(ge=0, le=Decimal(10) ** 9, max_digits=20, decimal_places=8, description="USD.")]
Count = Annotated[int, Field(ge=0, le=10**15, description="Requests, tokens, or calls open at the same time.")]


class NewBudget(_Bounded):
    """A budget to create."""

    limit: Usd
    window: Period = Field(Period.MONTH, description="How often it starts anew.")
    hard: bool = Field(True, description="Refuse calls that do not fit; a soft budget counts and gives notice.")

    @property
    def unit(self) -> Unit:
        return Unit.USD

    @property
    def period(self) -> Period:
        return self.window


class NewLimit(_Bounded):
    """A limit to create."""

    unit: Literal[Unit.REQUESTS, Unit.TOKENS, Unit.CONCURRENCY] = Field(
        description="What is counted; concurrency is calls that are open at the same time."
    )
    limit: Count
    window: Period | None = Field(
        None, description="How often it starts anew: each minute, unless said. Concurrency has none."
    )

    @model_validator(mode="after")
    def _unit_fits_window(self) -> Self:
        if self.unit is Unit.CONCURRENCY and self.window not in (None, Period.TOTAL):
            raise ValueError("concurrency counts calls that are open now: leave the window out")
        return self

    @property
    def period(self) -> Period:
        return self.window or (Period.TOTAL if self.unit is Unit.CONCURRENCY else Period.MINUTE)

    @property
    def hard(self) -> bool:
        return True
