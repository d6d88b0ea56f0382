"""The queue as a child would play it: a dict of jobs and a few rules. It knows nothing of SQL, locks or snapshots."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from backstay.jobs.models import Claimed

WAITING = {"scheduled", "available", "retryable"}
FINISHED = {"completed", "cancelled", "discarded"}


@dataclass(eq=False)
class Entry:
    """A job as it must stand in the tables."""

    tenant: UUID
    id: UUID
    queue: str
    name: str
    key: str | None
    text: str
    state: str
    priority: int
    run_at: datetime
    attempt: int = 0
    rescues: int = 0
    fence: int | None = None
    cancelling: bool = False

    def __repr__(self) -> str:
        return f"<{self.text}: {self.state} on {self.queue[-1]}>"

    @property
    def row(self) -> tuple[Any, ...]:
        fence = self.fence if self.state == "running" else None
        return (
            *(self.tenant, self.id, self.queue, self.name, self.key, self.state, self.priority, self.run_at),
            *(self.attempt, self.rescues, fence, self.cancelling and self.state == "running"),
        )


@dataclass
class Model:
    """Every job there ever was, which queues are paused or limited, and the time."""

    now: datetime
    jobs: dict[UUID, Entry] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    limits: dict[str, int] = field(default_factory=dict)

    def waiting_like(self, tenant: UUID, name: str, key: str | None) -> Entry | None:
        return self._with_key(tenant, name, key, WAITING)

    def enqueue(self, new: Entry) -> Entry:
        """The job that stands: the new one, or the one with its key that waits already."""
        standing = self.waiting_like(new.tenant, new.name, new.key)
        if standing is None:
            self.jobs[new.id] = new
            return new
        if standing.state == "scheduled":
            standing.state, standing.run_at = new.state, min(standing.run_at, new.run_at)
        standing.priority = max(standing.priority, new.priority)
        return standing

    def promote(self) -> None:
        for job in self._in({"scheduled", "retryable"}):
            if job.run_at <= self.now:
                job.state = "available"

    def ready(self, queues: Iterable[str]) -> list[Entry]:
        """What may be claimed, in order of queue, tenant, priority and age."""
        found = [
            job
            for job in self._in({"available"})
            if job.queue in set(queues) - self.paused
            and self._with_key(job.tenant, job.name, job.key, {"running"}) is None
        ]
        return sorted(found, key=lambda job: (job.queue, job.tenant, -job.priority, job.id))

    def claimable(self, ready: list[Entry], room: int) -> int:
        """How many of them one turn takes."""
        total = 0
        for queue, jobs in groupby(ready, key=lambda job: job.queue):
            running = sum(job.queue == queue for job in self._in({"running"}))
            free = self.limits.get(queue, room + running) - running
            total += max(0, min(len(list(jobs)), free))
        return min(room, total)

    def claim(self, claimed: Claimed) -> None:
        job = self.jobs[claimed.id]
        job.state, job.fence, job.attempt = "running", claimed.fence, job.attempt + 1

    def held_by(self, claim: Claimed) -> Entry | None:
        """The job, while the claim stands."""
        job = self.jobs[claim.id]
        return job if job.state == "running" and job.fence == claim.fence else None

    def complete(self, claim: Claimed) -> None:
        if job := self.held_by(claim):
            job.state = "completed"

    def settle(self, claim: Claimed, state: str, run_at: datetime, counted: bool) -> None:
        job = self.held_by(claim)
        if job is None:
            return
        if state in FINISHED or job.cancelling or self.waiting_like(job.tenant, job.name, job.key):
            job.state = state if state in FINISHED else "cancelled"
        else:
            # Workers that were lost count in a row only: this one lived to tell.
            job.state, job.run_at, job.attempt, job.rescues = state, run_at, job.attempt - (not counted), 0

    def rescue(self, fences: set[int]) -> None:
        """The worker with these claims is dead."""
        for job in [job for job in self._in({"running"}) if job.fence in fences]:
            if job.cancelling or self.waiting_like(job.tenant, job.name, job.key):
                job.state = "cancelled"
            else:
                job.state, job.attempt, job.rescues = "available", job.attempt - 1, job.rescues + 1

    def revive(self, job: Entry) -> bool:
        """Whether it runs again: not when another with its key waits."""
        if self.waiting_like(job.tenant, job.name, job.key):
            return False
        job.state, job.run_at, job.attempt, job.rescues, job.cancelling = "available", self.now, 0, 0, False
        return True

    def hasten(self, job: Entry) -> None:
        job.state, job.run_at = "available", self.now

    def of(self, tenant: UUID, states: set[str], queue: str | None) -> list[Entry]:
        """A tenant's jobs in these states, oldest first."""
        found = [job for job in self._in(states) if job.tenant == tenant and queue in (None, job.queue)]
        return sorted(found, key=lambda job: job.id)

    def _in(self, states: set[str]) -> list[Entry]:
        return [job for job in self.jobs.values() if job.state in states]

    def _with_key(self, tenant: UUID, name: str, key: str | None, states: set[str]) -> Entry | None:
        found = [job for job in self._in(states) if key and (job.tenant, job.name, job.key) == (tenant, name, key)]
        return found[0] if found else None
