"""An admitted call on its way: what was tried, what it used, how it ended."""

import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ..kernel.clock import Clock
from .models import ZERO, Admitted, Attempt, Settlement, Usage
from .order import Order
from .providers import Target


class Try:
    """One attempt at one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.outcome: str | None = None
        self.usage = Usage()
        self.seconds = 0.0
        self._started = time.perf_counter()

    def end(self, outcome: str, usage: Usage | None = None) -> None:
        """Says how it ended; the first word counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.seconds = time.perf_counter() - self._started
            self.usage = usage or self.usage

    @property
    def cost(self) -> Decimal:
        used = self.usage.input_tokens or self.usage.output_tokens or self.usage.web_searches
        return self.target.cost(self.usage) if used else ZERO


class Call:
    """Keeps the tries of one admitted order. `winner` is the one whose answer the client gets; `reserved` is in USD."""

    def __init__(self, order: Order, admitted: Admitted) -> None:
        self.order, self.admitted = order, admitted
        self.started = time.perf_counter()
        self.tries: list[Try] = []
        self.winner: Try | None = None
        self.settled = False
        self.reserved = admitted.reservation.reserve

    def begin(self, target: Target) -> Try:
        self.tries.append(Try(target))
        return self.tries[-1]

    @property
    def usage(self) -> Usage:
        """What the answer used; what lost attempts used is in the ledger beside it."""
        return self.winner.usage if self.winner else Usage()

    @property
    def rescued(self) -> bool:
        """Another target answered than the one that was asked first, and failed."""
        return self.winner is not None and self.tries[0].target is not self.winner.target

    def saved_by_route(self) -> Decimal:
        """USD that the dearest target of the route would have cost more."""
        if self.winner is None or self.order.plan.route is None:
            return ZERO
        usage, cost, asked = self.winner.usage, self.winner.cost, self.winner.target
        others = [target.cost(usage) for target in self.order.plan.targets if target is not asked]
        return max(ZERO, max(others, default=cost) - cost)

    def end(
        self,
        outcome: str,
        payload: Mapping[str, Any],
        clock: Clock,
        *,
        cached: str | None = None,
        saved_by_cache: Decimal = ZERO,
    ) -> Settlement:
        """How it ended. `cached`: it was answered with what had been kept, and what that saved."""
        for attempt in self.tries:
            attempt.end(outcome)
        rows = tuple(self._row(one) for one in self._in_order())
        well = outcome == "ok" and cached is None
        return Settlement(
            self.admitted,
            outcome,
            rows,
            payload,
            clock.now(),
            cached=cached,
            saved_by_cache=saved_by_cache,
            saved_by_route=self.saved_by_route() if well else ZERO,
            rescued=well and self.rescued,
            overspent=max(ZERO, sum((row.cost for row in rows), ZERO) - self.reserved),
        )

    def _in_order(self) -> list[Try]:
        """The winner last: what the call shows of provider and model is the last attempt's."""
        rest = [attempt for attempt in self.tries if attempt is not self.winner]
        return rest if self.winner is None else [*rest, self.winner]

    def _row(self, one: Try) -> Attempt:
        target = one.target
        return Attempt(target.provider.name, target.model, str(one.outcome), one.usage, one.cost, one.seconds)
