"""Runs and steps as data. No I/O."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from ..kernel.errors import BackstayError, Conflict, Invalid, NotFound
from ..kernel.principal import Principal
from .acting import acting

BUDGET = r"^\d{1,9}(\.\d{1,8})? USD$"
UNDO = 1_000_000_000  # steps that undo have the number of what they undo plus this


class RunState(StrEnum):
    """pending → running ⇄ waiting → completed | failed | cancelled | nondeterministic."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NONDETERMINISTIC = "nondeterministic"

    @property
    def finished(self) -> bool:
        return self not in (RunState.PENDING, RunState.RUNNING, RunState.WAITING)


class StepKind(StrEnum):
    """step: effects outside, at-least-once. transaction: effects in the database, exactly once. value: recorded.
    The others wait: for a decision, a time, a signal, a child run."""

    STEP = "step"
    TRANSACTION = "transaction"
    VALUE = "value"
    APPROVAL = "approval"
    TIMER = "timer"
    SIGNAL = "signal"
    CHILD = "child"


class StepState(StrEnum):
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"


class RunNotFound(NotFound):
    code, title = "run_not_found", "Run not found"


class UnknownWorkflow(Invalid):
    code, title = "unknown_workflow", "No workflow of that name"


class RunInputInvalid(Invalid):
    code, title = "run_input_invalid", "The run's input is wrong"


class RunNotMendable(Conflict):
    code, title = "run_not_mendable", "The run cannot be taken up again"


class UnknownVersion(Invalid):
    code, title = "unknown_version", "The workflow has no such version"


class StepOutOfRange(Invalid):
    code, title = "step_out_of_range", "The run has not come so far"


class NotStorable(Invalid):
    """An output that cannot be stored as JSON, or does not fit its function's return annotation."""

    code, title = "not_storable", "The value cannot be stored"


class ValueTooLarge(NotStorable):
    """An input or output that is larger than what is kept of one."""

    code, title = "value_too_large", "The value is too large to be stored"


class RunStopped(BackstayError):
    """Raised by code that knows that the run would come to the same end again: it is not tried again."""

    code, title = "run_stopped", "The run was stopped"


class StepFailed(RunStopped):
    """A step has failed for good: its attempts are used up, or trying again cannot help. The workflow may catch it;
    on replay it is raised again at the same step."""

    code, title = "step_failed", "A step of the run failed"

    def __init__(self, step: str, error: str, seq: int | None = None) -> None:
        super().__init__(f"step {step} failed: {error}")
        self.step, self.error, self.seq = step, error, seq


class RunFailed(Conflict):
    """The run ended without a result."""

    code, title = "run_failed", "The run did not complete"

    def __init__(self, id: UUID, state: RunState, error: str | None) -> None:
        super().__init__(f"run {id} is {state}: {error or 'no reason recorded'}")
        self.run, self.state, self.error = id, state, error


class RunEnded(Conflict):
    """Nothing reaches a run that has ended."""

    code, title = "run_ended", "The run has ended"

    def __init__(self, id: UUID, state: RunState) -> None:
        super().__init__(f"run {id} is {state} already")
        self.run, self.state = id, state


class Suspend(BaseException):
    """Leaves the workflow's code: the run goes on after `after` from its last recorded step, maybe elsewhere.

    A BaseException, so that an `except Exception` of the workflow cannot eat it.
    """

    def __init__(self, after: timedelta, reason: str) -> None:
        super().__init__(reason)
        self.after, self.reason = after, reason


class Waiting(BaseException):
    """Leaves the workflow's code: the run waits for something from outside, at the latest until `due` (None: for
    ever). A BaseException, as Suspend is."""

    def __init__(self, due: datetime | None) -> None:
        super().__init__("the run waits")
        self.due = due


class Stopped(BaseException):
    """Leaves the workflow's code: the run is cancelled, or its deadline has passed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Replayed(BaseException):
    """Leaves the workflow's code at the point where the run failed or was cancelled."""


class Superseded(BaseException):
    """Another worker has the run: whatever this one does from here on must leave no trace."""


