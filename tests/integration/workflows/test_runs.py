"""Runs: steps are executed once and replayed, failures are retried and end, changed code parks."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from backstay.jobs import Discard, Jobs, Retry
from backstay.kernel.db import Database, Tx
from backstay.kernel.errors import ConfigurationError, Invalid, TimedOut
from backstay.kernel.principal import Principal
from backstay.workflows import Run, RunFailed, RunNotFound, RunState, StepFailed, StepKind, StepState, Workflows

from .conftest import SOON, Order


class Receipt(BaseModel):
    total: int
    at: datetime | None = None


@dataclass
class Charge:
    amount: int


async def count(db: Database, tenant: UUID, query: str) -> int:
    async with db.tenant_tx(tenant) as tx:
        row = await (await tx.execute(query)).fetchone()
    return int(row[0])  # type: ignore[index]


async def test_a_run_completes_with_its_output_steps_audit_entries_and_events(
    workflows: Workflows, jobs: Jobs, tenant: UUID, owner: Principal, db: Database, effects: None
) -> None:
    calls: list[str] = []

    async def charge(order: Order, *, idempotency_key: str) -> Charge:
        calls.append(idempotency_key)
        return Charge(order.number * 10)

    async def book(tx: Tx, charge: Charge) -> int:
        await tx.execute("insert into public.effect values (%s, %s)", ["book", charge.amount])
        return charge.amount

    def print_label(amount: int) -> str:
        return f"label {amount}"

    @workflows.workflow
    async def fulfil(run: Run, order: Order) -> Receipt:
        charged = await run.step(charge, order)
        assert isinstance(charged, Charge)
        amount = await run.transaction(book, charged)
        assert await run.step(print_label, amount) == f"label {amount}"
        assert 0 <= await run.random() < 1
        return Receipt(total=amount, at=await run.now())

    handle = await fulfil.start(Order(number=4), by=owner)
    await jobs.worker().run_until_idle()
    result = await handle.result(5)
    assert isinstance(result, Receipt)
    assert result.total == 40
    run = await workflows.get(owner, handle.id)
    assert (run.state, run.workflow, run.version, run.attempt) == (RunState.COMPLETED, "fulfil", "1", 1)
    assert [(step.seq, step.kind, step.name.rpartition(".")[2], step.state) for step in run.steps] == [
        (0, StepKind.STEP, "charge", StepState.COMPLETED),
        (1, StepKind.TRANSACTION, "book", StepState.COMPLETED),
        (2, StepKind.STEP, "print_label", StepState.COMPLETED),
        (3, StepKind.VALUE, "random", StepState.COMPLETED),
        (4, StepKind.VALUE, "now", StepState.COMPLETED),
    ]
    assert calls == [f"{handle.id}:0"]
    assert await count(db, tenant, "select count(*) from backstay.audit_entry where action = 'run.started'") == 1
    assert await count(db, tenant, "select count(*) from backstay.audit_entry where action = 'run.completed'") == 1
    assert await count(db, tenant, "select count(*) from backstay.outbox where type = 'run.completed'") == 1


async def test_finished_steps_are_not_repeated_after_a_crash_in_the_code_between(
    workflows: Workflows, jobs: Jobs, tenant: UUID, effects: None, db: Database
) -> None:
    seen: list[Any] = []
    crashes = 2

    async def outside() -> int:
        seen.append("outside")
        return 7

    async def inside(tx: Tx) -> None:
        await tx.execute("insert into public.effect values ('x', 1)")

    @workflows.workflow(retry=SOON)
    async def shaky(run: Run, order: Order) -> int:
        nonlocal crashes
        number = await run.step(outside)
        await run.transaction(inside)
        moment, chance = await run.now(), await run.random()
        seen.append((moment, chance))
        if crashes:
            crashes -= 1
            raise ConnectionError("crash")
        return number

    handle = await shaky.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == 7
    assert seen.count("outside") == 1
    moments = [item for item in seen if item != "outside"]
    assert len(moments) == 3
    assert len(set(moments)) == 1
    assert await count(db, tenant, "select count(*) from public.effect") == 1


async def until_finished(workflows: Workflows, jobs: Jobs, *handles: Any) -> None:
    """Runs a worker until these runs have ended."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(jobs.worker().run(stop))
        try:
            for handle in handles:
                try:
                    await handle.result(20)
                except RunFailed:
                    continue
        finally:
            stop.set()


