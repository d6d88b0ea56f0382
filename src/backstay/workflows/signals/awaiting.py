"""`run.signal`: a run waits for a word from outside."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ..models import Ended, StepKind, StepState
from ..waiting import wait
from .models import SignalTimedOut, SignalUnfit

if TYPE_CHECKING:
    from ...kernel.db import Tx
    from ..run import Run

T = TypeVar("T")


async def signal(run: "Run", name: str, type: type[T] | Any = Any, *, timeout: timedelta | None = None) -> T:
    """The payload of the next signal called `name`, as a `type`; the run waits for it and holds nothing meanwhile.

    Signals come in the order in which they were sent, also those that were sent before the code came here. Each
    reaches one call.

    Raises:
        SignalTimedOut: none came within `timeout` (None: it waits for ever).
        SignalUnfit: the payload is no `type`. Declare signals with the workflow, and they are checked when sent.
    """
    place = run._place(StepKind.SIGNAL, name, b"")
    due = None if timeout is None else run._clock.now() + timeout

    async def begin(tx: "Tx") -> Ended | None:
        return await run._around.signals.take(tx, run.tenant, run.id, name, place.seq)

    async def overdue(tx: "Tx") -> Ended:
        return Ended(StepState.FAILED, None, "no signal came in time")

    ended = await wait(run, place, due, begin=begin, overdue=overdue)
    if ended.state == StepState.FAILED:
        raise SignalTimedOut(name, ended.error or "no signal came")
    try:
        payload: T = TypeAdapter(type).validate_json(ended.output or "null")
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(("payload", *map(str, first["loc"])))
        raise SignalUnfit(name, f"{where}: {first['msg']}") from None
    return payload
