"""When schedules fire, in zones whose clocks change."""

from datetime import UTC, datetime

import pytest

from backstay.jobs.schedules import Cron, CronInvalid

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "zone", "at", "expected"),
    [
        ("*/15 * * * *", "UTC", "2026-01-01 00:00", "2026-01-01 00:15"),
        ("0 3 * * *", BERLIN, "2026-01-01 02:00", "2026-01-02 02:00"),
        ("0 3 * * *", BERLIN, "2026-07-01 00:59", "2026-07-01 01:00"),
        ("30 2 * * *", BERLIN, "2026-03-29 00:00", "2026-03-29 01:00"),  # 02:30 is in the gap: it fires at its end
        ("30 2 * * *", BERLIN, "2026-10-24 23:00", "2026-10-25 00:30"),  # 02:30 comes twice
        ("30 2 * * *", BERLIN, "2026-10-25 00:30", "2026-10-26 01:30"),  # and fires once
        ("0 * * * *", BERLIN, "2026-10-25 00:00", "2026-10-25 01:00"),  # every hour goes on as time passes
        ("*/10 * * * * *", "UTC", "2026-01-01 00:00:01", "2026-01-01 00:00:10"),
        ("0 9 * * MON-FRI", "America/New_York", "2026-11-20 15:00", "2026-11-23 14:00"),
        ("0 0 29 2 *", "UTC", "2026-01-01 00:00", "2028-02-29 00:00"),
    ],
)
def test_the_next_time(expression: str, zone: str, at: str, expected: str) -> None:
    assert Cron(expression, zone).after(utc(at)) == utc(expected)


def test_the_latest_time_is_now_or_before() -> None:
    cron = Cron("0 3 * * *", BERLIN)
    assert cron.latest(utc("2026-01-05 02:00")) == utc("2026-01-05 02:00")
    assert cron.latest(utc("2026-01-05 01:59:59")) == utc("2026-01-04 02:00")


def test_times_ahead_are_those_that_come_one_after_the_other() -> None:
    cron = Cron("0 0 1 * *")
    assert cron.coming(utc("2026-01-01 00:00"), 3) == [utc(f"2026-0{month}-01 00:00") for month in (2, 3, 4)]


@pytest.mark.parametrize(
    ("expression", "zone", "field"),
    [
        ("61 * * * *", "UTC", "cron"),
        ("* * *", "UTC", "cron"),
        ("hourly", "UTC", "cron"),
        ("0 0 31 2 *", "UTC", "cron"),
        ("*" * 200, "UTC", "cron"),
        ("0 0 * * *", "Europe/Atlantis", "timezone"),
        ("0 0 * * *", "../../etc/passwd", "timezone"),
        ("0 0 * * *", "a\0b", "timezone"),
        ("0 0 * * *", "Europe", "timezone"),
    ],
)
def test_what_cannot_be_a_schedule_says_which_part(expression: str, zone: str, field: str) -> None:
    with pytest.raises(CronInvalid) as caught:
        Cron(expression, zone)
    assert [error.field for error in caught.value.errors] == [field]
