"""Steps of many runs are recorded together: each behind its own fence, and none in another's way."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest

from backstay.jobs import Jobs
from backstay.kernel.db import Database, Tx
from backstay.workflows import Run, StepKind, StepState, Workflow, Workflows
from backstay.workflows.models import StepWrite, Superseded, Suspend, Taken
from backstay.workflows.recorder import Journal, Recorder

from .conftest import SOON, Order
from .test_runs import until_finished

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PRINCIPAL = {"id": str(UUID(int=1)), "name": "test", "permissions": [], "key": None, "feature": None}


def intent(seq: int, name: str = "call") -> StepWrite:
    return StepWrite(seq, StepKind.STEP, name, b"h", StepState.STARTED, NOW)


def output(seq: int, text: str = "1", name: str = "call") -> StepWrite:
    return StepWrite(seq, StepKind.STEP, name, b"h", StepState.COMPLETED, NOW, output=text, finished_at=NOW)


@pytest.fixture
def noop(workflows: Workflows) -> Workflow[Order, None]:
    @workflows.workflow
    async def noop(run: Run, order: Order) -> None: ...

    return noop


@pytest.fixture
def recorder(db: Database) -> Recorder:
    return Recorder(db)


async def taken(db: Database, noop: Workflow[Order, None], tenant: UUID, fence: int = 7) -> Taken:
    """A run that a claim with this fence has taken up."""
    handle = await noop.start(Order(), tenant=tenant)
    async with db.system_tx() as tx:
        await tx.execute("update backstay.run set state = 'running', fence = %s where id = %s", [fence, handle.id])
    return Taken(tenant, handle.id, "noop", "1", None, None, None, None, PRINCIPAL, "{}", fence, 1)


async def steps(db: Database, run: Taken) -> list[tuple[object, ...]]:
    async with db.tenant_tx(run.tenant_id) as tx:
        found = await tx.execute(
            "select seq, state, attempt, failures, output, error from backstay.step where run_id = %s order by seq",
            [run.id],
        )
        return await found.fetchall()


async def test_a_step_runs_only_once_its_intent_and_the_outputs_before_it_are_committed(
    workflows: Workflows, jobs: Jobs, tenant: UUID, db: Database
) -> None:
    seen: list[list[tuple[object, ...]]] = []

    async def look(run: UUID) -> int:
        async with db.tenant_tx(tenant) as tx:
            found = await tx.execute("select seq, state from backstay.step where run_id = %s order by seq", [run])
            seen.append(await found.fetchall())
        return len(seen)

    async def look_in(tx: Tx, run: UUID) -> int:
        return await look(run)

    @workflows.workflow
    async def looking(run: Run, order: Order) -> None:
        await run.step(look, run.id)
        await run.random()
        await run.step(look, run.id)
        await run.transaction(look_in, run.id)

    handle = await looking.start(Order(), tenant=tenant)
    await jobs.worker().run_until_idle()
    await handle.result(1)
    assert seen == [
        [(0, "started")],
        [(0, "completed"), (1, "completed"), (2, "started")],
        [(0, "completed"), (1, "completed"), (2, "completed")],
    ]


async def test_a_run_that_another_worker_has_is_refused_and_its_neighbours_are_recorded(
    db: Database, recorder: Recorder, noop: Workflow[Order, None], tenant: UUID, other_tenant: UUID
) -> None:
    mine, lost, other = [await taken(db, noop, whose) for whose in (tenant, tenant, other_tenant)]
    async with db.system_tx() as tx:
        await tx.execute("update backstay.run set fence = 8 where id = %s", [lost.id])
    journals = [Journal(recorder, run) for run in (mine, lost, other)]
    for journal in journals:
        journal.add(intent(0))
    answers = await asyncio.gather(*(journal.written() for journal in journals), return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), Superseded, type(None)]
    assert [len(await steps(db, run)) for run in (mine, lost, other)] == [1, 0, 1]
    journals[1].add(intent(1))
    with pytest.raises(Superseded):
        await journals[1].written()


async def test_a_row_that_the_database_refuses_fails_alone(
    db: Database, recorder: Recorder, noop: Workflow[Order, None], tenant: UUID
) -> None:
    good, bad = await taken(db, noop, tenant), await taken(db, noop, tenant)
    journals = [Journal(recorder, run) for run in (good, bad)]
    journals[0].add(output(0))
    journals[1].add(output(0, text='"\\u0000"'))
    answers = await asyncio.gather(*(journal.written() for journal in journals), return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), Suspend]
    assert await steps(db, good) == [(0, "completed", 1, 0, 1, None)]
    assert await steps(db, bad) == []


async def test_what_a_run_adds_while_it_is_written_follows_in_one_more_commit_and_in_order(
    db: Database, recorder: Recorder, noop: Workflow[Order, None], tenant: UUID
) -> None:
    run = await taken(db, noop, tenant)
    journal = Journal(recorder, run)
    journal.add(intent(0))
    first = asyncio.ensure_future(journal.written())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for step in (output(0), intent(1), intent(2)):
        journal.add(step)
    await asyncio.gather(first, journal.written())
    assert [row[:3] for row in await steps(db, run)] == [(0, "completed", 1), (1, "started", 1), (2, "started", 1)]


async def test_a_second_intent_and_a_failure_are_counted_and_an_ended_step_stays(
    db: Database, recorder: Recorder, noop: Workflow[Order, None], tenant: UUID
) -> None:
    run = await taken(db, noop, tenant)
    failure = StepWrite(0, StepKind.STEP, "call", b"h", StepState.STARTED, NOW, error="down", failures=1)
    for step in (intent(0), failure, intent(0)):
        assert await recorder.record(run, [step])
    assert await steps(db, run) == [(0, "started", 2, 1, None, "down")]
    assert await recorder.record(run, [output(0)])
    assert not await recorder.record(run, [output(0, text="2")])
    assert not await recorder.record(run, [failure])
    assert await steps(db, run) == [(0, "completed", 2, 1, 1, None)]


async def test_a_run_whose_transaction_takes_long_keeps_no_other_run_waiting(
    workflows: Workflows, jobs: Jobs, tenant: UUID
) -> None:
    """The first run holds its row until the second has got through its steps; a step of the first beside it waits."""
    passed = asyncio.Event()

    async def hold(tx: Tx) -> str:
        await passed.wait()
        return "held"

    async def beside() -> str:
        return "beside"

    async def through() -> None: ...

    @workflows.workflow
    async def holding(run: Run, order: Order) -> list[str]:
        return list(await asyncio.gather(run.transaction(hold), run.step(beside)))

    @workflows.workflow
    async def passing(run: Run, order: Order) -> None:
        for _ in range(3):
            await run.step(through)
        passed.set()

    first = await holding.start(Order(), tenant=tenant)
    second = await passing.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, second, first)
    assert await first.result(1) == ["held", "beside"]
    assert [step.state for step in (await first.get()).steps] == [StepState.COMPLETED] * 2


async def test_while_steps_cannot_be_recorded_the_code_sees_no_error_and_goes_on_later(
    workflows: Workflows, jobs: Jobs, tenant: UUID, database_url: str
) -> None:
    calls = {"first": 0, "second": 0}
    caught: list[BaseException] = []
    admin = await psycopg.AsyncConnection.connect(database_url, autocommit=True)

    async def first() -> None:
        calls["first"] += 1
        if calls["first"] == 1:
            await admin.execute("alter function backstay.record_steps(json) rename to gone")

    async def second() -> str:
        calls["second"] += 1
        return "done"

    @workflows.workflow(retry=SOON)
    async def patient(run: Run, order: Order) -> str:
        try:
            await run.step(first)
            return await run.step(second)
        except Exception as error:
            caught.append(error)
            raise
        finally:
            if calls == {"first": 1, "second": 0}:
                await admin.execute("alter function backstay.gone(json) rename to record_steps")

    async with admin:
        handle = await patient.start(Order(), tenant=tenant)
        await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == "done"
    assert calls == {"first": 2, "second": 1}
    assert caught == []
