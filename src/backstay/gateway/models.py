"""What the gateway speaks about: calls, usage, budgets, spend."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..kernel.errors import Conflict, NotFound

ZERO = Decimal(0)
# A total budget has one window; every timestamp type can hold its start.
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Scope(StrEnum):
    """What a budget bounds. The subject is nothing, a key's id, a user tag, a feature tag, or `provider:model`."""

    TENANT = "tenant"
    KEY = "key"
    USER = "user"
    FEATURE = "feature"
    MODEL = "model"


class Period(StrEnum):
    """How often a budget starts anew; windows begin at full minutes, hours, days, months of UTC."""

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


class BudgetNotFound(NotFound):
    code, title = "budget_not_found", "Budget not found"


class BudgetExists(Conflict):
    code, title = "budget_exists", "There is such a budget already"


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
    spent: Decimal = ZERO
    held: Decimal = ZERO


class NewBudget(BaseModel):
    """A budget to create."""

    model_config = ConfigDict(extra="forbid")

    scope: Scope = Field(description="What the budget bounds.")
    subject: str | None = Field(
        None, max_length=256, description="Key id, user, feature or provider:model; none for the tenant."
    )
    limit: Decimal = Field(ge=0, le=Decimal(10) ** 9, max_digits=20, decimal_places=8, description="USD.")
    window: Period = Field(Period.MONTH, description="How often it starts anew.")
    hard: bool = Field(True, description="Refuse calls that do not fit; a soft budget only counts.")

    @model_validator(mode="after")
    def _subject_fits_scope(self) -> "NewBudget":
        if (self.subject is None) != (self.scope is Scope.TENANT):
            raise ValueError("a tenant budget has no subject, every other budget needs one")
        if self.subject is not None and (not self.subject or "\x00" in self.subject):
            raise ValueError("the subject must be a text without NUL characters")
        return self


@dataclass(slots=True)
class Window:
    """One budget's running window, locked while a batch is admitted; `held` is moved by the decisions."""

    tenant_id: UUID
    budget_id: UUID
    scope: str
    subject: str
    amount: Decimal
    period: str
    hard: bool
    starts_at: datetime
    spent: Decimal
    held: Decimal

    def room_for(self, reserve: Decimal) -> bool:
        return not self.hard or self.spent + self.held + reserve <= self.amount


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt, in all: those read from a prompt cache (`cached`), those written to one, those of sound
    and of pictures are part of `input_tokens`; those of thought, of sound and of pictures are part of `output_tokens`.
    `written_hour`: the part of `written` that is kept for an hour, which some providers price on its own.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    written_tokens: int = 0
    written_hour_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_image_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Tags:
    """Who a call is for; budgets and spend are counted along these."""

    tenant: UUID
    principal: UUID
    actor: str
    feature: str
    user: str | None = None
    key: UUID | None = None
    run: UUID | None = None
    idempotency: str | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A call waiting to be admitted."""

    id: UUID
    tags: Tags
    provider: str
    model: str
    kind: str
    streamed: bool
    reserve: Decimal
    payload: Mapping[str, Any]
    at: datetime

    def scopes(self) -> list[tuple[UUID, str, str]]:
        """Every (tenant, scope, subject) whose budgets bound this call."""
        tags = self.tags
        found = [
            (tags.tenant, "tenant", ""),
            (tags.tenant, "feature", tags.feature),
            (tags.tenant, "model", f"{self.provider}:{self.model}"),
        ]
        if tags.key is not None:
            found.append((tags.tenant, "key", str(tags.key)))
        if tags.user is not None:
            found.append((tags.tenant, "user", tags.user))
        return found


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call with its intent recorded and its holds taken: the provider may be asked."""

    reservation: Reservation
    windows: tuple[tuple[UUID, datetime], ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a provider, as the ledger keeps it."""

    provider: str
    model: str
    outcome: str
    usage: Usage
    cost: Decimal
    seconds: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an admitted call ended. Written exactly once, by whichever process and however late."""

    admitted: Admitted
    outcome: str
    attempts: tuple[Attempt, ...]
    payload: Mapping[str, Any]
    at: datetime

    @property
    def cost(self) -> Decimal:
        return sum((attempt.cost for attempt in self.attempts), ZERO)


@dataclass(frozen=True, slots=True)
class SpendRow:
    """What one feature, user, key or model used and cost. `name` is None where a call carried no such tag."""

    name: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class CallRow:
    """One call as the list shows it. `state`: open, finished, abandoned."""

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


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds: for the connection, the first token, between two tokens, and for the whole call."""

    connect: float = 5.0
    first_token: float = 60.0
    idle: float = 60.0
    total: float = 600.0


class Answer(dict[str, Any]):
    """A chat completion in the OpenAI shape, with what it cost and which call it was."""

    cost: Decimal
    call: UUID
    usage: Usage
    raw: bytes

    @classmethod
    def of(cls, body: Mapping[str, Any], raw: bytes, call: UUID, usage: Usage, cost: Decimal) -> "Answer":
        answer = cls(body)
        answer.raw, answer.call, answer.usage, answer.cost = raw, call, usage, cost
        return answer


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors in the order of the inputs."""

    vectors: list[list[float]]
    input_tokens: int
    cost: Decimal
    model: str
    call: UUID = field(default=UUID(int=0))
