"""How long to wait before a retry: our own choice, and what the other side asks for."""

import random as _random
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

A_DAY = 86_400.0
_LONGEST_TEXT = 40
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_DATE = re.compile(r"[A-Z][a-z]{2,8},? [A-Za-z0-9:, -]+")


def full_jitter(
    attempt: int, *, base: float = 0.1, most: float = 10.0, random: Callable[[], float] = _random.random
) -> float:
    """Seconds to wait after failed attempt number `attempt`, counted from 0.

    Evenly spread between 0 and `base` doubled for each attempt, at most `most`: callers that failed together do not
    come back together. `random` gives numbers from 0 to 1.
    """
    return random() * min(most, base * 2.0 ** min(max(attempt, 0), 60))


def retry_after(headers: Mapping[str, str], now: datetime, *, most: float = A_DAY) -> float | None:
    """Seconds that an answer asks its caller to wait, at most `most`; None when it asks nothing that can be understood.

    Reads `retry-after-ms`, then `retry-after` in seconds or as an HTTP date, which `now` (timezone-aware) is compared
    with; a date that has passed is 0. `headers` has lower-case names or does not care for case.
    """
    for seconds in (_milliseconds(headers.get("retry-after-ms")), _seconds_or_date(headers.get("retry-after"), now)):
        if seconds is not None:
            return min(seconds, most)
    return None


def _milliseconds(text: str | None) -> float | None:
    number = _number(text)
    return None if number is None else number / 1000


def _seconds_or_date(text: str | None, now: datetime) -> float | None:
    number = _number(text)
    return _until(text, now) if number is None else number


def _number(text: str | None) -> float | None:
    """Digits only: what `float` takes besides (signs, exponents, nan, inf, underscores) is not a number of seconds."""
    stripped = (text or "").strip(" \t")
    return float(stripped) if len(stripped) <= _LONGEST_TEXT and _NUMBER.fullmatch(stripped) else None


def _until(text: str | None, now: datetime) -> float | None:
    stripped = (text or "").strip(" \t")
    if len(stripped) > _LONGEST_TEXT or not _DATE.fullmatch(stripped):
        return None
    try:
        at = parsedate_to_datetime(stripped)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)  # HTTP dates are in UTC, and one old form does not say so
        return max(0.0, (at - now).total_seconds())
    except (ValueError, OverflowError):
        return None
