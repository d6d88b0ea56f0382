"""The breaker beside a model that remembers every call: whatever is done to both, they agree."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from backstay.outbound import Breaker, BreakerPolicy, Permit, State
from stopwatch import Stopwatch

# Small numbers, so that a short run of steps reaches every state. A part of the window lasts 3 s.
POLICY = BreakerPolicy(failure_percent=50, of_calls=6, window=30, in_a_row=4, open_for=15, probe_for=40)


@dataclass
class Model:
    """Written for being right by looking at it, not for speed."""

    state: State = State.CLOSED
    period: int = 0
    ends: list[tuple[int, bool]] = field(default_factory=list)
    opened_at: int = 0
    probe: int | None = None
    probe_at: int = 0

    def ask(self, number: int, now: int) -> bool:
        if self.state is State.OPEN and now - self.opened_at >= POLICY.open_for:
            self.go(State.HALF_OPEN)
        if self.state is State.HALF_OPEN and (self.probe is None or now - self.probe_at >= POLICY.probe_for):
            self.probe, self.probe_at = number, now
            return True
        return self.state is State.CLOSED

    def end(self, number: int, period: int, outcome: str, now: int) -> None:
        if outcome == "forgotten":
            if number == self.probe:
                self.probe = None
        elif period == self.period and self.state is State.HALF_OPEN:
            self.opened_at = now
            self.go(State.CLOSED if outcome == "succeeded" else State.OPEN)
        elif period == self.period:
            self.ends.append((now, outcome == "failed"))
            if outcome == "failed" and self.is_too_much(now):
                self.opened_at = now
                self.go(State.OPEN)

    def is_too_much(self, now: int) -> bool:
        recent = [failed for at, failed in self.ends if now // 3 - at // 3 < 10]
        row = [failed for _, failed in self.ends[-int(POLICY.in_a_row) :]]
        return (len(row) == POLICY.in_a_row and all(row)) or (
            len(recent) >= POLICY.of_calls and sum(recent) >= len(recent) / 2
        )

    def go(self, state: State) -> None:
        self.state, self.probe, self.ends = state, None, []
        self.period += 1


class BreakerBesideModel(RuleBasedStateMachine):
    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Stopwatch(0)
        self.breaker = Breaker("any", POLICY, self.clock)
        self.model = Model()
        self.number = 0
        self.told: list[State] = [State.CLOSED]

    @property
    def now(self) -> int:
        return int(self.clock.now)

    @rule(target=permits)
    def ask(self) -> tuple[Permit, int, int] | None:
        self.number += 1
        given = self.breaker.ask()
        assert (given is not None) == self.model.ask(self.number, self.now)
        return None if given is None else (given, self.number, self.model.period)

    @rule(held=consumes(permits), outcome=st.sampled_from(["succeeded", "failed", "failed", "forgotten"]))
    def end(self, held: tuple[Permit, int, int] | None, outcome: str) -> None:
        if held is not None:
            given, number, period = held
            getattr(given, outcome)()
            given.failed()  # a second end says nothing
            self.model.end(number, period, outcome, self.now)

    @rule(outcomes=st.lists(st.sampled_from(["succeeded", "failed"]), min_size=1, max_size=8))
    def call(self, outcomes: list[str]) -> None:
        for outcome in outcomes:
            self.end(self.ask(), outcome)

    @rule(seconds=st.sampled_from([1, 2, 3, 5, 14, 15, 29, 30, 40, 200]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def they_agree(self) -> None:
        assert self.breaker.state is self.model.state
        waits = {
            State.CLOSED: 0,
            State.OPEN: self.model.opened_at + POLICY.open_for - self.now,
            State.HALF_OPEN: 0 if self.model.probe is None else self.model.probe_at + POLICY.probe_for - self.now,
        }
        assert self.breaker.retry_after == max(0, waits[self.model.state])


TestBreakerBesideModel = BreakerBesideModel.TestCase
TestBreakerBesideModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
