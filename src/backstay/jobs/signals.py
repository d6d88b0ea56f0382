"""How a handler ends an attempt other than by returning: raise one of these from anywhere inside it.

They derive from BaseException, so that an `except Exception` between the raise and the worker cannot eat them.
"""

from datetime import timedelta


class Signal(BaseException):
    """Root of the outcomes."""


class RetryLater(Signal):
    """The attempt failed; run again after `after`, or after the job's own backoff when None. Counts as an attempt."""

    def __init__(self, reason: str, after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.reason, self.after = reason, after


class Snooze(Signal):
    """Not yet: run again after `after`. Does not count as an attempt."""

    def __init__(self, after: timedelta, reason: str | None = None) -> None:
        super().__init__(reason or "snoozed")
        self.after, self.reason = after, reason


class Cancel(Signal):
    """There is nothing left to do: finish the job as cancelled."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Discard(Signal):
    """Trying again cannot help: finish the job as discarded (dead), to be looked at."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
