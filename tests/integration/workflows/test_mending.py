"""Edits of live code, and runs that are retried, moved and forked."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from backstay.app import App
from backstay.jobs import Jobs
from backstay.kernel.db import Database
from backstay.kernel.errors import Invalid
from backstay.kernel.ids import new_id
from backstay.kernel.principal import Principal
from backstay.workflows import (
    Run,
    RunNotFound,
    RunNotMendable,
    RunState,
    StepOutOfRange,
    UnknownVersion,
    Workflow,
    Workflows,
)

from .conftest import SOON, Order
from .test_runs import count, until_finished


class Shop:
    """A workflow whose code the tests change between two attempts, and what its steps did."""

    def __init__(self, workflows: Workflows) -> None:
        self.calls: list[str] = []
        self.broken: set[str] = set()
        self.code: Any = None

        async def sell(run: Run, order: Order) -> list[str]:
            done: list[str] = await self.code(run)
            return done

        self.one = workflows.workflow(name="sell", retry=SOON)(sell)

    async def call(self, what: str) -> str:
        self.calls.append(what)
        if what in self.broken:
            raise Invalid(f"{what} is broken")
        return what


@pytest.fixture
def shop(workflows: Workflows) -> Shop:
    return Shop(workflows)


async def parked(shop: Shop, workflows: Workflows, jobs: Jobs, tenant: UUID, code: Any) -> Any:
    """A run that has ended with this code."""
    shop.code = code
    handle = await shop.one.start(Order(), tenant=tenant)
    await until_finished(workflows, jobs, handle)
    return handle


async def test_an_edit_holds_for_runs_that_come_by_later_and_not_for_those_that_had_passed(
    shop: Shop, workflows: Workflows, jobs: Jobs, tenant: UUID
) -> None:
    crash = True

    async def before(run: Run) -> list[str]:
        nonlocal crash
        said = [await run.step(shop.call, "old")]
        if crash:
            crash = False
            shop.code = edited
            raise ConnectionError("the deploy")
        return said

    async def edited(run: Run) -> list[str]:
        nonlocal crash
        first = "new" if run.patched("greeting") else "old"
        said = [await run.step(shop.call, first), await run.step(shop.call, "both")]
        second = run.patched("greeting"), run.patched("later")
        if crash:
            crash = False
            raise ConnectionError("once more")
        return [*said, *map(str, second)]

    async def cleaned(run: Run) -> list[str]:
        nonlocal crash
        said = [await run.step(shop.call, "new")]
        if crash:
            crash = False
            shop.code = edited
        return [*said, await run.step(shop.call, "both")]

    had_passed = await parked(shop, workflows, jobs, tenant, before)
    assert await had_passed.result(1) == ["old", "both", "False", "True"]
    crash = True
    comes_later = await parked(shop, workflows, jobs, tenant, edited)
    assert await comes_later.result(1) == ["new", "both", "True", "True"]
    names = [step.name for step in (await comes_later.get()).steps]
    assert [name for name in names if name.startswith("patched")] == ["patched greeting", "patched later"]
    assert shop.calls == ["old", "both", "new", "both"], "no step was taken twice"
    crash = False
    fork = await workflows.mending.fork(comes_later.by, comes_later.id, 2)
    shop.code = cleaned
    await jobs.worker().run_until_idle()
    assert (await workflows.get(comes_later.by, fork)).output == ["new", "both"]


async def test_a_failed_run_is_retried_from_the_step_that_failed_it(
    shop: Shop, workflows: Workflows, jobs: Jobs, tenant: UUID, owner: Principal, db: Database
) -> None:
    async def code(run: Run) -> list[str]:
        return [await run.step(shop.call, "pay"), await run.step(shop.call, "ship")]

    shop.broken = {"ship"}
    handle = await parked(shop, workflows, jobs, tenant, code)
    assert (await handle.get()).state == RunState.FAILED
    shop.broken = set()
    await workflows.mending.retry(owner, handle.id)
    pending = await handle.get()
    assert (pending.state, pending.error) == (RunState.PENDING, None)
    await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == ["pay", "ship"]
    assert shop.calls == ["pay", "ship", "ship"]
    with pytest.raises(RunNotMendable, match="completed"):
        await workflows.mending.retry(owner, handle.id)
    assert await count(db, tenant, "select count(*) from backstay.audit_entry where action = 'run.retried'") == 1
    assert await count(db, tenant, "select count(*) from backstay.outbox where type = 'run.retried'") == 1


async def test_a_diverged_run_does_not_loop_says_what_differs_and_goes_on_once_the_code_is_mended(
    shop: Shop, workflows: Workflows, jobs: Jobs, tenant: UUID, owner: Principal
) -> None:
    async def good(run: Run) -> list[str]:
        said = [await run.step(shop.call, "pay")]
        if shop.code is good:
            shop.code = changed
            raise ConnectionError("the deploy")
        return [*said, await run.step(shop.call, "ship")]

    async def changed(run: Run) -> list[str]:
        return [await run.step(shop.call, "charge")]

    handle = await parked(shop, workflows, jobs, tenant, good)
    run = await handle.get()
    assert run.state == RunState.NONDETERMINISTIC
    assert "step 0" in run.error
    assert "other arguments" in run.error
    attempts = run.attempt
    await jobs.worker().run_until_idle()
    assert (await handle.get()).attempt == attempts
    shop.code = lambda run: good(run)
    await workflows.mending.retry(owner, handle.id)
    await until_finished(workflows, jobs, handle)
    assert await handle.result(1) == ["pay", "ship"]
    assert shop.calls == ["pay", "ship"]


async def test_a_run_moves_to_another_version_and_takes_its_steps_along(
    shop: Shop, workflows: Workflows, jobs: Jobs, tenant: UUID, owner: Principal, db: Database
) -> None:
    async def code(run: Run) -> list[str]:
        return [await run.step(shop.call, "pay"), await run.step(shop.call, "ship")]

    async def mended(run: Run, order: Order) -> list[str]:
        return [await run.step(shop.call, "pay"), await run.step(shop.call, "collect")]

    shop.broken = {"ship"}
    handle = await parked(shop, workflows, jobs, tenant, code)
    workflows.workflow(name="sell", version="2", retry=SOON)(mended)
    with pytest.raises(UnknownVersion, match="version '3'"):
        await workflows.mending.move(owner, handle.id, "3")
    fork = await workflows.mending.fork(owner, handle.id, 1, version="2")
    await jobs.worker().run_until_idle()
    forked = await workflows.get(owner, fork)
    assert (forked.version, forked.output, forked.forked_from) == ("2", ["pay", "collect"], handle.id)
    assert (await handle.get()).state == RunState.FAILED, "the first run stays as it is"
    await workflows.mending.move(owner, handle.id, "2")
    await until_finished(workflows, jobs, handle)
    run = await handle.get()
    assert (run.version, run.state) == ("2", RunState.NONDETERMINISTIC)
    assert shop.calls == ["pay", "ship", "collect"]
    assert await count(db, tenant, "select count(*) from backstay.audit_entry where action = 'run.moved'") == 1
    assert await count(db, tenant, "select count(*) from backstay.audit_entry where action = 'run.forked'") == 1


async def test_a_run_that_waits_for_its_code_is_moved_to_code_that_is_there(
    workflows: Workflows, jobs: Jobs, tenant: UUID, owner: Principal
) -> None:
    async def answer(run: Run, order: Order) -> str:
        return "moved"

    old: Workflow[Order, str] = workflows.workflow(name="job", version="1")(answer)
    workflows.workflow(name="job", version="2")(answer)
    del workflows._registered["job", "1"]
    handle = await old.start(Order(), tenant=tenant)
    await jobs.worker().run_until_idle()
    assert (await handle.get()).state == RunState.RUNNING
    await workflows.mending.move(owner, handle.id, "2")
    await until_finished(workflows, jobs, handle)
    assert (await handle.get()).output == "moved"


async def test_a_fork_needs_a_step_that_is_there_and_a_run_of_the_same_tenant(
    shop: Shop, workflows: Workflows, jobs: Jobs, tenant: UUID, owner: Principal, other_owner: Principal
) -> None:
    async def code(run: Run) -> list[str]:
        return [await run.step(shop.call, "pay")]

    handle = await parked(shop, workflows, jobs, tenant, code)
    with pytest.raises(StepOutOfRange, match="0 to 1"):
        await workflows.mending.fork(owner, handle.id, 2)
    mending = workflows.mending
    for attempt in (
        lambda: mending.fork(other_owner, handle.id, 0),
        lambda: mending.retry(other_owner, handle.id),
        lambda: mending.move(other_owner, handle.id, "1"),
        lambda: mending.retry(owner, new_id()),
    ):
        with pytest.raises(RunNotFound):
            await attempt()


async def test_over_http(client: httpx.AsyncClient, other_client: httpx.AsyncClient, app: App) -> None:
    broken = True

    async def work() -> str:
        if broken:
            raise Invalid("not today")
        return "done"

    @app.workflow
    async def working(run: Run, order: Order) -> str:
        return await run.step(work)

    id = (await client.post("/api/runs", json={"workflow": "working"})).json()["id"]
    worker = lambda: app.jobs.worker(queues=["workflows"]).run_until_idle()  # noqa: E731
    await worker()
    assert (await client.get(f"/api/runs/{id}")).json()["state"] == "failed"
    assert (await other_client.post(f"/api/runs/{id}/retry")).status_code == 404
    refused = await client.post(f"/api/runs/{id}/move", json={"version": "9"})
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_version")
    beyond = await client.post(f"/api/runs/{id}/fork", json={"step": 7})
    assert (beyond.status_code, beyond.json()["code"]) == (422, "step_out_of_range")
    broken = False
    forked = await client.post(f"/api/runs/{id}/fork", json={"step": 0})
    assert (forked.status_code, forked.json()["forked_from"]) == (201, id)
    assert (await client.post(f"/api/runs/{id}/retry")).json()["state"] == "pending"
    await worker()
    for run in (id, forked.json()["id"]):
        assert (await client.get(f"/api/runs/{run}")).json()["output"] == "done"
    again = await client.post(f"/api/runs/{id}/retry")
    assert (again.status_code, again.json()["code"]) == (409, "run_not_mendable")
