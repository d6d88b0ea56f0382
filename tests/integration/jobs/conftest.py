import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from pydantic import BaseModel

from backstay.jobs import JobContext, Jobs, Retry, Worker
from backstay.kernel.clock import ManualClock
from backstay.kernel.db import Database
from backstay.kernel.settings import Settings


class Note(BaseModel):
    """The input of the tests' jobs."""

    text: str = ""


class Recorder:
    """A handler that remembers what it was called with, and does what `then` says."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.then: Callable[[JobContext, Note], object] | None = None

    async def __call__(self, context: JobContext, note: Note) -> None:
        self.seen.append((note.text, context.attempt))
        if self.then is not None:
            outcome = self.then(context, note)
            if hasattr(outcome, "__await__"):
                await outcome  # type: ignore[misc]

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.seen]


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 15.0) -> None:
    """Waits for a condition, and fails when it does not come true in time."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    """Runs workers for as long as the block lasts."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run(stop))
        try:
            yield
        finally:
            stop.set()


def crowd(database_url: str, tenant: UUID, count: int, name: str = "note") -> None:
    """Makes `count` waiting jobs in one statement."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "insert into backstay.job (tenant_id, id, queue, name, state, priority, run_at, created_at, payload) "
            "select %s, gen_random_uuid(), 'default', %s, 'available', 0, now(), now(), '{}' "
            "from generate_series(1, %s)",
            [tenant, name, count],
        )


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A lease that a busy machine cannot miss; tests of the lease choose their own."""
    return settings.model_copy(update={"lease_seconds": 30.0})


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def jobs(db: Database, settings: Settings, recorder: Recorder, clock: object) -> Jobs:
    """Jobs on the real clock, with the job `note`."""
    made = Jobs(db, clock, settings)  # type: ignore[arg-type]
    made.handler("note", recorder, Note, retry=Retry(max_attempts=3, base=timedelta(milliseconds=10)))
    return made


@pytest.fixture
def slow_jobs(db: Database, settings: Settings, recorder: Recorder, manual_clock: ManualClock) -> Jobs:
    """Jobs on a clock that stands still, with the job `note`."""
    made = Jobs(db, manual_clock, settings)
    made.handler("note", recorder, Note, retry=Retry(max_attempts=3, base=timedelta(minutes=1)))
    return made
