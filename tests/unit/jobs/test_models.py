"""Backoff and outcomes, without a database."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from backstay.jobs import Cancel, Discard, Retry, RetryLater, Signal, Snooze


@given(attempt=st.integers(1, 10_000), draw=st.floats(0, 1, exclude_max=True))
def test_the_wait_lies_between_nothing_and_the_doubled_base_and_never_over_the_cap(attempt: int, draw: float) -> None:
    retry = Retry(base=timedelta(seconds=2), cap=timedelta(minutes=3))
    delay = retry.delay(attempt, lambda: draw)
    assert timedelta(0) <= delay <= timedelta(minutes=3)
    if attempt <= 6:
        assert delay <= timedelta(seconds=2) * 2 ** (attempt - 1)


def test_the_wait_doubles_until_the_cap() -> None:
    retry = Retry(base=timedelta(seconds=1), cap=timedelta(seconds=10))
    assert [retry.delay(n, lambda: 1.0).total_seconds() for n in (1, 2, 3, 4, 5, 99)] == [1, 2, 4, 8, 10, 10]


def test_outcomes_are_no_exceptions() -> None:
    """Else an `except Exception` in a handler would eat them."""
    for kind in (Cancel, Discard, RetryLater, Snooze):
        assert issubclass(kind, Signal)
        assert not issubclass(kind, Exception)