async def test_a_failing_step_is_retried_and_its_intents_are_counted(
    workflows: Workflows, jobs: Jobs, tenant: UUID
) -> None:
    keys: list[str] = []

    async def flaky(*, idempotency_key: str) -> str:
        keys.append(idempotency_key)
        if len(keys) < 3:
            raise ConnectionError("not yet")
        return "done"

    @workflows.workflow(retry=SOON)
    async def patient(run: Run, order: Order) -> str:
        try:
            return await run.step(flaky)
        except Exception:
            return "gave up early"

    handle = await patient.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == "done"
    assert keys == [f"{handle.id}:0"] * 3
    step = (await handle.get()).steps[0]
    assert (step.attempt, step.failures, step.error) == (3, 2, None)


async def test_a_step_that_failed_for_good_can_be_caught_and_is_raised_again_on_replay(
    workflows: Workflows, jobs: Jobs, tenant: UUID
) -> None:
    called = {"broken": 0, "compensate": 0}
    reasons: list[str] = []
    crashes = 1

    async def broken() -> None:
        called["broken"] += 1
        raise ConnectionError("down")

    async def compensate() -> None:
        called["compensate"] += 1

    @workflows.workflow(retry=SOON)
    async def careful(run: Run, order: Order) -> str:
        nonlocal crashes
        try:
            await run.step(broken)
        except StepFailed as error:
            reasons.append(error.detail)
            await run.step(compensate)
            if crashes:
                crashes -= 1
                raise RuntimeError("crash after the compensation") from None
            return "compensated"
        return "fine"

    handle = await careful.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == "compensated"
    assert called == {"broken": 3, "compensate": 1}
    assert len(reasons) == 2
    assert reasons[0] == reasons[1]
    assert "ConnectionError: down" in reasons[0]


async def test_a_step_that_fails_for_good_fails_the_run_and_says_why(
    workflows: Workflows, jobs: Jobs, tenant: UUID, owner: Principal, db: Database
) -> None:
    calls = 0

    async def refuse() -> None:
        nonlocal calls
        calls += 1
        raise Invalid("the card has expired")

    @workflows.workflow(retry=SOON)
    async def doomed(run: Run, order: Order) -> None:
        await run.step(refuse)

    handle = await doomed.start(Order(), by=owner)
    await until_finished(workflows, jobs, handle)
    with pytest.raises(RunFailed, match="the card has expired"):
        await handle.result(1)
    run = await handle.get()
    assert run.state == RunState.FAILED
    assert run.steps[0].state == StepState.FAILED
    assert calls == 1, "repeating a call that is wrong cannot help"
    assert await count(db, tenant, "select count(*) from backstay.outbox where type = 'run.failed'") == 1
    assert await count(db, tenant, "select count(*) from backstay.audit_entry where action = 'run.failed'") == 1


async def test_discard_in_a_step_fails_it_at_once(workflows: Workflows, jobs: Jobs, tenant: UUID) -> None:
    calls = 0

    async def hopeless() -> None:
        nonlocal calls
        calls += 1
        raise Discard("no such account")

    @workflows.workflow(retry=SOON)
    async def quick(run: Run, order: Order) -> None:
        await run.step(hopeless)

    handle = await quick.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    with pytest.raises(RunFailed, match="no such account"):
        await handle.result(1)
    assert calls == 1


async def test_a_transaction_that_fails_leaves_nothing(
    workflows: Workflows, jobs: Jobs, tenant: UUID, db: Database, effects: None
) -> None:
    attempts = 0

    async def half(tx: Tx) -> int:
        nonlocal attempts
        attempts += 1
        await tx.execute("insert into public.effect values ('half', %s)", [attempts])
        if attempts < 3:
            raise ConnectionError("in the middle")
        return attempts

    @workflows.workflow(retry=SOON)
    async def booking(run: Run, order: Order) -> int:
        return await run.transaction(half)

    handle = await booking.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == 3
    assert await count(db, tenant, "select count(*) from public.effect") == 1


