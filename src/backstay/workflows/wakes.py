"""What makes a run that waits go on: always one job, in the transaction of what the run waited for."""

from datetime import datetime
from uuid import UUID

from ..jobs import Jobs
from ..kernel.clock import Clock
from ..kernel.db import Tx
from . import waits_store
from .models import Ended, ResumeRun

RESUME = "workflow.resume"
QUEUE = "workflows"


class Wakes:
    """Wakes runs. At most one job of a run waits to be claimed, whatever number of things happen to it.

    A wake-up cannot be lost. One that comes while the run's code still executes is a job that starts when the present
    one has ended, and reads what is recorded by then.

    Locks are taken in one order by all who wake: the run's row, what belongs to it, its step, and last its job.
    """

    def __init__(self, jobs: Jobs, clock: Clock) -> None:
        self._jobs, self._clock = jobs, clock

    async def wake(self, tx: Tx, tenant: UUID, run: UUID, at: datetime | None = None) -> None:
        """Has a worker go on with the run, at or after `at` (now when None)."""
        await self._jobs.enqueue(RESUME, ResumeRun(run=run), tenant=tenant, key=str(run), at=at, queue=QUEUE, tx=tx)

    async def end(self, tx: Tx, tenant: UUID, run: UUID, seq: int, ended: Ended) -> bool:
        """Ends the wait of a step and wakes its run; False when the wait has ended already."""
        if not await waits_store.end_wait(tx, tenant, run, seq, ended, self._clock.now()):
            return False
        await self.wake(tx, tenant, run)
        return True
