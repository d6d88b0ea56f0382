"""Workflows: runs made of steps, which go on where they were after a crash, a deploy or a failure.

Owns        run, step
States      run: pending → running → completed | failed | cancelled | nondeterministic
            step: started → completed | failed
Guarantees  A run started in a transaction exists if and only if that transaction commits, and then it ends.
            run.transaction: effects in the database, exactly once, committed with the step.
            run.step: effects outside, at-least-once, the intent recorded first, with a stable idempotency key.
            A worker that lost a run can write nothing to it.
"""

from .models import (
    Nondeterministic,
    NotStorable,
    RunDetail,
    RunFailed,
    RunInputInvalid,
    RunNotFound,
    RunState,
    RunView,
    StepFailed,
    StepKind,
    StepState,
    StepView,
    Suspend,
    UnknownWorkflow,
)
from .run import Run
from .service import RESUME, RunHandle, Workflow, Workflows

__all__ = [
    "RESUME",
    "Nondeterministic",
    "NotStorable",
    "Run",
    "RunDetail",
    "RunFailed",
    "RunHandle",
    "RunInputInvalid",
    "RunNotFound",
    "RunState",
    "RunView",
    "StepFailed",
    "StepKind",
    "StepState",
    "StepView",
    "Suspend",
    "UnknownWorkflow",
    "Workflow",
    "Workflows",
]
