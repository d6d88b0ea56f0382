"""The job `retention`: what goes, and above all what stays."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from backstay.app import App
from backstay.builtin import HttpCall
from backstay.builtin.retention import Sweep
from backstay.jobs import JobDetail
from backstay.kernel.ids import new_id
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

from .conftest import Service

Run = Callable[[UUID], Awaitable[JobDetail]]
LONG_AGO = datetime.now(UTC) - timedelta(days=31)
LATELY = datetime.now(UTC) - timedelta(days=29)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"keep_runs_days": 30, "keep_calls_days": 30, "keep_results_days": 30})


async def a_run(app: App, tenant: UUID, state: str, ended: datetime | None, parent: UUID | None = None) -> UUID:
    id = new_id()
    async with app.db.tenant_tx(tenant) as tx:
        await tx.execute(
            "insert into backstay.run (tenant_id, id, workflow, version, state, principal, input, created_at, "
            "finished_at, parent_id, parent_seq) values (%s, %s, 'w', '1', %s, '{}', '{}', %s, %s, %s, %s)",
            [tenant, id, state, LONG_AGO, ended, parent, None if parent is None else 1],
        )
        await tx.execute(
            "insert into backstay.step (tenant_id, run_id, seq, kind, name, args_hash, state, attempt, fence, "
            "started_at) values (%s, %s, 1, 'step', 's', '', 'completed', 1, 1, %s)",
            [tenant, id, LONG_AGO],
        )
    return id


async def a_call(app: App, tenant: UUID, state: str, ended: datetime | None) -> UUID:
    id = new_id()
    async with app.db.tenant_tx(tenant) as tx:
        await tx.execute(
            "insert into backstay.call (tenant_id, id, process_id, principal_id, feature, kind, provider, model, "
            "streamed, reserved, state, started_at, finished_at) "
            "values (%s, %s, %s, %s, 'f', 'chat', 'sim', 'echo', false, 0, %s, %s, %s)",
            [tenant, id, new_id(), new_id(), state, LONG_AGO, ended],
        )
        await tx.execute(
            "insert into backstay.ledger (tenant_id, call_id, attempt, at, provider, model, feature, outcome, "
            "input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, cost, seconds) "
            "values (%s, %s, 1, %s, 'sim', 'echo', 'f', 'ok', 1, 1, 0, 0, false, 1, 1)",
            [tenant, id, ended or LONG_AGO],
        )
    return id


async def standing(app: App, table: str, column: str = "id") -> set[UUID]:
    async with app.db.system_tx() as tx:
        return {row[0] for row in await (await tx.execute(f"select {column} from backstay.{table}")).fetchall()}


async def test_only_what_ended_long_ago_goes_and_only_the_tenants_own(
    app: App, tenant: UUID, other_tenant: UUID, owner: Principal, run: Run
) -> None:
    gone = {await a_run(app, tenant, state, LONG_AGO) for state in ("completed", "failed", "cancelled")}
    kept = {await a_run(app, tenant, state, None) for state in ("pending", "running", "waiting")}
    kept |= {await a_run(app, tenant, "nondeterministic", LONG_AGO), await a_run(app, tenant, "completed", LATELY)}
    kept |= {await a_run(app, other_tenant, "completed", LONG_AGO)}
    spent = {await a_call(app, tenant, state, LONG_AGO) for state in ("finished", "abandoned")}
    live = {await a_call(app, tenant, "open", None), await a_call(app, tenant, "finished", LATELY)}
    live |= {await a_call(app, other_tenant, "finished", LONG_AGO)}
    before = len(await app.audit.entries(owner))
    job = await app.retention.enqueue(tenant=tenant)
    assert (await run(job)).state == "completed"
    assert await standing(app, "run") == kept
    assert await standing(app, "step", "run_id") == kept
    assert await standing(app, "call") == await standing(app, "ledger", "call_id") == live
    assert (await app.results.get(owner, job)).result == {"runs": len(gone), "calls": len(spent), "results": 0}
    told = await app.audit.entries(owner, action="retention.remove")
    assert sorted((one.resource, one.metadata["count"]) for one in told) == [("calls", 2), ("runs", 3)]
    assert len(await app.audit.entries(owner)) == before + 2, "an entry of the audit went"
    [event] = await app.events.page(owner, type="retention.swept")
    assert event.payload["runs"] == 3


async def test_what_others_need_stays(app: App, tenant: UUID, run: Run) -> None:
    parked = await a_run(app, tenant, "nondeterministic", LONG_AGO)
    child = await a_run(app, tenant, "completed", LONG_AGO, parent=parked)
    parent = await a_run(app, tenant, "completed", LONG_AGO)
    working = await a_run(app, tenant, "running", None, parent=parent)
    read = await a_run(app, tenant, "completed", LONG_AGO)
    held = await a_call(app, tenant, "finished", LONG_AGO)
    async with app.db.tenant_tx(tenant) as tx:
        await tx.execute(
            "insert into backstay.stream (tenant_id, id, run_id, patience, created_at, expires_at) "
            "values (%s, %s, %s, '1 minute', %s, now() + interval '1 day')",
            [tenant, new_id(), read, LONG_AGO],
        )
        await tx.execute(
            "insert into backstay.hold (tenant_id, call_id, budget_id, starts_at, amount) "
            "values (%s, %s, %s, now(), 1)",
            [tenant, held, new_id()],
        )
    await run(await app.retention.enqueue(tenant=tenant))
    assert await standing(app, "run") == {parked, child, parent, working, read}
    assert await standing(app, "call") == {held}


async def test_batches_are_bounded_and_each_has_its_entry(app: App, tenant: UUID, owner: Principal, run: Run) -> None:
    async with app.db.tenant_tx(tenant) as tx:
        await tx.execute(
            "insert into backstay.run (tenant_id, id, workflow, version, state, principal, input, created_at, "
            "finished_at) select %s, gen_random_uuid(), 'w', '1', 'completed', '{}', '{}', %s, %s "
            "from generate_series(1, 1200)",
            [tenant, LONG_AGO, LONG_AGO],
        )
    await run(await app.retention.enqueue(tenant=tenant))
    told = await app.audit.entries(owner, action="retention.remove")
    assert sorted(one.metadata["count"] for one in told) == [200, 500, 500]
    assert await standing(app, "run") == set()


async def test_results_and_their_files_go(app: App, tenant: UUID, owner: Principal, run: Run, service: Service) -> None:
    old = await app.http.enqueue(HttpCall(url=service.url()), tenant=tenant)
    new = await app.http.enqueue(HttpCall(url=service.url()), tenant=tenant)
    await run(new)
    async with app.db.system_tx() as tx:
        await tx.execute("update backstay.job_result set created_at = %s where job_id = %s", [LONG_AGO, old])
        await tx.execute("insert into backstay.job_result_part values (%s, %s, 0, 'x')", [tenant, old])
    job = await app.retention.enqueue(tenant=tenant)
    await run(job)
    assert await standing(app, "job_result", "job_id") == {new, job}
    assert await standing(app, "job_result_part", "job_id") == set()


async def test_nothing_goes_that_is_to_be_kept_for_ever(settings: Settings, tenant: UUID) -> None:
    forever = settings.model_copy(update={"keep_runs_days": 0, "keep_calls_days": 0, "keep_results_days": 0})
    async with App(forever) as app:
        kept = {await a_run(app, tenant, "completed", LONG_AGO)}
        calls = {await a_call(app, tenant, "finished", LONG_AGO)}
        await app.retention.enqueue(tenant=tenant)
        await app.jobs.worker().run_until_idle()
        assert await standing(app, "run") == kept
        assert await standing(app, "call") == calls


async def test_the_nightly_schedule_sweeps_every_tenant_once_and_stays_as_it_was_changed(
    app: App, tenant: UUID, other_tenant: UUID, owner: Principal
) -> None:
    operator = await app.auth.operator()
    await asyncio.gather(*(app.retention.ensure_schedule(app.default_tenant) for _ in range(3)))
    await app.schedules.pause(operator, "retention")
    await app.retention.ensure_schedule(app.default_tenant)
    assert [(one.name, one.paused) for one in await app.schedules.list(operator)] == [("retention", True)]
    await app.schedules.run_now(operator, "retention")
    await app.jobs.worker().run_until_idle()
    async with app.db.system_tx() as tx:
        found = await (
            await tx.execute("select tenant_id from backstay.job_result where name = 'retention'")
        ).fetchall()
    assert {row[0] for row in found} == {tenant, other_tenant, app.default_tenant}
    assert len(found) == 3
    stranger = await app.jobs.enqueue("retention", Sweep(every_tenant=True), tenant=tenant)
    await app.jobs.worker().run_until_idle()
    assert (await app.jobs.get(owner, stranger)).state == "cancelled"
