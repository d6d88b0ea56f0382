"""Workers in other languages as data: what they register, what they are given, how they answer. No I/O."""

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, RootModel, StringConstraints, field_validator

from ...kernel.errors import Conflict
from ..models import Retry

MAX_CLAIM = 100
MAX_WAIT = 30.0
MAX_NAMES = 1_000  # that the workers of a tenant have registered
_YEAR = 366 * 86_400.0
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
QueueName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
Claim = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,19}$")]


class WorkerLost(Conflict):
    """The worker was declared dead, left, or never was one of this tenant: it registers anew."""

    code, title = "worker_lost", "The worker is not registered any more"


class JobHandledHere(Conflict):
    code, title = "job_handled_here", "The server runs jobs of that name itself"


class TooManyJobNames(Conflict):
    """What workers have registered stays, so a worker must not make up names."""

    code, title = "too_many_job_names", "The tenant's workers have registered too many names"


class AnyInput(RootModel[dict[str, Any]]):
    """The input of a remote job: the worker checks it, the server only keeps it."""


class RemoteJob(BaseModel):
    """A job that a remote worker can run, where it is enqueued, and how its failures are repeated."""

    name: Name
    queue: QueueName = Field("default", description="Where it is enqueued unless the caller names a queue.")
    max_attempts: int = Field(10, ge=1, le=1000, description="Discarded after so many failed attempts.")
    base_seconds: float = Field(1.0, ge=0, le=86_400, description="Wait after the first failure, doubled each time.")
    cap_seconds: float = Field(600.0, ge=0, le=_YEAR, description="The longest wait.")
    max_rescues: int = Field(20, ge=0, le=1000, description="Discarded after so many workers died while they ran it.")
    timeout_seconds: float | None = Field(
        None, ge=1, le=_YEAR, description="An attempt that takes longer has failed; without it, no limit."
    )

    def retry(self) -> Retry:
        return Retry(
            self.max_attempts,
            timedelta(seconds=self.base_seconds),
            timedelta(seconds=self.cap_seconds),
            self.max_rescues,
        )


class NewWorker(BaseModel):
    """A worker that registers."""

    name: Name = Field(description="For people to read, such as a host and a process id.")
    jobs: list[RemoteJob] = Field(min_length=1, max_length=50, description="The jobs it can run.")
    queues: list[QueueName] | None = Field(
        None, min_length=1, max_length=20, description="Where it claims from; the queues of its jobs when missing."
    )
    lease_seconds: float = Field(30.0, ge=1, le=300, description="Silent for longer, it counts as dead.")

    @field_validator("jobs")
    @classmethod
    def _distinct(cls, jobs: list[RemoteJob]) -> list[RemoteJob]:
        if len({job.name for job in jobs}) < len(jobs):
            raise ValueError("a job is named twice")
        return jobs


class RemoteWorker(BaseModel):
    """A remote worker that is registered."""

    id: UUID
    name: str
    queues: list[str]
    jobs: list[str]
    lease_seconds: float
    started_at: datetime
    seen_at: datetime
    expires_at: datetime


class Registered(BaseModel):
    """The worker's id, and how often it must be heard of."""

    id: UUID
    queues: list[str]
    lease_seconds: float = Field(description="Silent for longer, it counts as dead and its jobs are others'.")
    heartbeat_seconds: float = Field(description="Send a heartbeat this often.")


class HeldClaim(BaseModel):
    """A job that the worker holds, as the server knows it."""

    job: UUID
    claim: str
    cancelling: bool = Field(description="Someone asked to cancel it: stop it and answer with `cancel`.")


class Heartbeat(BaseModel):
    """The lease is renewed. Whatever the worker runs and is not in `claims` is another's by now."""

    lease_seconds: float
    claims: list[HeldClaim]


class ClaimRequest(BaseModel):
    """How many jobs a worker has room for, and how long it would wait for one."""

    limit: int = Field(10, ge=1, le=MAX_CLAIM)
    wait_seconds: float = Field(0.0, ge=0, le=MAX_WAIT, description="Answers as soon as there is one.")


class RemoteClaim(BaseModel):
    """A job to run now. `claim` names this attempt and no other; each answer about it carries it."""

    job: UUID
    claim: str
    name: str
    queue: str
    attempt: int = Field(description="1 the first time; attempts lost with a worker do not count.")
    rescues: int
    priority: int
    run_at: datetime
    unique_key: str | None = None
    input: Any = Field(None, description="Missing when `input_is_large`.")
    input_is_large: bool = Field(False, description="Over 64 kB: get it from the claim's own route.")


class Claims(BaseModel):
    """What was claimed; empty when nothing came in time."""

    jobs: list[RemoteClaim]


class Completed(BaseModel):
    """The job is done."""

    claim: Claim


class Progressed(BaseModel):
    """How far the attempt is, from 0 to 1. Once a second is often enough."""

    claim: Claim
    fraction: float = Field(ge=0, le=1)
    note: str | None = Field(None, max_length=500)


class Failed(BaseModel):
    """The attempt failed. It is repeated as registered, or discarded after the last attempt."""

    claim: Claim
    error: Reason = Field(description="What went wrong; the first 4,000 characters are kept.")
    retry_after_seconds: float | None = Field(
        None, ge=0, le=_YEAR, description="When to repeat it; after the job's own backoff when missing."
    )


class Snoozed(BaseModel):
    """Not yet: run it again later. Does not count as an attempt."""

    claim: Claim
    seconds: float = Field(ge=0, le=_YEAR)
    reason: Reason = "snoozed"


class Ended(BaseModel):
    """The job ends here, and why."""

    claim: Claim
    reason: Reason


class Outcome(BaseModel):
    """What became of the job."""

    job: UUID
    state: str
    run_at: datetime | None = Field(None, description="When it is to run again.")
