"""What fits into windows, and what a caller is told."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from backstay.gateway import BudgetExceeded, RateLimited
from backstay.gateway.windows import Window, duration, limit_headers, no_more, refusal, refusing

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
STARTS = {
    "minute": NOW.replace(second=0),
    "hour": NOW.replace(minute=0, second=0),
    "day": NOW.replace(hour=0, minute=0, second=0),
    "total": datetime(1970, 1, 1, tzinfo=UTC),
}
NEEDS = {"usd": Decimal("0.10"), "tokens": 100, "requests": 1, "concurrency": 1}


def window(unit, amount, spent=0, held=0, period="minute", hard=True, scope="feature", subject="chat"):
    figures = (Decimal(spent), Decimal(held))
    return Window(uuid4(), uuid4(), scope, subject, unit, Decimal(amount), period, hard, STARTS[period], *figures)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0ms"),
        (0.0004, "1ms"),
        (0.02, "20ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.2, "2s"),
        (59.5, "1m0s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (86399, "23h59m59s"),
    ],
)
def test_a_duration_is_written_as_openai_writes_it(seconds, written):
    assert duration(seconds) == written


def test_the_last_unit_fits_and_the_next_does_not():
    for unit in ("usd", "tokens", "concurrency"):
        assert window(unit, 3 * NEEDS[unit], spent=NEEDS[unit], held=NEEDS[unit]).room_for(NEEDS)
        assert not window(unit, 3 * NEEDS[unit], spent=NEEDS[unit], held=2 * NEEDS[unit]).room_for(NEEDS)
    assert window("requests", 5, spent=4).room_for(NEEDS)
    assert not window("requests", 5, spent=5).room_for(NEEDS)
    assert window("usd", 0, hard=False).room_for(NEEDS)


def test_requests_are_counted_and_everything_else_is_held():
    for unit, counted, held in [("requests", 1, 0), ("tokens", 0, 100), ("concurrency", 0, 1), ("usd", 0, "0.10")]:
        taken = window(unit, 1000)
        taken.take(NEEDS)
        assert (taken.spent, taken.held) == (Decimal(counted), Decimal(held))


def test_the_refusal_names_the_window_that_refuses_the_longest():
    minute, day = window("requests", 5, spent=5), window("usd", 1, spent=1, period="day")
    busy, small = window("concurrency", 2, held=2, period="total"), window("tokens", 99)
    roomy = window("tokens", 1000)
    assert refusing([roomy], NEEDS, NOW) is None
    assert refusing([roomy, busy, minute], NEEDS, NOW) is minute
    assert refusing([busy, day, minute], NEEDS, NOW) is day
    assert refusing([day, small, busy], NEEDS, NOW) is small


def test_a_limit_that_resets_soon_asks_to_be_tried_again_then():
    error = refusal(window("requests", 5, spent=5), NEEDS, NOW + timedelta(milliseconds=1))
    assert isinstance(error, RateLimited)
    assert error.headers == {"retry-after": "53", "x-should-retry": "true"}
    assert error.detail == (
        "the limit of feature chat, 5 requests a minute, is used up: 5 are counted. "
        "It resets at 2026-03-04T05:07:00+00:00."
    )


def test_the_wait_is_never_shorter_than_a_second():
    error = refusal(window("requests", 5, spent=5), NEEDS, NOW.replace(second=59, microsecond=999_999))
    assert error.headers["retry-after"] == "1"


def test_a_limit_that_resets_late_asks_not_to_be_tried_again():
    error = refusal(window("tokens", 500, spent=300, held=150, period="hour"), NEEDS, NOW)
    assert error.headers == {"retry-after": str(53 * 60 + 53), "x-should-retry": "false"}
    assert "300 tokens are used and 150 held by running calls, the call may use 100" in error.detail
    never = refusal(window("requests", 5, spent=5, period="total"), NEEDS, NOW)
    assert never.headers == {"x-should-retry": "false"}
    assert "5 requests in total" in never.detail
    assert "It never resets." in never.detail


def test_concurrency_may_be_tried_again_in_a_moment():
    error = refusal(window("concurrency", 2, held=2, period="total", scope="tenant", subject=""), NEEDS, NOW)
    assert error.headers == {"retry-after": "1", "x-should-retry": "true"}
    assert error.detail == (
        "the limit of the tenant, 2 calls at a time, has no room for this call: 2 are open. "
        "Try again when one has ended."
    )


@pytest.mark.parametrize(
    ("full", "said"),
    [
        (window("tokens", 99), "can never admit this call: it alone may use 100 tokens. Lower its max_tokens or raise"),
        (window("usd", "0.05"), "can never admit this call: it alone may cost 0.10 USD. Lower its max_tokens or raise"),
        (window("requests", 0), "admits no call. Raise the limit"),
        (window("concurrency", 0, period="total"), "admits no call. Raise the limit"),
    ],
)
def test_what_can_never_be_admitted_is_said_to_be_so(full, said):
    error = refusal(full, NEEDS, NOW)
    assert said in error.detail
    assert error.headers == {"x-should-retry": "false"}


def test_a_budget_refuses_for_good_and_tells_what_the_limits_have_left():
    limit = window("requests", 5, spent=2)
    told = limit_headers([limit], NOW)
    error = refusal(window("usd", 1, spent=1), NEEDS, NOW, told)
    assert isinstance(error, BudgetExceeded)
    assert error.headers == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "53s",
        "x-should-retry": "false",
    }


def test_the_headers_tell_of_the_tightest_limit_of_each_unit():
    found = dict(
        limit_headers(
            [
                window("requests", 100, spent=90),
                window("requests", 50, spent=45, period="hour"),
                window("requests", 5, period="total"),
                window("tokens", 1000, spent=100, held=901),
                window("tokens", 1000, period="day"),
                window("concurrency", 1, held=1, period="total"),
                window("usd", 1, spent=1),
            ],
            NOW,
        )
    )
    assert found == {
        b"x-ratelimit-limit-requests": b"5",  # of two with five left, the one that stays so for longer
        b"x-ratelimit-remaining-requests": b"5",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"53s",
    }
    assert limit_headers([window("usd", 1), window("concurrency", 1, period="total")], NOW) == ()


def test_a_running_call_is_told_which_window_has_no_more():
    error = no_more(window("usd", 5, spent=3, held=2, period="day"), {"usd": Decimal("0.01"), "tokens": 0})
    assert isinstance(error, BudgetExceeded)
    assert error.detail == (
        "the budget of feature chat, 5 USD a day, has no room for the rest of this call: 3 USD are spent and 2 held by "
        "running calls, it needs 0.01 more. It resets at 2026-03-05T00:00:00+00:00."
    )
    assert isinstance(no_more(window("tokens", 5, spent=5), {"usd": Decimal(0), "tokens": 1}), RateLimited)