@pytest.mark.parametrize("change", ["name", "arguments", "kind", "fewer"])
async def test_changed_code_parks_the_run_with_a_clear_message(
    workflows: Workflows, jobs: Jobs, tenant: UUID, change: str
) -> None:
    first = True

    async def one(number: int) -> int:
        return number

    async def other(number: int) -> int:
        return number

    async def in_tx(tx: Tx, number: int) -> int:
        return number

    @workflows.workflow(retry=SOON)
    async def unstable(run: Run, order: Order) -> int:
        nonlocal first
        if first:
            first = False
            await run.step(one, 1)
            raise ConnectionError("crash")
        if change == "name":
            await run.step(other, 1)
        elif change == "arguments":
            await run.step(one, 2)
        elif change == "kind":
            await run.transaction(in_tx, 1)
        return 0

    handle = await unstable.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    run = await handle.get()
    assert run.state == RunState.NONDETERMINISTIC
    assert "new version" in (run.error or "")
    assert "one" in (run.error or "")


async def test_start_rolls_back_with_its_transaction_and_is_idempotent_on_its_key(
    workflows: Workflows, jobs: Jobs, tenant: UUID, owner: Principal, other_tenant: UUID, db: Database
) -> None:
    @workflows.workflow
    async def noop(run: Run, order: Order) -> None: ...

    async def rolled_back() -> None:
        async with db.tenant_tx(tenant) as tx:
            await noop.start(Order(), tx=tx, key="k")
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await rolled_back()
    assert await workflows.list(owner) == []
    assert await jobs.list(owner) == []
    first = await noop.start(Order(number=1), tenant=tenant, key="k")
    assert (await noop.start(Order(number=2), tenant=tenant, key="k")).id == first.id
    assert (await noop.start(Order(), tenant=other_tenant, key="k")).id != first.id
    answers = await asyncio.gather(*(noop.start(Order(), tenant=tenant, key="race") for _ in range(8)))
    assert len({handle.id for handle in answers}) == 1
    await jobs.worker().run_until_idle()
    assert (await noop.start(Order(), tenant=tenant, key="k")).id == first.id
    assert len(await workflows.list(owner)) == 2


async def test_a_run_acts_for_whoever_started_it(
    workflows: Workflows, jobs: Jobs, owner: Principal, other_owner: Principal
) -> None:
    seen: list[Principal] = []

    @workflows.workflow
    async def who(run: Run, order: Order) -> None:
        seen.append(run.by)

    handle = await who.start(Order(), by=owner)
    await jobs.worker().run_until_idle()
    assert seen == [owner]
    with pytest.raises(RunNotFound):
        await workflows.get(other_owner, handle.id)


async def test_a_run_waits_for_the_version_it_began_with(workflows: Workflows, jobs: Jobs, tenant: UUID) -> None:
    async def old(run: Run, order: Order) -> str:
        return "old"

    async def new(run: Run, order: Order) -> str:
        return "new"

    v1 = workflows.workflow(name="job", version="1")(old)
    v2 = workflows.workflow(name="job", version="2")(new)
    handles = [await v1.start(Order(), tenant=tenant), await v2.start(Order(), tenant=tenant)]
    await jobs.worker().run_until_idle()
    assert [await handle.result(1) for handle in handles] == ["old", "new"]
    gone = await v1.start(Order(), tenant=tenant)
    del workflows._registered["job", "1"]
    await jobs.worker().run_until_idle()
    assert (await gone.get()).state == RunState.RUNNING
    with pytest.raises(TimedOut):
        await gone.result(0.01)


async def test_workers_that_were_lost_do_not_fail_a_run(
    workflows: Workflows, jobs: Jobs, tenant: UUID, db: Database
) -> None:
    """Leases lapse on a machine that has too much to do; the run is not at fault."""

    async def code(run: Run, order: Order) -> str:
        return "done"

    handle = await workflows.workflow(name="job")(code).start(Order(), tenant=tenant)
    async with db.system_tx() as tx:
        await tx.execute("update backstay.job set rescues = 500")
    await jobs.worker().run_until_idle()
    assert await handle.result(1) == "done"


