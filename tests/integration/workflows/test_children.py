"""Children, cancelling and deadlines: a run ends once, and takes with it what waits for it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from backstay.app import App
from backstay.jobs import Jobs, Snooze
from backstay.kernel.clock import ManualClock
from backstay.kernel.db import Database, Tx
from backstay.kernel.principal import Principal
from backstay.workflows import (
    ChildFailed,
    Run,
    RunEnded,
    RunFailed,
    RunInputInvalid,
    RunNotFound,
    RunState,
    StepState,
    Workflow,
    Workflows,
    waits_store,
)
from backstay.workflows.approvals import ApprovalState

from .conftest import SOON, Order

HOUR = timedelta(hours=1)


async def rows(db: Database, query: str, *values: Any) -> list[tuple[Any, ...]]:
    async with db.system_tx() as tx:
        return await (await tx.execute(query, values)).fetchall()


@pytest.fixture
def working(jobs: Jobs) -> Callable[[], Any]:
    """A worker that runs meanwhile."""

    @asynccontextmanager
    async def work() -> AsyncIterator[None]:
        stop = asyncio.Event()
        worker = asyncio.create_task(jobs.worker().run(stop))
        try:
            yield
        finally:
            stop.set()
            await worker

    return work


@pytest.fixture
def doubling(workflows: Workflows) -> Workflow[Order, int]:
    @workflows.workflow(retry=SOON)
    async def doubling(run: Run, order: Order) -> int:
        if order.number < 0:
            raise ValueError("below zero")
        await run.signal("go")
        return order.number * 2

    return doubling


class TestChildren:
    async def test_a_parent_waits_for_its_children_and_gets_what_they_return(
        self, workflows: Workflows, jobs: Jobs, owner: Principal, db: Database, doubling: Workflow[Order, int]
    ) -> None:
        @workflows.workflow
        async def family(run: Run, order: Order) -> list[int]:
            return list(await asyncio.gather(*(run.child(doubling, Order(number=number)) for number in range(3))))

        handle = await family.start(Order(), by=owner)
        await jobs.worker().run_until_idle()
        assert (await handle.get()).state == RunState.WAITING
        assert await rows(db, "select count(*) from backstay.job") == [(0,)]
        children = await workflows.list(owner, parent=handle.id)
        assert [(child.workflow, child.parent, child.state) for child in children] == [
            ("doubling", handle.id, RunState.WAITING)
        ] * 3
        for child in children:
            await workflows.send_signal(child.id, "go", by=owner)
        await jobs.worker().run_until_idle()
        assert await handle.result(1) == [0, 2, 4]
        assert await rows(db, "select count(*) from backstay.run") == [(4,)]

    async def test_a_child_that_fails_is_an_error_that_the_parent_may_catch_and_sees_again_on_replay(
        self, workflows: Workflows, jobs: Jobs, owner: Principal, working: Callable[[], Any], doubling: Any
    ) -> None:
        seen: list[ChildFailed] = []

        @workflows.workflow(retry=SOON)
        async def careful(run: Run, order: Order) -> str:
            try:
                await run.child(doubling, Order(number=-1))
            except ChildFailed as error:
                seen.append(error)
                if len(seen) == 1:
                    raise ConnectionError("crash") from None
                return error.state
            return "fine"

        @workflows.workflow
        async def careless(run: Run, order: Order) -> None:
            await run.child(doubling, Order(number=-1))

        async with working():
            assert await (await careful.start(Order(), by=owner)).result(20) == RunState.FAILED
            with pytest.raises(RunFailed, match="below zero"):
                await (await careless.start(Order(), by=owner)).result(20)
        assert seen[0].run == seen[1].run
        assert "below zero" in seen[1].detail

    async def test_the_child_starts_with_the_step_or_not_at_all(
        self, workflows: Workflows, jobs: Jobs, owner: Principal, db: Database, doubling: Any, monkeypatch: Any
    ) -> None:
        """The database fails after the child was started and before the step is committed."""
        failures = 2
        start = workflows.start_with

        async def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal failures
            handle = await start(*args, **kwargs)
            if failures:
                failures -= 1
                raise ConnectionError("lost")
            return handle

        @workflows.workflow
        async def parent(run: Run, order: Order) -> int:
            return await run.child(doubling, Order(number=1))

        handle = await parent.start(Order(), by=owner)
        object.__setattr__(workflows._around, "start", failing)
        for _ in range(3):
            await jobs.worker().run_until_idle()
            await rows(db, "update backstay.job set run_at = now(), state = 'available' returning 1")
        await jobs.worker().run_until_idle()
        assert failures == 0
        assert len(await workflows.list(owner, parent=handle.id)) == 1


class TestCancelling:
    async def test_a_run_that_waits_is_cancelled_at_once_with_what_it_waits_for(
        self, workflows: Workflows, jobs: Jobs, owner: Principal, db: Database, doubling: Any
    ) -> None:
        @workflows.workflow
        async def waiting(run: Run, order: Order) -> None:
            await asyncio.gather(run.approve({"a": 1}), run.child(doubling, Order()), run.sleep(HOUR))

        handle = await waiting.start(Order(), by=owner)
        await jobs.worker().run_until_idle()
        [child] = await workflows.list(owner, parent=handle.id)
        cancelled = await workflows.cancel(owner, handle.id, reason="not needed")
        assert (cancelled.state, cancelled.error) == (RunState.CANCELLED, "cancelled by owner: not needed")
        [approval] = await workflows.approvals.list(owner, state=None)
        assert approval.state == ApprovalState.WITHDRAWN
        await jobs.worker().run_until_idle()
        ended = await workflows.get(owner, child.id)
        assert (ended.state, str(handle.id) in str(ended.error)) == (RunState.CANCELLED, True)
        assert await rows(db, "select count(*) from backstay.job") == [(0,)]
        assert await rows(db, "select count(*) from backstay.outbox where type = 'run.cancelled'") == [(2,)]
        with pytest.raises(RunEnded):
            await workflows.cancel(owner, handle.id)
        with pytest.raises(RunFailed, match="not needed"):
            await handle.result(1)

    async def test_a_run_that_has_not_begun_never_begins(
        self, workflows: Workflows, jobs: Jobs, owner: Principal, doubling: Any
    ) -> None:
        handle = await doubling.start(Order(number=-1), by=owner)
        await handle.cancel()
        await jobs.worker().run_until_idle()
        run = await handle.get()
        assert (run.state, run.attempt) == (RunState.CANCELLED, 0)

    async def test_a_running_step_learns_of_it_ends_in_peace_and_no_other_begins(
        self, workflows: Workflows, owner: Principal, working: Callable[[], Any], db: Database
    ) -> None:
        begun, others = asyncio.Event(), []

        @workflows.workflow
        async def long(run: Run, order: Order) -> None:
            async def look() -> str:
                begun.set()
                while not run.cancelled:  # noqa: ASYNC110 -- as a step may do that cannot be woken
                    await asyncio.sleep(0.005)
                return "seen"

            await run.step(look)
            try:
                await run.step(others.append, 1)
            finally:
                await run.step(others.append, 2)

        async with working():
            handle = await long.start(Order(), by=owner)
            await begun.wait()
            asked = await handle.cancel("stop it")
            assert (asked.state, asked.cancelling) == (RunState.RUNNING, True)
            await handle.cancel("again")
            with pytest.raises(RunFailed, match="stop it"):
                await handle.result(20)
        run = await handle.get()
        assert run.state == RunState.CANCELLED
        assert [(step.state, step.output) for step in run.steps] == [(StepState.COMPLETED, "seen")]
        assert others == []
        assert await rows(db, "select count(*) from backstay.outbox where type = 'run.cancel_requested'") == [(1,)]

    async def test_a_step_that_does_not_look_is_cancelled_after_the_grace(
        self, workflows: Workflows, owner: Principal, working: Callable[[], Any]
    ) -> None:
        workflows.cancellations.grace = timedelta(milliseconds=50)
        begun, release, ended = asyncio.Event(), threading.Event(), []

        async def deaf() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("deaf")

        def thread() -> None:
            release.wait(20)

        @workflows.workflow
        async def stubborn(run: Run, order: Order) -> None:
            await asyncio.gather(run.step(deaf), run.step(deaf), run.step(thread))

        async with working():
            handle = await stubborn.start(Order(), by=owner)
            await begun.wait()
            await handle.cancel()
            with pytest.raises(RunFailed, match="cancelled by owner"):
                await handle.result(20)
            release.set()
            assert ended == ["deaf"] * 2
            # the lane that ran it goes on
            again = await stubborn.start(Order(), by=owner)
            begun.clear()
            await begun.wait()
            await again.cancel()
            with pytest.raises(RunFailed):
                await again.result(20)

    async def test_a_cancellation_in_the_moment_before_waiting_is_not_lost(
        self, workflows: Workflows, jobs: Jobs, owner: Principal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        park = waits_store.park

        @workflows.workflow
        async def waiting(run: Run, order: Order) -> None:
            await run.signal("never")

        handle = await waiting.start(Order(), by=owner)

        async def meanwhile(tx: Tx, taken: Any) -> bool:
            assert (await workflows.cancel(owner, handle.id)).state == RunState.RUNNING
            return await park(tx, taken)

        monkeypatch.setattr(waits_store, "park", meanwhile)
        await jobs.worker().run_until_idle()
        assert (await handle.get()).state == RunState.CANCELLED

    async def test_strangers_cancel_nothing(
        self, workflows: Workflows, owner: Principal, other_owner: Principal, doubling: Any
    ) -> None:
        handle = await doubling.start(Order(), by=owner)
        for by, id in ((other_owner, handle.id), (owner, uuid4())):
            with pytest.raises(RunNotFound):
                await workflows.cancel(by, id)
        assert (await handle.get()).state == RunState.PENDING

    async def test_over_http(self, app: App, client: httpx.AsyncClient, other_client: httpx.AsyncClient) -> None:
        @app.workflow
        async def waiting(run: Run, order: Order) -> None:
            await run.signal("never")

        deadline = "2999-01-01T00:00:00Z"
        body = {"workflow": "waiting", "deadline": deadline}
        id = (await client.post("/api/runs", json=body)).json()["id"]
        assert (await client.get(f"/api/runs/{id}")).json()["deadline"] == deadline
        naive = await client.post("/api/runs", json={**body, "deadline": "2999-01-01T00:00:00"})
        assert (naive.status_code, naive.json()["code"]) == (422, "run_input_invalid")
        assert (await other_client.post(f"/api/runs/{id}/cancel", json={})).status_code == 404
        done = await client.post(f"/api/runs/{id}/cancel", json={"reason": "enough"})
        assert (done.status_code, done.json()["state"]) == (200, "cancelled")
        assert (await client.post(f"/api/runs/{id}/cancel", json={})).json()["code"] == "run_ended"


class TestDeadlines:
    @pytest.mark.parametrize("how", ["workflow", "start", "child", "backoff"])
    async def test_a_run_that_waits_past_its_deadline_is_cancelled_by_a_timer(
        self, slow_clock: tuple[Workflows, Jobs], manual_clock: ManualClock, owner: Principal, how: str
    ) -> None:
        workflows, jobs = slow_clock

        async def busy() -> None:
            raise Snooze(9 * HOUR)

        async def waits(run: Run, order: Order) -> None:
            if how == "backoff":
                await run.step(busy)
            await run.signal("never")

        async def parent(run: Run, order: Order) -> None:
            await run.child(waiting, order, deadline=5 * HOUR)

        waiting = workflows.workflow(name="waits", deadline=2 * HOUR if how == "workflow" else None)(waits)
        outer = workflows.workflow(name="outer")(parent)
        started = outer if how == "child" else waiting
        handle = await started.start(Order(), by=owner, deadline=None if how == "workflow" else 2 * HOUR)
        await jobs.worker().run_until_idle()
        manual_clock.advance(2 * HOUR - timedelta(seconds=1))
        await jobs.worker().run_until_idle()
        assert not (await handle.get()).state.finished
        manual_clock.advance(timedelta(seconds=1))
        await jobs.worker().run_until_idle()
        assert {run.state for run in await workflows.list(owner)} == {RunState.CANCELLED}
        assert ((await handle.get()).error or "").startswith("deadline: ")

    async def test_a_run_whose_code_runs_past_it_is_stopped(
        self, workflows: Workflows, owner: Principal, working: Callable[[], Any]
    ) -> None:
        @workflows.workflow
        async def long(run: Run, order: Order) -> None:
            async def look() -> None:
                while not run.cancelled:  # noqa: ASYNC110 -- as a step may do that cannot be woken
                    await asyncio.sleep(0.005)

            await run.step(look)

        async with working():
            handle = await long.start(Order(), by=owner, deadline=timedelta(milliseconds=300))
            with pytest.raises(RunFailed, match="deadline"):
                await handle.result(20)

    async def test_a_deadline_without_a_time_zone_is_refused(self, owner: Principal, doubling: Any) -> None:
        with pytest.raises(RunInputInvalid, match="time zone"):
            await doubling.start(Order(), by=owner, deadline=datetime(2999, 1, 1))
