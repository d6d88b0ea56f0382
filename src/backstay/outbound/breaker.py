"""Breakers: a dependency that fails is left alone for a while, and then asked carefully.

A breaker belongs to one event loop of one process. Each process finds out for itself, which costs a few failed calls
and needs no agreement between processes.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from .models import BreakerPolicy, Change, State
from .window import Window

Key = TypeVar("Key", bound=Hashable)
# Members of an enum are slow to look up, and these are compared at every call.
_CLOSED, _OPEN, _HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class Permit:
    """Leave to make one call. End it once with what came of it; every end after the first is ignored.

    As a context manager it is forgotten at the end of the block unless it was ended inside.
    """

    __slots__ = ("_breaker", "_epoch")

    def __init__(self, breaker: "Breaker", epoch: int) -> None:
        self._breaker: Breaker | None = breaker
        self._epoch = epoch

    def succeeded(self) -> None:
        """The dependency did its work. An answer that only blames the request (most 4xx) is a success, too."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._count(self._epoch, 0)

    def failed(self) -> None:
        """The dependency failed: no connection, no answer in time, an answer cut off, overload, an error of its own."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._count(self._epoch, 1)

    def forgotten(self) -> None:
        """Nothing was learnt: the caller left, or the call was not made. A probe makes room for the next one."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forgotten()


class Breaker:
    """Lets calls to one dependency through, or not.

    `on_change` is called after each change of state; it must be quick and must not raise. Failures are judged when they
    happen: a success never opens a breaker. What comes of a call that began before the state changed is ignored, so
    that a crowd of late failures does not open a breaker that a probe has just closed.
    """

    __slots__ = (
        "_clock",
        "_epoch",
        "_in_a_row",
        "_on_change",
        "_policy",
        "_probe",
        "_shut_until",
        "_window",
        "key",
        "state",
    )

    def __init__(
        self,
        key: Hashable,
        policy: BreakerPolicy,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[Change], None] | None = None,
    ) -> None:
        self.key = key
        self.state = _CLOSED
        self._policy, self._clock, self._on_change = policy, clock, on_change
        self._window = Window(policy.window)
        self._in_a_row = 0
        self._epoch = 0
        self._shut_until = 0.0
        self._probe: Permit | None = None

    def ask(self) -> Permit | None:
        """Leave to make a call, or None: use a fallback, or say when to come back (`retry_after`)."""
        if self.state is _CLOSED:
            return Permit(self, self._epoch)
        return self._ask_for_probe()

    @property
    def retry_after(self) -> float:
        """Seconds until a call may be let through; 0 when `ask` would give leave now.

        While a probe is under way, this is the rest of its limit; its end may come sooner.
        """
        return 0.0 if self.state is _CLOSED else max(0.0, self._shut_until - self._clock())

    def _ask_for_probe(self) -> Permit | None:
        now = self._clock()
        if now < self._shut_until:
            return None
        until = now + self._policy.probe_for
        if self.state is _OPEN:
            self._become(_HALF_OPEN, until, f"{self._policy.open_for:g} s have passed")
        else:
            self._shut_until = until
        self._probe = Permit(self, self._epoch)
        return self._probe

    def _count(self, epoch: int, failures: int) -> None:
        if epoch != self._epoch:
            return
        if self.state is _HALF_OPEN:
            self._judge_probe(failures)
            return
        self._window.add(self._clock(), 1, failures)
        if not failures:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if reason := self._reason_to_open():
            self._become(_OPEN, self._clock() + self._policy.open_for, reason)

    def _judge_probe(self, failures: int) -> None:
        if failures:
            self._become(_OPEN, self._clock() + self._policy.open_for, "the probe failed")
        else:
            self._become(_CLOSED, 0.0, "the probe succeeded")

    def _reason_to_open(self) -> str:
        policy, window = self._policy, self._window
        if self._in_a_row >= policy.in_a_row:
            return f"{self._in_a_row} failures in a row"
        if window.calls >= policy.of_calls and 100 * window.marks >= policy.failure_percent * window.calls:
            return f"{window.marks} of {window.calls} calls failed within {policy.window:g} s"
        return ""

    def _release(self, permit: Permit) -> None:
        if permit is self._probe:
            self._probe = None
            self._shut_until = 0.0

    def _become(self, after: State, shut_until: float, reason: str) -> None:
        before, self.state = self.state, after
        self._epoch += 1
        self._shut_until = shut_until
        self._probe = None
        self._in_a_row = 0
        self._window.clear()
        if self._on_change is not None:
            self._on_change(Change(self.key, before, after, reason))


class Breakers(Generic[Key]):
    """One breaker for each key, made when it is first asked for.

    At most `most` are kept: the one that was not asked for the longest is forgotten, which closes it.
    """

    def __init__(
        self,
        policy: BreakerPolicy | None = None,
        *,
        most: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[Change], None] | None = None,
    ) -> None:
        self._policy = policy or BreakerPolicy()
        self._most, self._clock, self._on_change = most, clock, on_change
        self._breakers: OrderedDict[Key, Breaker] = OrderedDict()

    def of(self, key: Key) -> Breaker:
        breaker = self._breakers.get(key)
        if breaker is None:
            return self._make(key)
        self._breakers.move_to_end(key)
        return breaker

    def __iter__(self) -> Iterator[Breaker]:
        """All that are kept, the one longest not asked for first. Looking at them does not count as asking."""
        return iter(tuple(self._breakers.values()))

    def __len__(self) -> int:
        return len(self._breakers)

    def _make(self, key: Key) -> Breaker:
        breaker = self._breakers[key] = Breaker(key, self._policy, self._clock, self._on_change)
        if len(self._breakers) > self._most:
            self._breakers.popitem(last=False)
        return breaker
