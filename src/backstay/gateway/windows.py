"""Windows of budgets and limits: what fits into them, and what a caller is told about them.

Several may refuse a call. The caller is told of the one that will refuse it the longest: coming back sooner would be in
vain.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Self
from uuid import UUID

from .errors import BudgetExceeded, GatewayError, RateLimited
from .models import Reservation
from .terms import Period, Unit

Needs = Mapping[str, Decimal | int]  # what a call takes, by unit
Headers = tuple[tuple[bytes, bytes], ...]
WindowKey = tuple[UUID, UUID, datetime]  # tenant, budget or limit, start

_SOON = 60.0  # seconds; a client may well wait so long before it tries again
_CONCURRENCY_WAIT = 1  # seconds; nobody knows when a call will end
_NEVER = datetime.max.replace(tzinfo=UTC)
_EACH = {
    Period.MINUTE: "a minute",
    Period.HOUR: "an hour",
    Period.DAY: "a day",
    Period.MONTH: "a month",
    Period.TOTAL: "in total",
}
_TOLD = {
    unit: tuple(f"x-ratelimit-{what}-{unit}".encode() for what in ("limit", "remaining", "reset"))
    for unit in (Unit.REQUESTS, Unit.TOKENS)
}


@dataclass(slots=True)
class Window:
    """The running window of one budget or limit, locked while a batch is decided; the decisions move its figures.

    `spent` and `held` are in `unit`. Concurrency is only held, requests are only spent.
    """

    tenant_id: UUID
    budget_id: UUID
    scope: str
    subject: str
    unit: str
    amount: Decimal
    period: str
    hard: bool
    starts_at: datetime
    spent: Decimal
    held: Decimal
    _reset: tuple[datetime, bytes] | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def key(self) -> WindowKey:
        return self.tenant_id, self.budget_id, self.starts_at

    @property
    def holds(self) -> bool:
        """Whether what is taken is given back. A request that was admitted stays counted."""
        return self.unit != Unit.REQUESTS

    @property
    def remaining(self) -> int:
        return max(0, math.floor(self.amount - self.spent - self.held))

    @property
    def resets_at(self) -> datetime | None:
        return Period(self.period).resets_at(self.starts_at)

    def reset_told(self, now: datetime) -> bytes | None:
        """How long it is until the window ends, for a header; the same for all calls of a batch."""
        if self._reset is None or self._reset[0] is not now:
            if (resets := self.resets_at) is None:
                return None
            self._reset = now, duration((resets - now).total_seconds()).encode()
        return self._reset[1]

    def room_for(self, needs: Needs) -> bool:
        return not self.hard or self.spent + self.held + needs[self.unit] <= self.amount

    def take(self, needs: Needs) -> None:
        if self.holds:
            self.held += needs[self.unit]
        else:
            self.spent += needs[self.unit]

    def admits_never(self, needs: Needs) -> bool:
        """Whether the call is larger than the whole window."""
        return needs[self.unit] > self.amount

    def refuses_until(self, needs: Needs, now: datetime) -> datetime:
        if self.unit == Unit.CONCURRENCY and self.amount:
            return now
        return _NEVER if self.admits_never(needs) else self.resets_at or _NEVER


@dataclass(frozen=True, slots=True)
class Room:
    """The windows that bound calls alike: of these, `held` give back what is taken, `counted` do not. `keys` are those
    that are held, as (budget or limit, start)."""

    windows: Sequence[Window]
    held: Sequence[Window]
    counted: Sequence[Window]
    keys: tuple[tuple[UUID, datetime], ...]

    @classmethod
    def of(cls, windows: Sequence[Window]) -> Self:
        held = [window for window in windows if window.holds]
        counted = [window for window in windows if not window.holds]
        return cls(windows, held, counted, tuple((window.budget_id, window.starts_at) for window in held))


@dataclass(frozen=True, slots=True)
class Taken:
    """What one call takes from one window."""

    call: Reservation
    window: Window
    amount: Decimal | int


def refusing(windows: Sequence[Window], needs: Needs, now: datetime) -> Window | None:
    """Of the windows that have no room, the one that will have none the longest; None when everything fits."""
    full = [window for window in windows if not window.room_for(needs)]
    return max(full, key=lambda window: window.refuses_until(needs, now)) if full else None


def refusal(full: Window, needs: Needs, now: datetime, told: Headers = ()) -> GatewayError:
    """Why `full` refuses a call, when to come back, and the headers of the answer; `told` are some more of these."""
    headers = {name.decode(): value.decode() for name, value in told}
    detail = f"{_name(full)} {_reason(full, needs)}"
    subject = full.subject if full.scope == "model" else None
    if full.unit == Unit.USD:
        return BudgetExceeded(detail, headers, model=subject)
    until = full.refuses_until(needs, now)
    wait = _CONCURRENCY_WAIT if until == now else (until - now).total_seconds()
    if until != _NEVER:
        headers["retry-after"] = str(max(1, math.ceil(wait)))
    headers["x-should-retry"] = "true" if wait <= _SOON else "false"
    return RateLimited(detail, headers, model=subject)


def no_bound(hard: Window, model: str) -> GatewayError:
    """Why a hard budget lets in no call whose provider may search the web as often as it likes."""
    return BudgetExceeded(
        f"{_name(hard)} is hard, and nothing bounds how often {model} searches the web for a fee. Leave the search "
        "out, ask another model, or make the budget a soft one.",
        model=model,
    )


def no_more(full: Window, needs: Needs) -> GatewayError:
    """Why `full` gives a running call no more than it holds."""
    more = _figure(needs[full.unit])
    detail = (
        f"{_name(full)} has no room for the rest of this call: {_taken(full)}, it needs {more} more. {_reset(full)}"
    )
    return BudgetExceeded(detail) if full.unit == Unit.USD else RateLimited(detail, {"x-should-retry": "false"})


def limit_headers(windows: Sequence[Window], now: datetime) -> Headers:
    """The tightest limit of requests and the tightest one of tokens, in the headers that clients read."""
    headers: list[tuple[bytes, bytes]] = []
    for unit, (limit, remaining, reset) in _TOLD.items():
        ours = [window for window in windows if window.unit == unit]
        if not ours:
            continue
        # Of two with as little left, the one that stays so for longer.
        tightest = (
            ours[0] if len(ours) == 1 else min(ours, key=lambda one: (one.remaining, now - (one.resets_at or _NEVER)))
        )
        headers.append((limit, b"%d" % int(tightest.amount)))
        headers.append((remaining, b"%d" % tightest.remaining))
        if (told := tightest.reset_told(now)) is not None:
            headers.append((reset, told))
    return tuple(headers)


def duration(seconds: float) -> str:
    """As OpenAI writes it, such as `6m0s`, `1s` or `20ms`; never shorter than it is."""
    if seconds < 1:
        millis = max(0, math.ceil(seconds * 1000))
        return f"{millis}ms" if millis < 1000 else "1s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _name(window: Window) -> str:
    of = f"of {window.scope} {window.subject}" if window.subject else "of the tenant"
    each = _EACH[Period(window.period)]
    if window.unit == Unit.USD:
        return f"the budget {of}, {_figure(window.amount)} USD {each},"
    if window.unit == Unit.CONCURRENCY:
        return f"the limit {of}, {_figure(window.amount)} calls at a time,"
    return f"the limit {of}, {_figure(window.amount)} {window.unit} {each},"


def _reason(window: Window, needs: Needs) -> str:
    if window.admits_never(needs):
        return _never(window, _figure(needs[window.unit]))
    if window.unit == Unit.CONCURRENCY:
        return f"has no room for this call: {_figure(window.held)} are open. Try again when one has ended."
    if window.unit == Unit.REQUESTS:
        return f"is used up: {_figure(window.spent)} are counted. {_reset(window)}"
    verb = "cost" if window.unit == Unit.USD else "use"
    return (
        f"has no room for this call: {_taken(window)}, the call may {verb} {_figure(needs[window.unit])}. "
        f"{_reset(window)}"
    )


def _never(window: Window, need: str) -> str:
    if window.unit == Unit.USD:
        return f"can never admit this call: it alone may cost {need} USD. Lower its max_tokens or raise the budget."
    if window.unit == Unit.TOKENS:
        return f"can never admit this call: it alone may use {need} tokens. Lower its max_tokens or raise the limit."
    return "admits no call. Raise the limit to admit some."


def _taken(window: Window) -> str:
    held = f" and {_figure(window.held)} held by running calls" if window.held else ""
    counted = "USD are spent" if window.unit == Unit.USD else "tokens are used"
    return f"{_figure(window.spent)} {counted}{held}"


def _figure(value: Decimal | int) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _reset(window: Window) -> str:
    resets = window.resets_at
    return f"It resets at {resets.isoformat()}." if resets else "It never resets."