class Nondeterministic(BaseException):
    """The workflow's code asks for another step than the one recorded at this place."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """A run that ends, as those are told who keep something for it."""

    tenant: UUID
    id: UUID
    workflow: str
    state: RunState
    error: str | None = None


class ResumeRun(BaseModel):
    """Input of the job that goes on with a run."""

    run: UUID


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What does not change about a run."""

    tenant_id: UUID
    id: UUID
    workflow: str
    version: str
    parent_id: UUID | None
    parent_seq: int | None


@dataclass(frozen=True, slots=True)
class Taken(RunFacts):
    """A run that this claim may write to."""

    deadline: datetime | None
    cancel_reason: str | None
    principal: dict[str, Any]
    input: str
    fence: int
    attempt: int
    undoing: RunState | None = None  # how it ends once it has undone what it did
    error: str | None = None
    failed_step: int | None = None

    @property
    def by(self) -> Principal:
        """Who started the run."""
        return acting(self.tenant_id, self.principal)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A step as an earlier attempt of the run left it."""

    seq: int
    kind: str
    name: str
    args_hash: bytes
    state: str
    output: str | None
    error: str | None
    attempt: int
    failures: int
    due_at: datetime | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How the wait of a step has ended: its output as JSON text, or why it failed."""

    state: StepState
    output: str | None
    error: str | None = None


@dataclass(slots=True)
class StepWrite:
    """What a run wants recorded of a step: its intent, its output, or a failure."""

    seq: int
    kind: StepKind
    name: str
    args_hash: bytes
    state: StepState
    started_at: datetime
    output: str | None = None
    error: str | None = None
    failures: int = 0
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Mendable:
    """A run that is to get a second chance."""

    id: UUID
    workflow: str
    version: str
    state: RunState
    failed_step: int | None
    undone: bool
    steps: int
    open_wait: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", RunState(self.state))


class NewRun(BaseModel):
    """A run to start over HTTP."""

    workflow: str = Field(min_length=1, max_length=200, description="Name of a registered workflow.")
    input: dict[str, Any] = Field(default_factory=dict, description="The workflow's input.")
    key: str | None = Field(
        None, min_length=1, max_length=500, description="A second start with the same key returns the first run."
    )
    deadline: datetime | None = Field(None, description="A run that has not ended by then is cancelled.")
    budget: str | None = Field(
        None, pattern=BUDGET, description="What it and its children may spend, such as `0.50 USD`."
    )


class Cancelling(BaseModel):
    """Why a run is to be cancelled."""

    reason: str | None = Field(None, max_length=2_000, description="Why.")


class Move(BaseModel):
    """Another version for a run."""

    version: str = Field(min_length=1, max_length=200, description="A registered version of its workflow.")


class Fork(BaseModel):
    """Where a new run is to go on from."""

    step: int = Field(ge=0, lt=1_000_000_000, description="The first step that is taken anew; those below stand.")
    version: str | None = Field(None, min_length=1, max_length=200, description="The run's own when missing.")


class RunView(BaseModel):
    """A run as its owner sees it. Times are UTC."""

    id: UUID
    workflow: str
    version: str
    key: str | None = None
    state: RunState
    error: str | None = None
    attempt: int = Field(description="How often a worker took it up.")
    parent: UUID | None = Field(None, description="The run that waits for it.")
    deadline: datetime | None = Field(None, description="It is cancelled when it has not ended by then.")
    cancelling: bool = Field(False, description="It was asked to stop.")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class StepView(BaseModel):
    """A step. `attempt` counts its recorded intents: that often it may have reached the outside."""

    seq: int
    kind: StepKind
    name: str
    state: StepState
    output: Any = None
    error: str | None = None
    attempt: int
    failures: int
    started_at: datetime
    due_at: datetime | None = Field(None, description="When a wait ends at the latest.")
    finished_at: datetime | None = None


class RunDetail(RunView):
    """A run with input, output and steps."""

    undoing: RunState | None = Field(None, description="How it ends, or has ended, by undoing what it did.")
    forked_from: UUID | None = Field(None, description="The run whose steps it has taken over.")
    forked_step: int | None = Field(None, description="It has taken over those below this one.")
    input: Any = None
    output: Any = None
    steps: list[StepView] = []