async def test_an_output_that_is_not_what_the_annotation_says_fails_the_step_once(
    workflows: Workflows, jobs: Jobs, tenant: UUID
) -> None:
    calls = 0

    async def liar() -> int:
        nonlocal calls
        calls += 1
        return "seven"  # type: ignore[return-value]

    async def nul() -> str:
        return "a\0b"

    @workflows.workflow(retry=SOON)
    async def lied(run: Run, order: Order) -> None:
        await run.step(nul if order.number else liar)

    for number in (0, 1):
        handle = await lied.start(Order(number=number), tenant=tenant)
        await until_finished(workflows, jobs, handle)
        with pytest.raises(RunFailed, match="NotStorable"):
            await handle.result(1)
    assert calls == 1


async def test_steps_started_together_are_numbered_in_the_order_of_the_code(
    workflows: Workflows, jobs: Jobs, tenant: UUID
) -> None:
    crashes = 1

    async def slow(number: int) -> int:
        await asyncio.sleep(0.01 * (3 - number))
        return number

    @workflows.workflow(retry=SOON)
    async def fan_out(run: Run, order: Order) -> list[int]:
        nonlocal crashes
        answers = await asyncio.gather(*(run.step(slow, number) for number in range(3)))
        if crashes:
            crashes -= 1
            raise ConnectionError("crash")
        return list(answers)

    handle = await fan_out.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == [0, 1, 2]
    assert [step.attempt for step in (await handle.get()).steps] == [1, 1, 1]


async def test_a_finally_runs_no_step_while_the_run_is_suspended(
    workflows: Workflows, jobs: Jobs, tenant: UUID
) -> None:
    order_of_calls: list[str] = []

    async def flaky() -> None:
        order_of_calls.append("flaky")
        if order_of_calls.count("flaky") < 3:
            raise ConnectionError

    async def tidy() -> None:
        order_of_calls.append("tidy")

    @workflows.workflow(retry=SOON)
    async def tidying(run: Run, order: Order) -> None:
        try:
            await run.step(flaky)
        finally:
            await run.step(tidy)

    handle = await tidying.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    await handle.result(1)
    assert order_of_calls == ["flaky"] * 3 + ["tidy"]


async def test_a_worker_that_lost_the_run_can_write_nothing(
    workflows: Workflows, jobs: Jobs, tenant: UUID, db: Database, effects: None
) -> None:
    """The run is taken up by another claim in the middle of each kind of step."""
    lost = asyncio.Event()

    async def take_over(run: UUID) -> None:
        async with db.system_tx() as tx:
            await tx.execute("update backstay.run set fence = fence + 1 where id = %s", [run])

    async def outside(run: UUID) -> str:
        await take_over(run)
        return "stale"

    async def between(tx: Tx) -> None:
        await tx.execute("insert into public.effect values ('zombie', 1)")

    @workflows.workflow(retry=SOON)
    async def zombie(run: Run, order: Order) -> None:
        try:
            if order.number == 0:
                await run.step(outside, run.id)
            elif order.number == 1:
                await take_over(run.id)
                await run.transaction(between)
            else:
                await take_over(run.id)
        finally:
            lost.set()

    for number in range(3):
        handle = await zombie.start(Order(number=number), tenant=tenant)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(jobs.worker().run(stop))
            await lost.wait()
            stop.set()
        lost.clear()
        run = await handle.get()
        assert run.state == RunState.RUNNING
        assert [step.state for step in run.steps] in ([], [StepState.STARTED])
    assert await count(db, tenant, "select count(*) from public.effect") == 0


def test_a_function_of_another_form_is_refused(workflows: Workflows) -> None:
    async def no_input(run: Run) -> None: ...

    def not_async(run: Run, order: Order) -> None: ...

    for wrong in (no_input, not_async):
        with pytest.raises(ConfigurationError, match="must be"):
            workflows.workflow(wrong)  # type: ignore[call-overload]


def test_a_workflow_is_registered_once_for_each_version(workflows: Workflows) -> None:
    async def twice(run: Run, order: Order) -> None: ...

    workflows.workflow(twice)
    with pytest.raises(ConfigurationError, match="twice"):
        workflows.workflow(twice)
    assert workflows.workflow(version="2", retry=Retry(base=timedelta(seconds=1)))(twice).version == "2"
