"""A run that fails or is cancelled undoes what it has done, the last first."""

import asyncio
from uuid import UUID

import pytest

from backstay.jobs import Jobs
from backstay.kernel.db import Database
from backstay.kernel.errors import Invalid
from backstay.kernel.principal import Principal
from backstay.workflows import Run, RunFailed, RunNotMendable, RunState, Workflows

from .conftest import SOON, Order
from .test_runs import count, until_finished


class Trip:
    """Books and cancels, and keeps count."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.keys: dict[str, set[str]] = {}
        self.failures: dict[str, int] = {}

    async def book(self, what: str) -> str:
        self.calls.append(f"book {what}")
        if what == "train":
            raise Invalid("no train")
        return what

    async def cancel(self, what: str, *, idempotency_key: str) -> None:
        self.calls.append(f"cancel {what}")
        self.keys.setdefault(what, set()).add(idempotency_key)
        if self.failures.get(what, 0):
            self.failures[what] -= 1
            raise ConnectionError("away")

    async def take(self, run: Run, *stops: str) -> None:
        for what in stops:
            await run.on_failure(self.cancel, what, name=f"cancel {what}")
            await run.step(self.book, what)


@pytest.fixture
def trip() -> Trip:
    return Trip()


async def test_a_run_that_fails_undoes_what_it_registered_in_reverse_and_once(
    workflows: Workflows, jobs: Jobs, tenant: UUID, trip: Trip, db: Database
) -> None:
    @workflows.workflow(retry=SOON)
    async def travel(run: Run, order: Order) -> None:
        await trip.take(run, "hotel", "flight", "train")
        await run.on_failure(trip.cancel, "never reached")

    trip.failures = {"flight": 2}
    handle = await travel.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    with pytest.raises(RunFailed, match="no train"):
        await handle.result(1)
    assert trip.calls == [
        *("book hotel", "book flight", "book train"),
        *("cancel train", "cancel flight", "cancel flight", "cancel flight", "cancel hotel"),
    ]
    assert all(len(keys) == 1 for keys in trip.keys.values()), "a repeat has the same idempotency key"
    run = await handle.get()
    assert (run.state, run.undoing) == (RunState.FAILED, RunState.FAILED)
    assert [step.name for step in run.steps if step.name.startswith("undo")] == [
        "undo cancel hotel",
        "undo cancel flight",
        "undo cancel train",
    ]
    assert await count(db, tenant, "select count(*) from backstay.audit_entry where action = 'run.undoing'") == 1
    assert await count(db, tenant, "select count(*) from backstay.outbox where type = 'run.failed'") == 1
    with pytest.raises(RunNotMendable, match="undone"):
        await workflows.mending.retry(handle.by, handle.id)


async def test_a_run_that_completes_undoes_nothing(workflows: Workflows, jobs: Jobs, tenant: UUID, trip: Trip) -> None:
    @workflows.workflow(retry=SOON)
    async def travel(run: Run, order: Order) -> str:
        await trip.take(run, "hotel", "flight")
        return "home again"

    handle = await travel.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == "home again"
    assert trip.calls == ["book hotel", "book flight"]


async def test_one_that_cannot_be_undone_is_named_and_keeps_no_other(
    workflows: Workflows, jobs: Jobs, tenant: UUID, trip: Trip
) -> None:
    @workflows.workflow(retry=SOON)
    async def travel(run: Run, order: Order) -> None:
        await trip.take(run, "hotel", "flight", "train")

    trip.failures = {"flight": 99}
    handle = await travel.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    with pytest.raises(RunFailed, match=r"no train.*could not be undone: cancel flight"):
        await handle.result(1)
    assert trip.calls.count("cancel hotel") == 1
    assert trip.calls.count("cancel flight") == SOON.max_attempts


@pytest.mark.parametrize("waits", [False, True])
async def test_a_cancelled_run_undoes_whether_it_waits_or_executes(
    workflows: Workflows, jobs: Jobs, tenant: UUID, owner: Principal, trip: Trip, waits: bool
) -> None:
    booked = asyncio.Event()

    async def linger() -> None:
        booked.set()
        await asyncio.Event().wait()

    @workflows.workflow(retry=SOON)
    async def travel(run: Run, order: Order) -> None:
        await trip.take(run, "hotel")
        if waits:
            booked.set()
            await run.signal("go")
        await run.step(linger)

    handle = await travel.start(Order(), tenant=tenant)
    workflows.cancellations.grace *= 0
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(jobs.worker().run(stop))
        await booked.wait()
        await workflows.cancel(owner, handle.id, reason="rain")
        with pytest.raises(RunFailed, match="rain"):
            await handle.result(20)
        stop.set()
    assert trip.calls == ["book hotel", "cancel hotel"]
    assert (await handle.get()).state == RunState.CANCELLED


async def test_code_that_changed_before_it_undid_parks_the_run_which_goes_on_undoing_once_mended(
    workflows: Workflows, jobs: Jobs, tenant: UUID, owner: Principal, trip: Trip
) -> None:
    changed = False

    @workflows.workflow(retry=SOON)
    async def travel(run: Run, order: Order) -> None:
        nonlocal changed
        if changed:
            await run.now()
        await trip.take(run, "hotel")
        changed = True
        await run.step(trip.book, "train")

    handle = await travel.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    assert (await handle.get()).state == RunState.NONDETERMINISTIC
    assert trip.calls == ["book hotel", "book train"]
    changed = False
    await workflows.mending.retry(owner, handle.id)
    await until_finished(workflows, jobs, handle)
    assert (await handle.get()).state == RunState.FAILED
    assert trip.calls == ["book hotel", "book train", "cancel hotel"]
