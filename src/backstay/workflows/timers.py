"""`run.sleep`: a timer is one scheduled job, and nothing else."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..kernel.errors import ConfigurationError
from . import encoding
from .models import Ended, StepKind, StepState
from .waiting import wait

if TYPE_CHECKING:
    from ..kernel.db import Tx
    from .run import Run

_OVER = Ended(StepState.COMPLETED, "null")


async def sleep(run: "Run", duration: timedelta | None = None, *, until: datetime | None = None) -> None:
    """Goes on after `duration`, or at or after `until` (timezone-aware); the run waits meanwhile and holds nothing.

    The time is counted from the first time that the code comes here, whatever happens to workers meanwhile.

    Raises:
        ConfigurationError: not one of both is given, or `until` has no time zone.
    """
    if (duration is None) == (until is None):
        raise ConfigurationError("say how long to sleep, or until when: `run.sleep(timedelta(hours=1))`")
    if until is not None and until.tzinfo is None:
        raise ConfigurationError("`until` has no time zone; use an aware datetime")
    place = run._place(StepKind.TIMER, "sleep", encoding.hash_of((duration, until)))
    due = until or run._clock.now() + (duration or timedelta())

    async def begin(tx: "Tx") -> Ended | None:
        return _OVER if due <= run._clock.now() else None

    async def overdue(tx: "Tx") -> Ended:
        return _OVER

    await wait(run, place, due, begin=begin, overdue=overdue)
