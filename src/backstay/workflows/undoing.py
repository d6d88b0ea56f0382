"""Compensation: when a run fails or is cancelled, it undoes what it has done, the last first, in steps of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..kernel import telemetry
from . import encoding
from .models import UNDO, Recorded, StepFailed, StepKind
from .place import Place

if TYPE_CHECKING:
    from .run import Run

_REGISTERED = "on_failure "
_log = telemetry.log("workflows")


@dataclass(frozen=True, slots=True)
class Undo:
    """A call that undoes something; `seq` is the step that registered it."""

    seq: int
    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]


async def on_failure(run: "Run", fn: Callable[..., Any], *args: Any, name: str | None = None) -> None:
    """From here on `fn(*args)` is called when the run fails or is cancelled, after those registered later.

    It is recorded as the code passes here, before the next step begins. The call is a step as `run.step` makes it:
    at-least-once with an idempotency key, tried again with the workflow's backoff, and not repeated once it has
    finished. One that fails for good does not keep the others from being called. Register it before the step that it
    undoes if the step may have happened without your knowing it; then `fn` must cope with nothing to undo.
    """
    known_as = name or encoding.name_of(fn)
    place = run._place(StepKind.VALUE, _REGISTERED + known_as, encoding.hash_of(args))
    if run._standing(place) is None:
        run._complete(place, "null", run._clock.now())
    run.undoes.append(Undo(place.seq, known_as, fn, args))


def registered(recorded: tuple[Recorded, ...]) -> bool:
    """Whether there is something to undo."""
    return any(step.kind == StepKind.VALUE and step.name.startswith(_REGISTERED) for step in recorded)


async def undo(run: "Run") -> list[str]:
    """Calls what the run's code, executed once more up to its end, has registered. Returns those that failed for good.

    Raises:
        Suspend: one is to be tried again later.
        Superseded: another worker has the run.
    """
    run.over, run.wake_at, run.replays_only = None, None, False
    failed = []
    for call in reversed(run.undoes):
        place = Place(UNDO + call.seq, StepKind.STEP, f"undo {call.name}", encoding.hash_of(call.args), run._retry)
        try:
            await run._perform(place, call.fn, call.args, None)
        except StepFailed as error:
            _log.error("a call that was to undo something failed for good", step=place.name, reason=error.error)
            failed.append(call.name)
    await run._written()
    return failed
