import gc

import pytest

from backstay.kernel.errors import ConfigurationError
from backstay.outbound import Breaker, BreakerPolicy, Breakers, Change, Permit, State
from stopwatch import Stopwatch


@pytest.fixture
def clock() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def changes() -> list[Change]:
    return []


@pytest.fixture
def breaker(clock: Stopwatch, changes: list[Change]) -> Breaker:
    return Breaker("openai", BreakerPolicy(), clock, changes.append)


def permit(breaker: Breaker) -> Permit:
    given = breaker.ask()
    assert given is not None
    return given


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        permit(breaker).failed()


def succeed(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        permit(breaker).succeeded()


def opened(breaker: Breaker) -> Breaker:
    fail(breaker, 5)
    assert breaker.state is State.OPEN
    return breaker


def alternate(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        fail(breaker)
        succeed(breaker)


@pytest.fixture
def due(breaker: Breaker, clock: Stopwatch) -> Breaker:
    """Open for as long as it is left alone: the next who asks is the probe."""
    opened(breaker)
    clock.advance(15)
    return breaker


class TestOpening:
    def test_five_failures_in_a_row_open_it_and_four_do_not(self, breaker: Breaker) -> None:
        fail(breaker, 4)
        assert breaker.state is State.CLOSED
        fail(breaker)
        assert breaker.state is State.OPEN
        assert breaker.ask() is None

    def test_a_success_breaks_the_row(self, breaker: Breaker) -> None:
        for _ in range(3):
            fail(breaker, 4)
            succeed(breaker, 8)
        assert breaker.state is State.CLOSED

    def test_half_of_twenty_calls_opens_it(self, breaker: Breaker) -> None:
        for _ in range(9):
            succeed(breaker)
            fail(breaker)
        succeed(breaker)
        assert breaker.state is State.CLOSED
        fail(breaker)  # the tenth of twenty
        assert breaker.state is State.OPEN

    def test_less_than_half_does_not(self, breaker: Breaker) -> None:
        for _ in range(50):
            fail(breaker, 2)
            succeed(breaker, 3)
        assert breaker.state is State.CLOSED

    def test_half_of_less_than_twenty_calls_does_not(self, breaker: Breaker) -> None:
        for _ in range(3):
            fail(breaker, 4)
            succeed(breaker, 2)
        assert breaker.state is State.CLOSED  # 12 of 18 failed

    def test_failures_older_than_the_window_do_not_count(self, breaker: Breaker, clock: Stopwatch) -> None:
        alternate(breaker, 9)
        clock.advance(30)
        alternate(breaker, 9)
        assert breaker.state is State.CLOSED
        clock.advance(26)
        fail(breaker)
        assert breaker.state is State.CLOSED
        fail(breaker)
        assert breaker.state is State.OPEN  # 11 of 20 within 26 s

    def test_a_clock_that_goes_back_a_little_forgets_nothing(self, breaker: Breaker, clock: Stopwatch) -> None:
        alternate(breaker, 9)
        clock.advance(-4)
        fail(breaker)
        clock.advance(4)
        fail(breaker)
        assert breaker.state is State.OPEN

    def test_a_row_counts_however_long_it_took(self, breaker: Breaker, clock: Stopwatch) -> None:
        for _ in range(5):
            fail(breaker)
            clock.advance(60)
        assert breaker.state is State.OPEN

    def test_a_caller_that_left_counts_as_nothing(self, breaker: Breaker) -> None:
        fail(breaker, 4)
        for _ in range(100):
            permit(breaker).forgotten()
        assert breaker.state is State.CLOSED
        fail(breaker)
        assert breaker.state is State.OPEN


class TestHalfOpen:
    def test_it_is_left_alone_for_fifteen_seconds_and_then_asked_by_one(
        self, breaker: Breaker, clock: Stopwatch
    ) -> None:
        opened(breaker)
        clock.advance(14.999)
        assert breaker.ask() is None
        clock.advance(0.001)
        assert breaker.ask() is not None
        assert breaker.state is State.HALF_OPEN
        assert [breaker.ask() for _ in range(10)] == [None] * 10

    def test_a_probe_that_succeeds_closes_it_and_forgets_what_was(self, breaker: Breaker, clock: Stopwatch) -> None:
        alternate(breaker, 9)
        fail(breaker, 2)
        assert breaker.state is State.OPEN
        clock.advance(15)
        succeed(breaker)
        assert breaker.state is State.CLOSED
        fail(breaker, 4)  # 4 of 4, and 15 of 25 if the window had been kept
        assert breaker.state is State.CLOSED
        fail(breaker)
        assert breaker.state is State.OPEN

    def test_a_probe_that_fails_opens_it_for_as_long_again(self, due: Breaker, clock: Stopwatch) -> None:
        probe = permit(due)
        clock.advance(7)
        probe.failed()
        assert due.state is State.OPEN
        clock.advance(14.999)
        assert due.ask() is None
        clock.advance(0.001)
        succeed(due)
        assert due.state is State.CLOSED

    def test_a_probe_whose_caller_left_makes_room_at_once(self, due: Breaker) -> None:
        permit(due).forgotten()
        assert due.state is State.HALF_OPEN
        succeed(due)
        assert due.state is State.CLOSED

    def test_a_lost_probe_cannot_keep_it_open_for_ever(self, due: Breaker, clock: Stopwatch) -> None:
        lost = due.ask()
        assert lost is not None
        del lost
        gc.collect()
        clock.advance(59.999)
        assert due.ask() is None
        clock.advance(0.001)
        succeed(due)
        assert due.state is State.CLOSED

    def test_a_slow_probe_may_still_tell_after_its_limit(self, due: Breaker, clock: Stopwatch) -> None:
        slow = permit(due)
        clock.advance(60)
        assert due.ask() is not None
        slow.succeeded()
        assert due.state is State.CLOSED

    def test_a_probe_past_its_limit_does_not_give_away_the_place_of_the_next(
        self, due: Breaker, clock: Stopwatch
    ) -> None:
        slow = permit(due)
        clock.advance(60)
        assert due.ask() is not None
        slow.forgotten()
        assert due.ask() is None


class TestLateEnds:
    def test_calls_from_before_it_opened_do_not_decide_a_probe(self, breaker: Breaker, clock: Stopwatch) -> None:
        good, bad = permit(breaker), permit(breaker)
        opened(breaker)
        clock.advance(15)
        assert breaker.ask() is not None
        good.succeeded()
        assert breaker.state is State.HALF_OPEN
        bad.failed()
        assert breaker.state is State.HALF_OPEN

    def test_a_crowd_of_late_failures_does_not_open_what_a_probe_closed(
        self, breaker: Breaker, clock: Stopwatch
    ) -> None:
        late = [permit(breaker) for _ in range(50)]
        opened(breaker)
        clock.advance(15)
        succeed(breaker)
        for each in late:
            each.failed()
        assert breaker.state is State.CLOSED
        fail(breaker, 4)
        assert breaker.state is State.CLOSED

    def test_late_failures_do_not_prolong_the_open_time(self, breaker: Breaker, clock: Stopwatch) -> None:
        late = permit(breaker)
        opened(breaker)
        clock.advance(10)
        late.failed()
        assert breaker.retry_after == 5


class TestPermits:
    @pytest.mark.parametrize("again", [Permit.succeeded, Permit.failed, Permit.forgotten])
    def test_end_once(self, breaker: Breaker, again: object) -> None:
        assert callable(again)
        fail(breaker, 3)
        given = permit(breaker)
        given.failed()
        for _ in range(10):
            again(given)
        assert breaker.state is State.CLOSED  # four in a row, not more and not none
        fail(breaker)
        assert breaker.state is State.OPEN

    def test_of_a_probe_end_once(self, due: Breaker) -> None:
        probe = permit(due)
        probe.forgotten()
        assert due.ask() is not None
        probe.succeeded()
        probe.forgotten()
        assert due.state is State.HALF_OPEN
        assert due.ask() is None

    def test_are_forgotten_by_a_block_that_breaks(self, due: Breaker) -> None:
        with pytest.raises(KeyboardInterrupt), permit(due):
            raise KeyboardInterrupt
        assert due.state is State.HALF_OPEN
        assert due.retry_after == 0

    def test_keep_the_end_they_were_given_inside_a_block(self, due: Breaker) -> None:
        with permit(due) as probe:
            probe.succeeded()
        assert due.state is State.CLOSED


class TestWhatCanBeSeen:
    def test_retry_after_tells_when_it_may_be_asked_again(self, breaker: Breaker, clock: Stopwatch) -> None:
        assert breaker.retry_after == 0
        opened(breaker)
        clock.advance(5)
        assert breaker.retry_after == 10
        clock.advance(20)
        assert breaker.retry_after == 0
        probe = permit(breaker)
        clock.advance(20)
        assert breaker.retry_after == 40  # the rest of the probe's limit
        probe.failed()
        assert breaker.retry_after == 15

    def test_looking_does_not_take_the_probe(self, due: Breaker) -> None:
        assert (due.state, due.retry_after) == (State.OPEN, 0)
        assert due.ask() is not None

    def test_each_change_is_told_with_its_reason(
        self, breaker: Breaker, clock: Stopwatch, changes: list[Change]
    ) -> None:
        opened(breaker)
        clock.advance(15)
        fail(breaker)
        clock.advance(15)
        succeed(breaker)
        for _ in range(9):
            succeed(breaker)
            fail(breaker)
        succeed(breaker)
        fail(breaker)
        assert changes == [
            Change("openai", State.CLOSED, State.OPEN, "5 failures in a row"),
            Change("openai", State.OPEN, State.HALF_OPEN, "15 s have passed"),
            Change("openai", State.HALF_OPEN, State.OPEN, "the probe failed"),
            Change("openai", State.OPEN, State.HALF_OPEN, "15 s have passed"),
            Change("openai", State.HALF_OPEN, State.CLOSED, "the probe succeeded"),
            Change("openai", State.CLOSED, State.OPEN, "10 of 20 calls failed within 30 s"),
        ]

    def test_a_change_is_complete_when_it_is_told(self, clock: Stopwatch) -> None:
        seen = []

        def look(change: Change) -> None:
            seen.append((breaker.state is change.after, breaker.retry_after, breaker.ask() is None))

        breaker = Breaker("openai", BreakerPolicy(), clock, look)
        fail(breaker, 5)
        clock.advance(15)
        permit(breaker).succeeded()
        assert seen == [(True, 15, True), (True, 60, True), (True, 0, False)]


class TestPolicy:
    def test_is_what_the_breaker_keeps_to(self, clock: Stopwatch) -> None:
        policy = BreakerPolicy(failure_percent=10, of_calls=10, window=1, in_a_row=2, open_for=2, probe_for=3)
        breaker = Breaker("strict", policy, clock)
        succeed(breaker, 9)
        fail(breaker)
        assert breaker.state is State.OPEN
        clock.advance(2)
        assert breaker.ask() is not None
        clock.advance(3)
        succeed(breaker)
        fail(breaker, 2)
        assert breaker.state is State.OPEN

    @pytest.mark.parametrize(
        "wrong",
        [
            *({"failure_percent": 0}, {"failure_percent": 101}, {"of_calls": 0}, {"window": 0.0}, {"in_a_row": -1}),
            *({"open_for": float("nan")}, {"open_for": float("inf")}, {"probe_for": -1.0}),
        ],
    )
    def test_refuses_what_makes_no_sense_by_name(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            BreakerPolicy(**wrong)  # type: ignore[arg-type]


class TestRegistry:
    def test_a_key_has_one_breaker(self, clock: Stopwatch) -> None:
        breakers = Breakers[tuple[str, str]](clock=clock)
        opened(breakers.of(("openai", "a")))
        assert breakers.of(("openai", "a")).state is State.OPEN
        assert breakers.of(("openai", "b")).state is State.CLOSED

    def test_it_keeps_those_that_were_asked_for_last(self, clock: Stopwatch) -> None:
        breakers = Breakers[int](most=3, clock=clock)
        for key in (1, 2, 3):
            opened(breakers.of(key))
        assert [breaker.key for breaker in breakers] == [1, 2, 3]
        assert breakers.of(1).state is State.OPEN
        breakers.of(4)
        assert [breaker.key for breaker in breakers] == [3, 1, 4]
        assert breakers.of(2).state is State.CLOSED
        assert len(breakers) == 3

    def test_it_does_not_grow_beyond_its_bound(self) -> None:
        breakers = Breakers[int]()
        for key in range(12_000):
            permit(breakers.of(key)).failed()
        assert len(breakers) == 10_000

    def test_the_end_of_a_call_whose_breaker_was_forgotten_hurts_nobody(self, clock: Stopwatch) -> None:
        breakers = Breakers[int](most=1, clock=clock)
        held = [permit(breakers.of(1)) for _ in range(5)]
        breakers.of(2)
        for each in held:
            each.failed()
        assert breakers.of(1).state is State.CLOSED

    def test_changes_of_all_are_told_to_one(self, clock: Stopwatch, changes: list[Change]) -> None:
        breakers = Breakers[str](BreakerPolicy(in_a_row=1), clock=clock, on_change=changes.append)
        fail(breakers.of("a"))
        fail(breakers.of("b"))
        assert [(change.key, change.after) for change in changes] == [("a", State.OPEN), ("b", State.OPEN)]
