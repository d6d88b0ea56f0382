"""A worker whose every move is made by a test: it claims, runs handlers and writes outcomes when it is told to."""

from backstay.jobs import Jobs
from backstay.jobs.models import Claimed, Verdict
from backstay.jobs.topics import READY
from backstay.kernel.db import Database


class Hand:
    """The real worker without its loops. A dead one keeps what it had claimed, as a frozen process does."""

    def __init__(self, db: Database, jobs: Jobs, queues: list[str]) -> None:
        self._db, self._worker = db, jobs.worker(queues, concurrency=1)
        self._worker._wake = db.notifier.subscribe(READY).__enter__()

    @property
    def alive(self) -> bool:
        """Whether it believes so; another may have declared it dead."""
        return self._worker.id is not None

    async def join(self) -> None:
        await self._worker._lease._register()

    async def claim(self, room: int) -> list[Claimed]:
        """Writes the outcomes at hand and claims, in one turn."""
        await self._worker._turn(room)
        work = self._worker._work
        return [work.get_nowait() for _ in range(work.qsize())]

    async def run(self, claim: Claimed) -> Verdict | None:
        """Runs the claim's handler. The outcome is written with the next turn. None: completed."""
        verdict = await self._worker._lanes[0]._interruptible(claim)
        self.report(claim, verdict)
        return verdict

    def report(self, claim: Claimed, verdict: Verdict | None) -> None:
        self._worker._report(claim, verdict, 0.0)

    async def write(self) -> None:
        """Writes the outcomes at hand."""
        await self._worker._turn(0)

    async def forget(self, claim: Claimed) -> None:
        """As if the answer that brought the claim had been lost: the worker finds it in its name and gives it back."""
        self._worker._held.pop(claim.fence, None)
        for _ in range(2):
            await self._worker._look_around()

    async def fall_silent(self) -> None:
        """Its lease is over, and it does not know."""
        async with self._db.system_tx() as tx:
            await tx.execute(
                "update backstay.worker set expires_at = clock_timestamp() - interval '1 second' where id = %s",
                [self._worker.id],
            )

    async def leave(self) -> None:
        """Gives its lease up, whatever it holds."""
        await self._worker._lease.leave()

    def end(self) -> None:
        self._worker._subscription.__exit__(None, None, None)
