"""Workflows: runs made of steps, which go on where they were after a crash, a deploy or a failure.

Owns        run, step, run_blob (inputs and outputs over 64 kB)
States      run: pending → running ⇄ waiting → completed | failed | cancelled | nondeterministic
            step: started → completed | failed
Guarantees  A run started in a transaction exists if and only if that transaction commits, and then it ends.
            run.transaction: effects in the database, exactly once, committed with the step.
            run.step: effects outside, at-least-once, the intent recorded first, with a stable idempotency key.
            A worker that lost a run can write nothing to it.
            A run that waits holds no process, no connection and no memory. What it waits for wakes it in the
            transaction that brings it, through one job; no wake-up is lost.
            run.on_failure: what was registered is undone in reverse when the run fails or is cancelled, after a crash
            in the middle too.
            An input or output over 64 kB is committed with its row, and read with it; over 16 MiB it is refused.
            Steps of concurrent runs are committed together; none is in another's way.
"""

from .approvals import Approvals, Decision
from .children import ChildFailed
from .models import (
    Nondeterministic,
    NotStorable,
    RunDetail,
    RunEnd,
    RunEnded,
    RunFailed,
    RunInputInvalid,
    RunNotFound,
    RunNotMendable,
    RunState,
    RunStopped,
    RunView,
    StepFailed,
    StepKind,
    StepOutOfRange,
    StepState,
    StepView,
    Suspend,
    UnknownVersion,
    UnknownWorkflow,
    ValueTooLarge,
    Waiting,
)
from .run import Run
from .service import Workflows
from .signals import SignalInvalid, SignalTimedOut, SignalUnfit
from .wakes import RESUME
from .workflow import RunHandle, Workflow

__all__ = [
    "RESUME",
    "Approvals",
    "ChildFailed",
    "Decision",
    "Nondeterministic",
    "NotStorable",
    "Run",
    "RunDetail",
    "RunEnd",
    "RunEnded",
    "RunFailed",
    "RunHandle",
    "RunInputInvalid",
    "RunNotFound",
    "RunNotMendable",
    "RunState",
    "RunStopped",
    "RunView",
    "SignalInvalid",
    "SignalTimedOut",
    "SignalUnfit",
    "StepFailed",
    "StepKind",
    "StepOutOfRange",
    "StepState",
    "StepView",
    "Suspend",
    "UnknownVersion",
    "UnknownWorkflow",
    "ValueTooLarge",
    "Waiting",
    "Workflow",
    "Workflows",
]
