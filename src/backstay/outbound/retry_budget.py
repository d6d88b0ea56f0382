"""A retry budget: retries may be a small share of the traffic, whatever each call would like.

Retries help against single failures and hurt when everything fails: with two retries a call, an outage triples the load
that caused it. A budget shared by all calls bounds that. The idea is that of Finagle's `RetryBudget` (a share of the
calls on top of a minimum, so that clients with little traffic can retry) and of Envoy's `retry_budget`.
"""

import time
from collections.abc import Callable

from .models import RetryPolicy
from .window import Window


class RetryBudget:
    """One budget for all calls that could hurt the same dependency, in one event loop of one process."""

    __slots__ = ("_clock", "_policy", "_window")

    def __init__(self, policy: RetryPolicy | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy, self._clock = policy or RetryPolicy(), clock
        self._window = Window(self._policy.window)

    def note_call(self) -> None:
        """A call begins. Its retries are not calls."""
        self._window.add(self._clock(), 1, 0)

    def take(self) -> bool:
        """Whether a retry may be made now. True takes it from the budget."""
        now = self._clock()
        self._window.roll(now)
        if 100 * (self._window.marks + 1 - self._policy.floor) > self._policy.percent * self._window.calls:
            return False
        self._window.add(now, 0, 1)
        return True
