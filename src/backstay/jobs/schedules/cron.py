"""When a cron expression fires, in a time zone. The rules are those of Debian's cron, read by the library cronsim:
five fields (minute, hour, day, month, weekday) or six with seconds in front.

Where clocks go forward, a time of day in the gap fires when the gap ends; where they go back, a time of day fires once,
and what fires every hour or minute goes on as time passes.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ...kernel.errors import FieldError, Invalid


class CronInvalid(Invalid):
    code, title = "cron_invalid", "The schedule's time is wrong"


class Cron:
    """A cron expression in a time zone.

    Raises:
        CronInvalid: it cannot be read, it never fires, or there is no such zone.
    """

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        self.expression = " ".join(expression.split())
        try:
            self._zone = ZoneInfo(timezone)
        except (KeyError, ValueError, OSError):
            raise _wrong("timezone", f"there is no time zone {timezone!r}; write one like Europe/Berlin") from None
        if self.after(datetime.now(UTC)) is None:
            raise _wrong("cron", f"{expression!r} never fires")

    def after(self, at: datetime) -> datetime | None:
        """The first time after `at`, in UTC; None when there is none in the next 50 years."""
        return next(self._times(at, backwards=False), None)

    def latest(self, at: datetime) -> datetime | None:
        """The last time that is not after `at`, in UTC."""
        return next(self._times(at + timedelta(seconds=1), backwards=True), None)

    def coming(self, at: datetime, count: int) -> list[datetime]:
        """The first `count` times after `at`, in UTC."""
        return list(islice(self._times(at, backwards=False), count))

    def _times(self, at: datetime, *, backwards: bool) -> Iterator[datetime]:
        try:
            times = CronSim(self.expression, at.replace(microsecond=0).astimezone(self._zone), reverse=backwards)
        except CronSimError as error:
            raise _wrong("cron", f"{self.expression!r} is no cron expression: {str(error).lower()}") from None
        return (time.astimezone(UTC) for time in times)


def _wrong(field: str, message: str) -> CronInvalid:
    return CronInvalid(message, errors=[FieldError(field, message)])
