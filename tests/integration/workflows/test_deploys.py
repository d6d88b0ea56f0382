"""Runs that wait through restarts and new versions of their code."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from backstay.audit import Audit
from backstay.events import Events
from backstay.jobs import Jobs
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings
from backstay.workflows import Run, RunHandle, RunState, Workflows

from .conftest import Order

Code = Callable[[Run, Order], Awaitable[str]]


async def old(run: Run, order: Order) -> str:
    decision = await run.approve({"number": order.number}, timeout=timedelta(days=1))
    return f"old code, {decision.reason}"


async def new(run: Run, order: Order) -> str:
    await run.sleep(timedelta(hours=1))
    decision = await run.approve({"number": order.number, "currency": "EUR"})
    return f"new code, {decision.reason}"


@asynccontextmanager
async def process(
    settings: Settings, vault: Vault, clock: ManualClock, **versions: Code
) -> AsyncIterator[tuple[Workflows, Jobs]]:
    """Everything that a process has, and with its end is gone: connections, services, registered code."""
    async with Database(settings.database_url, settings) as db:
        jobs = Jobs(db, clock, settings)
        workflows = Workflows(db, clock, jobs, Audit(db, clock, vault), Events(db, clock))
        for version, code in versions.items():
            workflows.workflow(name="refund", version=version)(code)
        yield workflows, jobs


async def test_a_run_waits_four_hours_through_a_restart_and_a_deploy_and_ends_on_the_code_it_began_with(
    settings: Settings, vault: Vault, manual_clock: ManualClock, owner: Principal
) -> None:
    async with process(settings, vault, manual_clock, v1=old) as (workflows, jobs):
        first = (await workflows.start_raw("refund", {"number": 1}, by=owner)).id
        await jobs.worker().run_until_idle()
        assert (await workflows.get(owner, first)).state == RunState.WAITING
    manual_clock.advance(timedelta(hours=2))
    async with process(settings, vault, manual_clock, v1=old, v2=new) as (workflows, jobs):
        second = (await workflows.start_raw("refund", {"number": 2}, by=owner)).id
        await jobs.worker().run_until_idle()
        manual_clock.advance(timedelta(hours=2))
        await jobs.worker().run_until_idle()
        assert [(await workflows.get(owner, id)).state for id in (first, second)] == [RunState.WAITING] * 2
        for asked in await workflows.approvals.list(owner):
            await workflows.approvals.approve(owner, asked.id, reason=f"yes to {asked.request['number']}")
        await jobs.worker().run_until_idle()
        runs = [await workflows.get(owner, id) for id in (first, second)]
    assert [(run.version, run.output) for run in runs] == [("v1", "old code, yes to 1"), ("v2", "new code, yes to 2")]


@pytest.mark.parametrize("decided", ["while its code is there", "while its code is missing"])
async def test_a_decision_is_kept_for_a_run_whose_code_is_missing_for_a_while(
    settings: Settings, vault: Vault, manual_clock: ManualClock, owner: Principal, decided: str
) -> None:
    async with process(settings, vault, manual_clock, v1=old) as (workflows, jobs):
        handle: RunHandle = RunHandle((await workflows.start_raw("refund", {}, by=owner)).id, owner, workflows)
        await jobs.worker().run_until_idle()
        [asked] = await workflows.approvals.list(owner)
        if decided == "while its code is there":
            await workflows.approvals.approve(owner, asked.id, reason="yes")
    async with process(settings, vault, manual_clock, v2=new) as (workflows, jobs):
        if decided == "while its code is missing":
            await workflows.approvals.approve(owner, asked.id, reason="yes")
        await jobs.worker().run_until_idle()
        assert (await workflows.get(owner, handle.id)).state == RunState.RUNNING, "it is not ended for want of its code"
    manual_clock.advance(timedelta(seconds=10))
    async with process(settings, vault, manual_clock, v1=old) as (workflows, jobs):
        await jobs.worker().run_until_idle()
        assert (await workflows.get(owner, handle.id)).output == "old code, yes"
