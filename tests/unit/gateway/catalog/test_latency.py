"""Figures of the last minutes, in bounded memory, and conversations remembered."""

import pytest

from backstay.gateway.catalog import LatencyBoard, latency
from backstay.gateway.catalog.pins import KEPT, Pins


class Now:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def board(now: Now) -> LatencyBoard:
    return LatencyBoard(now)


def test_a_target_that_nobody_called_has_no_figures(board: LatencyBoard) -> None:
    assert (board.p50("a"), board.p95("a")) == (None, None)


def test_the_median_needs_three_samples_and_the_95th_percentile_twenty(board: LatencyBoard, now: Now) -> None:
    for count, p50, p95 in ((2, None, None), (3, 2.0, None), (19, 10.0, None), (20, 10.0, 19.0), (100, 50.0, 95.0)):
        fresh = LatencyBoard(now)
        for number in range(count, 0, -1):
            fresh.observe("a", float(number))
        assert (fresh.p50("a"), fresh.p95("a")) == (p50, p95), count


def test_samples_older_than_the_window_count_no_more(board: LatencyBoard, now: Now) -> None:
    for _ in range(3):
        board.observe("a", 9.0)
    now.seconds += 200
    for _ in range(4):
        board.observe("a", 1.0)
    assert board.p50("a") == 1.0
    now.seconds += 101
    for _ in range(1):
        board.observe("a", 3.0)
    assert board.p95("a") is None
    now.seconds += 200
    assert board.p50("a") is None


def test_targets_do_not_mix(board: LatencyBoard) -> None:
    for _ in range(3):
        board.observe(("tenant", "a"), 1.0)
        board.observe((None, "a"), 5.0)
    assert (board.p50(("tenant", "a")), board.p50((None, "a"))) == (1.0, 5.0)


def test_memory_is_bounded_in_samples_and_targets(board: LatencyBoard) -> None:
    for number in range(latency.SAMPLES * 3):
        board.observe("a", float(number))
    assert board.p50("a") == pytest.approx(latency.SAMPLES * 2.5, abs=1)
    for number in range(latency.TARGETS):
        board.observe(number, 1.0)
    assert board.p50("a") is None
    assert len(board._targets) == latency.TARGETS


class TestPins:
    def test_the_last_target_is_remembered_for_an_hour(self, now: Now) -> None:
        pins = Pins(now)
        pins.keep("smart", "talk", "a:m")
        pins.keep("smart", "talk", "b:m")
        assert pins.of("smart", "talk") == "b:m"
        assert (pins.of("smart", "other"), pins.of("cheap", "talk")) == (None, None)
        now.seconds += KEPT
        assert pins.of("smart", "talk") is None

    def test_only_so_many_conversations_are_remembered(self, now: Now) -> None:
        pins = Pins(now, most=2)
        for talk in ("one", "two", "one", "three"):
            pins.keep("smart", talk, "a:m")
        assert [pins.of("smart", talk) for talk in ("one", "two", "three")] == ["a:m", None, "a:m"]
