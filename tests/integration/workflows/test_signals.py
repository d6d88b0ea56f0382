"""Signals and timers: each signal reaches its run once and in order; a timer is a job and nothing else."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import BaseModel

from backstay.app import App
from backstay.jobs import Jobs
from backstay.kernel.clock import ManualClock
from backstay.kernel.db import Database
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.principal import Principal
from backstay.workflows import (
    Run,
    RunEnded,
    RunNotFound,
    RunState,
    SignalInvalid,
    SignalTimedOut,
    SignalUnfit,
    StepKind,
    Workflows,
    waits_store,
)

from .conftest import SOON, Order

HOUR = timedelta(hours=1)


class Payment(BaseModel):
    amount: int


async def rows(db: Database, query: str, *values: Any) -> list[tuple[Any, ...]]:
    async with db.system_tx() as tx:
        return await (await tx.execute(query, values)).fetchall()


class TestSleep:
    async def test_a_run_that_sleeps_four_hours_is_one_scheduled_job(
        self, slow_clock: tuple[Workflows, Jobs], manual_clock: ManualClock, owner: Principal, db: Database
    ) -> None:
        workflows, jobs = slow_clock
        began = manual_clock.now()

        @workflows.workflow
        async def patient(run: Run, order: Order) -> list[datetime]:
            await run.sleep(4 * HOUR)
            first = await run.now()
            await run.sleep(until=began + 6 * HOUR)
            await run.sleep(until=began)
            await run.sleep(timedelta())
            return [first, await run.now()]

        handle = await patient.start(Order(), by=owner)
        for advance, due in ((0 * HOUR, 4), (3 * HOUR, 4), (2 * HOUR, 6)):
            manual_clock.advance(advance)
            await jobs.worker().run_until_idle()
            assert (await handle.get()).state == RunState.WAITING
            assert await rows(db, "select state, run_at from backstay.job") == [("scheduled", began + due * HOUR)]
        manual_clock.advance(HOUR)
        await jobs.worker().run_until_idle()
        assert await handle.result(1) == [began + 5 * HOUR, began + 6 * HOUR]
        kinds = [step.kind for step in (await handle.get()).steps]
        assert kinds.count(StepKind.TIMER) == 4

    async def test_a_wake_up_before_its_time_does_not_end_a_sleep(
        self, slow_clock: tuple[Workflows, Jobs], manual_clock: ManualClock, owner: Principal, db: Database
    ) -> None:
        workflows, jobs = slow_clock

        @workflows.workflow
        async def two_waits(run: Run, order: Order) -> list[Any]:
            return list(await asyncio.gather(run.sleep(2 * HOUR), run.signal("early")))

        handle = await two_waits.start(Order(), by=owner)
        await jobs.worker().run_until_idle()
        due = manual_clock.now() + 2 * HOUR
        manual_clock.advance(HOUR)
        await workflows.send_signal(handle.id, "early", 1, by=owner)
        await jobs.worker().run_until_idle()
        assert (await handle.get()).state == RunState.WAITING
        assert await rows(db, "select state, run_at from backstay.job") == [("scheduled", due)]
        manual_clock.advance(HOUR)
        await jobs.worker().run_until_idle()
        assert await handle.result(1) == [None, 1]

    async def test_a_sleep_does_not_hold_back_the_retry_of_a_step_beside_it(
        self, slow_clock: tuple[Workflows, Jobs], manual_clock: ManualClock, owner: Principal
    ) -> None:
        workflows, jobs = slow_clock
        calls: list[str] = []

        async def flaky() -> str:
            calls.append("flaky")
            if len(calls) < 3:
                raise ConnectionError("not yet")
            return "done"

        @workflows.workflow(retry=SOON)
        async def beside(run: Run, order: Order) -> list[Any]:
            return list(await asyncio.gather(run.sleep(9 * HOUR), run.step(flaky)))

        handle = await beside.start(Order(), by=owner)
        for _ in range(4):
            await jobs.worker().run_until_idle()
            manual_clock.advance(timedelta(seconds=1))
        assert len(calls) == 3, "two retries happened while the run sleeps"
        assert (await handle.get()).state == RunState.WAITING
        manual_clock.advance(9 * HOUR)
        await jobs.worker().run_until_idle()
        assert await handle.result(1) == [None, "done"]

    async def test_a_branch_beside_a_wait_goes_as_far_as_it_can(
        self, workflows: Workflows, jobs: Jobs, owner: Principal
    ) -> None:
        done: list[int] = []

        async def step(number: int) -> None:
            done.append(number)

        @workflows.workflow
        async def branches(run: Run, order: Order) -> str:
            async def chain() -> None:
                for number in range(4):
                    await run.step(step, number)

            try:
                word, _ = await asyncio.gather(run.signal("go", str), chain())
            finally:
                await run.step(step, 99)
            return str(word)

        handle = await branches.start(Order(), by=owner)
        await jobs.worker().run_until_idle()
        assert done == [0, 1, 2, 3]
        run = await handle.get()
        assert run.state == RunState.WAITING
        await workflows.send_signal(handle.id, "go", "went", by=owner)
        await jobs.worker().run_until_idle()
        assert await handle.result(1) == "went"
        assert done == [0, 1, 2, 3, 99]

    async def test_what_is_no_time_to_sleep_is_refused(
        self, workflows: Workflows, jobs: Jobs, owner: Principal
    ) -> None:
        said: list[str] = []

        @workflows.workflow
        async def confused(run: Run, order: Order) -> None:
            for options in ({}, {"duration": HOUR, "until": datetime.now(UTC)}, {"until": datetime.now()}):
                try:
                    await run.sleep(**options)
                except ConfigurationError as error:
                    said.append(error.detail)

        handle = await confused.start(Order(), by=owner)
        await jobs.worker().run_until_idle()
        await handle.result(1)
        assert len(said) == 3


class TestSignals:
    async def test_signals_come_once_and_in_order_before_and_after_they_are_awaited(
        self, workflows: Workflows, jobs: Jobs, owner: Principal, db: Database
    ) -> None:
        @workflows.workflow
        async def collect(run: Run, order: Order) -> list[int]:
            return [(await run.signal("paid", Payment)).amount for _ in range(4)]

        handle = await collect.start(Order(), by=owner)
        for amount in (1, 2):
            await workflows.send_signal(handle.id, "paid", Payment(amount=amount), by=owner)
        await workflows.send_signal(handle.id, "other", by=owner)
        await jobs.worker().run_until_idle()
        assert (await handle.get()).state == RunState.WAITING
        assert await rows(db, "select count(*) from backstay.job") == [(0,)]
        for amount in (3, 4):
            await workflows.send_signal(handle.id, "paid", {"amount": amount}, by=owner)
        await jobs.worker().run_until_idle()
        assert await handle.result(1) == [1, 2, 3, 4]
        sent = await workflows.signals.list(owner, handle.id)
        assert [(signal.name, signal.number, signal.taken_by) for signal in sent] == [
            ("paid", 1, 0),
            ("paid", 2, 1),
            ("other", 3, None),
            ("paid", 4, 2),
            ("paid", 5, 3),
        ]
        counted = "select count(*) from backstay.{} where {} = 'run.signalled'"
        assert await rows(db, counted.format("outbox", "type")) == [(5,)]
        assert await rows(db, counted.format("audit_entry", "action")) == [(5,)]

    async def test_a_key_sends_a_signal_once_also_at_the_same_time_and_after_the_end(
        self, workflows: Workflows, jobs: Jobs, owner: Principal
    ) -> None:
        @workflows.workflow
        async def one(run: Run, order: Order) -> Any:
            return await run.signal("word")

        handle = await one.start(Order(), by=owner)
        await jobs.worker().run_until_idle()
        sent = await asyncio.gather(
            *(workflows.send_signal(handle.id, "word", number, by=owner, key="k") for number in range(6))
        )
        assert len({(signal.number, signal.payload) for signal in sent}) == 1
        await jobs.worker().run_until_idle()
        assert await handle.result(1) == sent[0].payload
        again = await workflows.send_signal(handle.id, "word", 99, by=owner, key="k")
        assert (again.number, again.payload) == (1, sent[0].payload)
        with pytest.raises(RunEnded, match="completed"):
            await workflows.send_signal(handle.id, "word", by=owner, key="another")

    async def test_a_signal_in_the_moment_between_asking_and_waiting_is_not_lost(
        self, workflows: Workflows, jobs: Jobs, owner: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The signal comes when the wait is recorded and the run is not yet parked."""
        park = waits_store.park

        @workflows.workflow
        async def hurried(run: Run, order: Order) -> list[int]:
            return [await run.signal("n", int) for _ in range(3)]

        handle = await hurried.start(Order(), by=owner)
        numbers = iter(range(3))

        async def meanwhile(tx: Any, taken: Any) -> bool:
            if (number := next(numbers, None)) is not None:
                await workflows.send_signal(handle.id, "n", number, by=owner)
            return await park(tx, taken)

        monkeypatch.setattr(waits_store, "park", meanwhile)
        await jobs.worker().run_until_idle()
        assert await handle.result(1) == [0, 1, 2]

    async def test_no_signal_in_time_is_an_error_that_the_workflow_may_catch(
        self, slow_clock: tuple[Workflows, Jobs], manual_clock: ManualClock, owner: Principal
    ) -> None:
        workflows, jobs = slow_clock
        reasons: list[str] = []

        @workflows.workflow
        async def waiting(run: Run, order: Order) -> str:
            try:
                return await run.signal("word", str, timeout=HOUR)
            except SignalTimedOut as error:
                reasons.append(error.detail)
            return await run.signal("word", str, timeout=HOUR)

        handle = await waiting.start(Order(), by=owner)
        await jobs.worker().run_until_idle()
        manual_clock.advance(HOUR)
        await jobs.worker().run_until_idle()
        assert (await handle.get()).state == RunState.WAITING
        await workflows.send_signal(handle.id, "word", "late", by=owner)
        await jobs.worker().run_until_idle()
        assert await handle.result(1) == "late"
        assert len(set(reasons)) == 1

    async def test_a_signal_of_the_wrong_type_is_refused_when_it_was_declared_and_told_when_not(
        self, workflows: Workflows, jobs: Jobs, owner: Principal
    ) -> None:
        async def strict(run: Run, order: Order) -> int:
            return (await run.signal("paid", Payment)).amount

        async def lax(run: Run, order: Order) -> str:
            try:
                await run.signal("paid", Payment)
            except SignalUnfit as error:
                return error.detail
            return "fits"

        declared = await workflows.workflow(signals={"paid": Payment})(strict).start(Order(), by=owner)
        undeclared = await workflows.workflow(lax).start(Order(), by=owner)
        await jobs.worker().run_until_idle()
        with pytest.raises(SignalInvalid) as refused:
            await workflows.send_signal(declared.id, "paid", {"amount": "much"}, by=owner)
        assert refused.value.errors[0].field == "payload.amount"
        with pytest.raises(SignalInvalid, match="takes no signal 'payed'; it takes paid"):
            await workflows.send_signal(declared.id, "payed", {"amount": 1}, by=owner)
        for run, amount in ((declared, 7), (undeclared, "much")):
            await workflows.send_signal(run.id, "paid", {"amount": amount}, by=owner)
        await jobs.worker().run_until_idle()
        assert await declared.result(1) == 7
        assert "payload.amount" in await undeclared.result(1)

    async def test_strangers_and_hostile_words_are_refused(
        self, workflows: Workflows, jobs: Jobs, owner: Principal, other_owner: Principal
    ) -> None:
        @workflows.workflow
        async def one(run: Run, order: Order) -> Any:
            return await run.signal("word")

        handle = await one.start(Order(), by=owner)
        for by, run in ((other_owner, handle.id), (owner, uuid4())):
            with pytest.raises(RunNotFound):
                await workflows.send_signal(run, "word", by=by)
            with pytest.raises(RunNotFound):
                await workflows.signals.list(by, run)
        for name, payload, key in (("", 1, None), ("a\0", 1, None), ("x" * 201, 1, None), ("w", "a\0b", None)):
            with pytest.raises(SignalInvalid):
                await workflows.send_signal(handle.id, name, payload, by=owner, key=key)
        with pytest.raises(SignalInvalid):
            await workflows.send_signal(handle.id, "word", 1, by=owner, key="k" * 501)

    async def test_over_http(self, app: App, client: httpx.AsyncClient, other_client: httpx.AsyncClient) -> None:
        @app.workflow(signals={"paid": Payment})
        async def bill(run: Run, order: Order) -> int:
            return (await run.signal("paid", Payment)).amount

        id = UUID((await client.post("/api/runs", json={"workflow": "bill"})).json()["id"])
        worker = app.jobs.worker
        await worker(queues=["workflows"]).run_until_idle()
        body = {"name": "paid", "payload": {"amount": 5}, "key": "k"}
        assert (await other_client.post(f"/api/runs/{id}/signals", json=body)).status_code == 404
        wrong = await client.post(f"/api/runs/{id}/signals", json={"name": "paid", "payload": {}})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "signal_invalid")
        for _ in range(2):
            sent = await client.post(f"/api/runs/{id}/signals", json=body)
            assert (sent.status_code, sent.json()["number"]) == (201, 1)
        await worker(queues=["workflows"]).run_until_idle()
        assert (await client.get(f"/api/runs/{id}")).json()["output"] == 5
        assert [item["taken_by"] for item in (await client.get(f"/api/runs/{id}/signals")).json()["items"]] == [0]
        late = await client.post(f"/api/runs/{id}/signals", json={"name": "paid", "payload": {"amount": 1}})
        assert (late.status_code, late.json()["code"]) == (409, "run_ended")
