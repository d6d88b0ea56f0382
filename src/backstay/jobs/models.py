"""Jobs as data: states, what is enqueued, what is claimed, how it ended, what callers see. No I/O."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel, Field

from ..kernel.errors import Conflict, Invalid, NotFound


class JobState(StrEnum):
    """scheduled → available → running → completed, with retryable, cancelled and discarded on the way."""

    SCHEDULED = "scheduled"
    AVAILABLE = "available"
    RUNNING = "running"
    RETRYABLE = "retryable"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"


class JobNotFound(NotFound):
    code, title = "job_not_found", "Job not found"


class UnknownJob(Invalid):
    code, title = "unknown_job", "No job of that name"


class JobInputInvalid(Invalid):
    code, title = "job_input_invalid", "The job's input is wrong"


class JobNotRetryable(Conflict):
    code, title = "job_not_retryable", "The job cannot be retried in its state"


class JobFinished(Conflict):
    code, title = "job_finished", "The job has finished"


class JobLost(Conflict):
    """This claim of the job is over: its worker was declared dead, and another may run it now."""

    code, title = "job_lost", "The job is no longer this worker's"


@dataclass(frozen=True, slots=True)
class Retry:
    """How failures are repeated: a wait drawn from 0 to `base × 2^(attempt - 1)`, at most `cap` (full jitter).

    After `max_attempts` failed attempts the job is discarded. Attempts that ended with their worker do not count; with
    more than `max_rescues` of those in a row the job is discarded too, because it may be what kills the workers. None:
    it is not, and from the 21st on it waits a while before it runs again, up to a minute.
    """

    max_attempts: int = 10
    base: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(minutes=10)
    max_rescues: int | None = 20

    def gives_up(self, rescues: int) -> bool:
        """Whether a job is discarded because so many workers in a row were lost while they ran it."""
        return self.max_rescues is not None and rescues > self.max_rescues

    def delay(self, attempt: int, draw: Callable[[], float]) -> timedelta:
        """The wait after failed attempt number `attempt` (1 is the first); `draw` gives a number in [0, 1)."""
        highest = min(self.cap.total_seconds(), self.base.total_seconds() * 2.0 ** min(attempt - 1, 60))
        return timedelta(seconds=highest * draw())


class NewJob(BaseModel):
    """A job to enqueue over HTTP."""

    name: str = Field(min_length=1, max_length=200, description="Name of a registered job.")
    input: dict[str, Any] = Field(default_factory=dict, description="The job's input.")
    key: str | None = Field(None, min_length=1, max_length=500, description="Unique key while the job waits.")
    at: datetime | None = Field(None, description="Not before this time; now when missing.")
    priority: int = Field(0, ge=-100, le=100, description="Higher runs first.")
    queue: str | None = Field(None, min_length=1, max_length=100, description="The job's own queue when missing.")


class JobView(BaseModel):
    """A job as its owner sees it. Times are UTC."""

    id: UUID
    queue: str
    name: str
    state: JobState
    priority: int
    attempt: int = Field(description="Attempts begun; those lost with a worker do not count.")
    rescues: int = Field(description="Attempts in a row that ended with the worker that ran them.")
    run_at: datetime
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    unique_key: str | None = None
    error: str | None = Field(None, description="What the last failed attempt raised.")
    progress: float | None = Field(None, description="How far the newest attempt said it was, from 0 to 1.")
    progress_note: str | None = Field(None, description="What it said of that.")


class JobDetail(JobView):
    """A job with its input."""

    input: Any = None


class QueueView(BaseModel):
    """A tenant's hot jobs in one queue."""

    name: str
    paused: bool = False
    scheduled: int = 0
    available: int = 0
    running: int = 0
    retryable: int = 0
    oldest: datetime | None = Field(None, description="When the longest waiting job was to run.")


class Claimed(NamedTuple):
    """A job that this worker may run, as long as `fence` is the job's number."""

    tenant: UUID
    id: UUID
    queue: str
    name: str
    priority: int
    attempt: int
    rescues: int
    fence: int
    run_at: datetime
    unique_key: str | None
    payload: str | None  # JSON text; None: it lies in blob
    limit_key: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An input that may be enqueued, and where to. `remote`: for workers in other languages."""

    input: BaseModel
    queue: str
    remote: bool


class Memory(NamedTuple):
    """What a worker tells its next claim of those before, as JSON arrays."""

    behind: str  # the last job claimed of each flow, when the scan shall begin there
    begun: str  # the flow after which the scan of a queue shall begin
    had: str  # how much each tenant had


@dataclass(frozen=True, slots=True)
class Turn:
    """What one round trip brought."""

    finished: int  # how many of the completed ones were still ours
    alive: bool  # False: this worker was declared dead
    claimed: list[Claimed]
    flows: int  # how many had something ready
    read: int  # entries of the index of flows
    weights: list[tuple[str, str, float]]  # of each tenant in each queue; empty when there was one flow
    ended: list[tuple[str, str, str, str]]  # where the scan of a queue stopped that has more flows
    full: list[tuple[str, str]]  # limits that leave no room: of a queue or a job, and its name
    wait: float | None  # seconds until a window that is full has room again


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended, when not completed. `counted`: the attempt counts against the limit."""

    fence: int
    state: JobState
    run_at: datetime
    counted: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class Buried:
    """A worker that was declared dead after `silent` seconds."""

    id: UUID
    name: str
    silent: float
