"""What the gateway speaks about: calls, usage, spend."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple, Self
from uuid import UUID

from ..kernel.errors import FieldError, Invalid

ZERO = Decimal(0)


class Mode(StrEnum):
    """What a call reserves: the most it may use (`strict`), or what such calls have used lately (`expected`)."""

    STRICT = "strict"
    EXPECTED = "expected"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt, in all: those read from a prompt cache (`cached`), those written to one, those of sound
    and of pictures are part of `input_tokens`; those of thought, of sound and of pictures are part of `output_tokens`.
    `written_hour`: the part of `written` that is kept for an hour, which some providers price on its own.
    `web_searches`: requests to the web that the provider made for the answer and bills on their own.
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
    web_searches: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Tags:
    """Who a call is for; budgets, limits and spend are counted along these. `purses` as in Principal."""

    tenant: UUID
    principal: UUID
    actor: str
    feature: str
    user: str | None = None
    key: UUID | None = None
    run: UUID | None = None
    idempotency: str | None = None
    purses: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Reservation:
    """A call waiting to be admitted: it takes `reserve` USD and `tokens` (input and output) from what bounds it.

    These are the most it may use, or in the mode `expected` what `Admission.expected_output` lets expect; such a call
    is extended before it uses more. `models`: further ones that may answer in the place of the first, as
    `provider:model`; budgets and limits of each bind the call. `route`: by which it came to them, and `why`.
    `unbounded`: the model, if one may cost more than any reservation; a hard budget does not let it in.
    """

    id: UUID
    tags: Tags
    provider: str
    model: str
    kind: str
    streamed: bool
    reserve: Decimal
    payload: Mapping[str, Any]
    at: datetime
    tokens: int = 0
    mode: Mode = Mode.STRICT
    models: tuple[str, ...] = ()
    route: str | None = None
    why: Mapping[str, Any] = field(default_factory=dict)
    unbounded: str | None = None

    @property
    def bound_by(self) -> Hashable:
        """Equal for calls that have the same `scopes`."""
        tags = self.tags
        return (
            tags.tenant,
            tags.feature,
            tags.key,
            tags.user,
            tags.purses,
            self.provider,
            self.model,
            self.models,
            self.route,
        )

    def scopes(self) -> list[tuple[UUID, str, str]]:
        """Every (tenant, scope, subject) whose budgets and limits bound this call."""
        tags = self.tags
        found = [
            (tags.tenant, "tenant", ""),
            (tags.tenant, "feature", tags.feature),
        ]
        models = dict.fromkeys([f"{self.provider}:{self.model}", *self.models, *([self.route] if self.route else [])])
        found += [(tags.tenant, "model", model) for model in models]
        found += [(tags.tenant, "run", str(run)) for run in tags.purses]
        if tags.key is not None:
            found.append((tags.tenant, "key", str(tags.key)))
        if tags.user is not None:
            found.append((tags.tenant, "user", tags.user))
        return found


class OutputKind(NamedTuple):
    """Calls whose answers are about as long as each other's."""

    tenant: UUID
    feature: str
    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call with its intent recorded and its holds taken: the provider may be asked.

    `windows` are those it holds from, as (budget or limit, start); calls that were admitted together and are bound
    alike share them. `headers` tell what the tightest limits in its scope
    have left, for its answer; none when no limit of requests or tokens bounds it.
    """

    reservation: Reservation
    windows: tuple[tuple[UUID, datetime], ...]
    headers: tuple[tuple[bytes, bytes], ...] = ()


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
    """How an admitted call ended. Written exactly once, by whichever process and however late.

    `cached`: exact or semantic, where a kept answer was given. What was saved is in USD: what the kept answer had cost,
    and what the dearest target of the route would have cost more. `rescued`: a fallback answered. `overspent`: USD
    beyond what the call held. `cost`: USD of all attempts.
    """

    admitted: Admitted
    outcome: str
    attempts: tuple[Attempt, ...]
    payload: Mapping[str, Any]
    at: datetime
    cached: str | None = None
    saved_by_cache: Decimal = ZERO
    saved_by_route: Decimal = ZERO
    rescued: bool = False
    overspent: Decimal = ZERO
    cost: Decimal = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", sum((attempt.cost for attempt in self.attempts), ZERO))


@dataclass(frozen=True, slots=True)
class SpendRow:
    """What one feature, user, key, model or day used and cost. `name` is None where a call carried no such tag."""

    name: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class SpendLine:
    """What one combination of those that were asked for used and cost; the others are None, and so is what a call
    carried no tag for."""

    day: str | None
    feature: str | None
    user: str | None
    model: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class SpendFilter:
    """Which part of the spend is meant. `since` is part of it, `until` is not; moments without a zone are UTC."""

    since: datetime | None = None
    until: datetime | None = None
    feature: str | None = None
    user: str | None = None
    key: UUID | None = None
    model: str | None = None

    def checked(self) -> Self:
        """With its moments in UTC.

        Raises:
            Invalid: it ends before it begins (422).
        """
        since, until = _in_utc(self.since), _in_utc(self.until)
        if since and until and until <= since:
            raise Invalid("`until` must be later than `since`", errors=[FieldError("until", "must be after `since`")])
        return replace(self, since=since, until=until)


@dataclass(frozen=True, slots=True)
class CallRow:
    """One call as the list shows it. `state`: open, finished, abandoned. `cached`: exact or semantic, where a kept
    answer was given; `rescued`: a fallback answered."""

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


@dataclass(frozen=True, slots=True)
class Savings:
    """What `calls` cost (USD), and what they would have cost more: `cached` of them without kept answers, `routed` of
    them at the dearest target of their route. `rescued` of them were answered by a fallback, and would have failed."""

    calls: int
    cost: Decimal
    cached: int
    by_cache: Decimal
    routed: int
    by_route: Decimal
    rescued: int


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


def _in_utc(at: datetime | None) -> datetime | None:
    return at if at is None or at.tzinfo else at.replace(tzinfo=UTC)
