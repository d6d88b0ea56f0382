"""Steps side by side, steps with their own retry and timeout, and events of a run."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from backstay.jobs import Jobs, Retry
from backstay.kernel.db import Database
from backstay.kernel.errors import Invalid
from backstay.workflows import Run, RunFailed, StepFailed, StepState, Workflows

from .conftest import SOON, Order
from .test_runs import count, until_finished


async def test_gathered_steps_are_numbered_by_the_code_and_only_unfinished_ones_are_repeated(
    workflows: Workflows, jobs: Jobs, tenant: UUID
) -> None:
    calls: list[int] = []

    async def work(number: int) -> int:
        calls.append(number)
        await asyncio.sleep(0.005 * (3 - number))
        if number == 1 and calls.count(1) < 3:
            raise ConnectionError("not yet")
        return number

    @workflows.workflow(retry=SOON)
    async def fan(run: Run, order: Order) -> list[int]:
        return await run.gather(*(run.step(work, number) for number in range(3)))

    handle = await fan.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == [0, 1, 2]
    assert sorted(calls) == [0, 1, 1, 1, 2]
    assert [(step.seq, step.output, step.attempt) for step in (await handle.get()).steps] == [
        (0, 0, 1),
        (1, 1, 3),
        (2, 2, 1),
    ]


async def test_all_gathered_steps_have_ended_before_the_first_error_is_raised(
    workflows: Workflows, jobs: Jobs, tenant: UUID
) -> None:
    ended: list[str] = []

    async def fail(name: str) -> None:
        raise Invalid(name)

    async def slow(gate: int) -> str:
        await asyncio.sleep(0.02)
        ended.append("slow")
        return "slow"

    @workflows.workflow(retry=SOON)
    async def fan(run: Run, order: Order) -> str:
        try:
            await run.gather(run.step(slow, 1), run.step(fail, "first"), run.step(fail, "second"))
        except StepFailed as error:
            assert ended == ["slow"]
            return error.error
        return "no error"

    handle = await fan.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    assert "first" in await handle.result(1)
    states = [step.state for step in (await handle.get()).steps]
    assert states == [StepState.COMPLETED, StepState.FAILED, StepState.FAILED]


async def test_a_branch_with_a_second_step_is_refused_because_its_number_would_be_chance(
    workflows: Workflows, jobs: Jobs, tenant: UUID
) -> None:
    async def work() -> int:
        return 1

    @workflows.workflow(retry=Retry(max_attempts=1))
    async def branching(run: Run, order: Order) -> None:
        async def branch() -> None:
            await run.step(work)
            await run.step(work)

        await run.gather(branch(), run.step(work))

    handle = await branching.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    with pytest.raises(RunFailed, match="second step"):
        await handle.result(1)


async def test_a_step_has_its_own_retry_and_its_own_timeout(workflows: Workflows, jobs: Jobs, tenant: UUID) -> None:
    calls = {"hang": 0, "once": 0}

    async def hang() -> str:
        calls["hang"] += 1
        if calls["hang"] == 1:
            await asyncio.Event().wait()
        return "in time"

    async def once() -> None:
        calls["once"] += 1
        raise ConnectionError("down")

    @workflows.workflow(retry=SOON)
    async def careful(run: Run, order: Order) -> str:
        said = await run.step(hang, timeout=timedelta(milliseconds=30))
        try:
            await run.step(once, retry=Retry(max_attempts=1))
        except StepFailed:
            return said
        return "not failed"

    handle = await careful.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == "in time"
    assert calls == {"hang": 2, "once": 1}
    step = (await handle.get()).steps[0]
    assert (step.failures, step.attempt) == (1, 2)


async def test_an_event_is_emitted_once_although_the_code_runs_again(
    workflows: Workflows, jobs: Jobs, tenant: UUID, db: Database
) -> None:
    crash = True

    @workflows.workflow(retry=SOON)
    async def telling(run: Run, order: Order) -> str:
        nonlocal crash
        id = await run.emit("order.paid", {"number": order.number})
        if crash:
            crash = False
            raise ConnectionError("crash")
        return str(id)

    @workflows.workflow(retry=SOON)
    async def misspelt(run: Run, order: Order) -> None:
        await run.emit("No\0", {})

    handle = await telling.start(Order(number=4), tenant=tenant)
    wrong = await misspelt.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle, wrong)
    id = UUID(await handle.result(1))
    assert await count(db, tenant, "select count(*) from backstay.outbox where type = 'order.paid'") == 1
    assert await count(db, tenant, f"select (payload->>'number')::int from backstay.outbox where id = '{id}'") == 4
    with pytest.raises(RunFailed, match=r"run\.completed"):
        await wrong.result(1)
