"""Timeouts: they fire on time as the system, elsewhere and later too, and never into a state they were not for."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from backstay.jobs import Jobs, JobState, Retry
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings
from backstay.workflows.machines import TIMEOUT, Definition, Instance, Machine, Machines, State, Transition

from .conftest import WAIT, process, review, rows

SECOND = timedelta(seconds=1)


@pytest.fixture
async def waiting(reviews: Machine, tenant: UUID) -> Instance:
    """An instance whose timer runs."""
    return await reviews.send((await reviews.start(tenant=tenant)).id, "submit", tenant=tenant)


async def test_a_state_times_out_on_time_and_as_the_system(
    reviews: Machine, jobs: Jobs, owner: Principal, waiting: Instance, manual_clock: ManualClock
) -> None:
    manual_clock.advance(WAIT - SECOND)
    await jobs.worker().run_until_idle()
    assert (await reviews.get(waiting.id, by=owner)).state == "waiting"
    manual_clock.advance(SECOND)
    await jobs.worker().run_until_idle()
    ended = await reviews.get(waiting.id, by=owner)
    assert (ended.state, ended.seq, ended.due_at, ended.finished_at) == ("expired", 2, None, manual_clock.now())
    step = ended.history[0]
    assert (step.event, step.actor, step.actor_id) == ("expire", f"job:{TIMEOUT}", UUID(int=0))
    assert [job.state for job in await jobs.list(owner)] == [JobState.COMPLETED]


async def test_a_timer_does_nothing_once_the_state_was_left(
    reviews: Machine, jobs: Jobs, owner: Principal, waiting: Instance, manual_clock: ManualClock
) -> None:
    await reviews.send(waiting.id, "approve", by=owner)
    manual_clock.advance(2 * WAIT)
    await jobs.worker().run_until_idle()
    assert (await reviews.get(waiting.id, by=owner)).state == "approved"
    assert [job.state for job in await jobs.list(owner)] == [JobState.COMPLETED]


async def test_entering_the_same_state_again_starts_the_time_anew(
    reviews: Machine, jobs: Jobs, owner: Principal, waiting: Instance, manual_clock: ManualClock
) -> None:
    """The old timer finds the instance in the right state, and at another number."""
    manual_clock.advance(WAIT / 2)
    again = await reviews.send(waiting.id, "remind", by=owner)
    assert again.due_at == manual_clock.now() + WAIT
    manual_clock.advance(WAIT / 2)
    await jobs.worker().run_until_idle()
    assert (await reviews.get(waiting.id, by=owner)).seq == 2
    manual_clock.advance(WAIT / 2)
    await jobs.worker().run_until_idle()
    assert (await reviews.get(waiting.id, by=owner)).state == "expired"


async def test_a_timer_that_was_rolled_back_never_fires(
    reviews: Machine, jobs: Jobs, owner: Principal, db: Database, manual_clock: ManualClock
) -> None:
    started = await reviews.start(by=owner)

    async def fail() -> None:
        async with db.tenant_tx(owner.tenant) as tx:
            await reviews.send(started.id, "submit", tx=tx)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await fail()
    assert await jobs.list(owner) == []
    manual_clock.advance(2 * WAIT)
    await jobs.worker().run_until_idle()
    assert (await reviews.get(started.id, by=owner)).state == "draft"


async def test_a_timer_fires_once_even_when_its_job_runs_again(
    machines: Machines, reviews: Machine, jobs: Jobs, owner: Principal, waiting: Instance, manual_clock: ManualClock
) -> None:
    manual_clock.advance(WAIT)
    await jobs.worker().run_until_idle()
    timer = {"instance": str(waiting.id), "seq": 1}
    for _ in range(2):
        await jobs.enqueue_raw(TIMEOUT, timer, by=owner)
    await jobs.worker().run_until_idle()
    assert (await reviews.get(waiting.id, by=owner)).seq == 2


async def test_a_timer_and_a_sender_at_once_are_one_step(
    machines: Machines, reviews: Machine, jobs: Jobs, owner: Principal, manual_clock: ManualClock
) -> None:
    for _ in range(5):
        waiting = await reviews.send((await reviews.start(by=owner)).id, "submit", by=owner)
        manual_clock.advance(WAIT)
        sent, _ = await asyncio.gather(
            reviews.send(waiting.id, "approve", by=owner), jobs.worker().run_until_idle(), return_exceptions=True
        )
        found = await reviews.get(waiting.id, by=owner)
        assert found.seq == 2
        assert found.state == ("approved" if isinstance(sent, Instance) else "expired")


async def test_another_process_fires_it_after_a_restart(
    waiting: Instance, owner: Principal, db: Database, manual_clock: ManualClock, settings: Settings, vault: Vault
) -> None:
    """The process that set the timer is gone; the next one declares the same machine."""
    machines, jobs = process(db, manual_clock, settings, vault)
    again = machines.machine(review())
    manual_clock.advance(WAIT)
    await jobs.worker().run_until_idle()
    assert (await again.get(waiting.id, by=owner)).state == "expired"


async def test_a_worker_without_the_code_fires_what_no_guard_decides(
    waiting: Instance, owner: Principal, db: Database, manual_clock: ManualClock, settings: Settings, vault: Vault
) -> None:
    machines, jobs = process(db, manual_clock, settings, vault)
    manual_clock.advance(WAIT)
    await jobs.worker().run_until_idle()
    assert (await machines.get(waiting.id, by=owner)).state == "expired"


def guarded(guard: Any) -> Definition:
    states = [State("a", timeout=WAIT, on_timeout="end"), State("b", final=True)]
    return Definition("guarded", states, [Transition("end", "a", "b", guard=guard)], "a")


async def test_a_timer_waits_for_a_worker_with_the_guards_code(
    machines: Machines,
    jobs: Jobs,
    owner: Principal,
    db: Database,
    manual_clock: ManualClock,
    settings: Settings,
    vault: Vault,
) -> None:
    def allow(instance: Instance, data: dict[str, Any]) -> bool:
        return True

    started = await machines.machine(guarded(allow)).start(by=owner)
    _, other_jobs = process(db, manual_clock, settings, vault)
    manual_clock.advance(WAIT)
    await other_jobs.worker().run_until_idle()
    (timer,) = await jobs.list(owner)
    assert (timer.state, timer.attempt) == (JobState.SCHEDULED, 0)
    manual_clock.advance(timedelta(seconds=10))
    await jobs.worker().run_until_idle()
    assert (await machines.get(started.id, by=owner)).state == "b"


async def test_a_refused_timeout_is_tried_again_and_then_stands_among_the_dead_jobs(
    machines: Machines, jobs: Jobs, owner: Principal, manual_clock: ManualClock
) -> None:
    calls = 0

    def refuse(instance: Instance, data: dict[str, Any]) -> bool:
        nonlocal calls
        calls += 1
        return False

    started = await machines.machine(guarded(refuse)).start(by=owner)
    manual_clock.advance(WAIT)
    for _ in range(Retry().max_attempts):
        await jobs.worker().run_until_idle()
        manual_clock.advance(Retry().cap)
    await jobs.worker().run_until_idle()
    (timer,) = await jobs.list(owner)
    assert (timer.state, calls) == (JobState.DISCARDED, Retry().max_attempts)
    assert "refuse says no" in (timer.error or "")
    assert (await machines.get(started.id, by=owner)).state == "a"


async def test_the_first_states_timer_starts_with_the_instance(
    machines: Machines, jobs: Jobs, owner: Principal, manual_clock: ManualClock, db: Database
) -> None:
    machine = machines.machine(
        Definition(
            "steps",
            [State("a", timeout=WAIT, on_timeout="next"), State("b", timeout=WAIT, on_timeout="next"), "c"],
            [Transition("next", "a", "b"), Transition("next", "b", "c")],
            "a",
        )
    )
    started = await machine.start(by=owner)
    for state in "bc":
        manual_clock.advance(WAIT)
        await jobs.worker().run_until_idle()
        assert (await machine.get(started.id, by=owner)).state == state
    assert await rows(db, "select * from backstay.job") == []
