"""`run.child`: a run starts another one and waits for it."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel

from . import encoding
from .models import Ended, RunState, StepFailed, StepKind, StepState
from .waiting import wait

if TYPE_CHECKING:
    from ..kernel.db import Tx
    from .run import Run
    from .workflow import Workflow

I = TypeVar("I", bound=BaseModel)  # noqa: E741
O = TypeVar("O")  # noqa: E741


class ChildFailed(StepFailed):
    """In a workflow: the child run ended without a result; `run` and `state` tell which and how."""

    code, title = "child_failed", "A child run did not complete"

    def __init__(self, workflow: str, error: str, run: UUID, state: RunState) -> None:
        super().__init__(workflow, f"its run {run} is {state}: {error}")
        self.run, self.state = run, state


async def child(run: "Run", workflow: "Workflow[I, O]", input: I, *, deadline: datetime | timedelta | None = None) -> O:
    """Runs `workflow` as a run of its own, and returns what it returns; this run waits and holds nothing meanwhile.

    The child starts in the transaction that records this step, so there is exactly one. It acts for the same
    principal, and ends by the earlier of its deadline and this run's. When this run ends before it, as when it is
    cancelled, the child is cancelled too. Start several with `run.gather`.

    Raises:
        ChildFailed: it failed or was cancelled.
    """
    place = run._place(StepKind.CHILD, workflow.name, encoding.hash_of((input,)))

    async def begin(tx: "Tx") -> None:
        await run._around.start(
            workflow, input, by=run.by, deadline=_earlier(run, deadline), parent=(run.id, place.seq), tx=tx
        )

    async def overdue(tx: "Tx") -> Ended | None:
        return None  # the child's own deadline holds

    ended = await wait(run, place, None, begin=begin, overdue=overdue)
    if ended.state == StepState.FAILED:
        told: dict[str, Any] = orjson.loads(ended.output or "{}")
        raise ChildFailed(workflow.name, ended.error or "", UUID(told["run"]), RunState(told["state"]))
    result: O = encoding.decode(workflow.output, ended.output, f"workflow {workflow.name}")
    return result


def _earlier(run: "Run", deadline: datetime | timedelta | None) -> datetime | None:
    if isinstance(deadline, timedelta):
        deadline = run._clock.now() + deadline
    return min(filter(None, (run.deadline, deadline)), default=None)
