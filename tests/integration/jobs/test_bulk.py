"""Many jobs at once: exact in a race, bounded, and never another tenant's."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from typer.testing import CliRunner

from backstay.app import App
from backstay.commands import commands
from backstay.jobs import BulkCancel, BulkRetry, Discard, JobContext, Jobs
from backstay.jobs.bulk import service as bulk
from backstay.kernel.principal import Principal
from conftest import MASTER_KEY

from .conftest import Note, Recorder


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_BATCH", 7)


async def die(context: JobContext, note: Note) -> None:
    raise Discard(f"no {note.text}")


async def kill(jobs: Jobs, tenant: UUID, count: int, text: str = "Provider down", key: bool = False) -> None:
    keys = [f"{text}-{number}" if key else None for number in range(count)]
    await jobs.enqueue_many("doomed", [(name, Note(text=text)) for name in keys], tenant=tenant)
    await jobs.worker(queues=["default"]).run_until_idle()


@pytest.fixture
def doomed(jobs: Jobs) -> Jobs:
    jobs.handler("doomed", die, Note)
    return jobs


async def counts(jobs: Jobs, by: Principal) -> dict[str, int]:
    found: dict[str, int] = {}
    for job in await jobs.list(by, limit=1000):
        found[job.state] = found.get(job.state, 0) + 1
    return found


async def test_dead_jobs_wait_again_and_other_tenants_stay_dead(
    doomed: Jobs, owner: Principal, other_owner: Principal
) -> None:
    await kill(doomed, owner.tenant, 20)
    await kill(doomed, other_owner.tenant, 3)
    result = await doomed.retry_many(owner, BulkRetry())
    assert (result.changed, result.skipped, result.complete) == (20, 0, True)
    assert await counts(doomed, owner) == {"available": 20}
    assert await counts(doomed, other_owner) == {"discarded": 3}
    assert (await doomed.retry_many(owner, BulkRetry())).changed == 0


async def test_calls_at_once_revive_each_job_once(doomed: Jobs, owner: Principal) -> None:
    await kill(doomed, owner.tenant, 100)
    results = await asyncio.gather(*(doomed.retry_many(owner, BulkRetry()) for _ in range(5)))
    assert sum(result.changed for result in results) == 100
    assert await counts(doomed, owner) == {"available": 100}


async def test_what_dies_again_meanwhile_is_not_revived_again(
    doomed: Jobs, owner: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kill(doomed, owner.tenant, 30)
    began, go_on = asyncio.Event(), asyncio.Event()
    one_batch = bulk.store.revive_many

    async def slowly(*arguments: Any) -> Any:
        began.set()
        await go_on.wait()
        return await one_batch(*arguments)

    monkeypatch.setattr(bulk.store, "revive_many", slowly)
    slow = asyncio.create_task(doomed.retry_many(owner, BulkRetry()))
    await began.wait()
    monkeypatch.setattr(bulk.store, "revive_many", one_batch)
    assert (await doomed.retry_many(owner, BulkRetry())).changed == 30
    await doomed.worker(queues=["default"]).run_until_idle()
    go_on.set()
    assert (await slow).changed == 0
    assert await counts(doomed, owner) == {"discarded": 30}


async def test_the_filter_chooses(doomed: Jobs, owner: Principal) -> None:
    await kill(doomed, owner.tenant, 4, "Provider down")
    middle = doomed.clock.now()
    await kill(doomed, owner.tenant, 3, "50%_ off")
    for which, expected in (
        ({"name": "other"}, 0),
        ({"queue": "mail"}, 0),
        ({"error": "%"}, 3),
        ({"error": "d_wn"}, 0),
        ({"since": middle, "error": "DOWN"}, 0),
        ({"until": middle, "states": ["cancelled"]}, 0),
        ({"until": middle, "error": "provider DOWN", "limit": 3}, 3),
        ({"until": middle}, 1),
        ({"name": "doomed", "queue": "default", "since": middle}, 0),
    ):
        found = (await doomed.retry_many(owner, BulkRetry.model_validate(which))).changed
        assert found == expected, which


async def test_the_limit_stops_and_says_so(doomed: Jobs, owner: Principal) -> None:
    await kill(doomed, owner.tenant, 20)
    first = await doomed.retry_many(owner, BulkRetry(limit=12))
    assert (first.changed, first.complete) == (12, False)
    rest = await doomed.retry_many(owner, BulkRetry(limit=12))
    assert (rest.changed, rest.complete) == (8, True)


async def test_a_job_whose_key_waits_anew_stays_dead_and_is_not_lost(doomed: Jobs, owner: Principal) -> None:
    await kill(doomed, owner.tenant, 10, "x", key=True)
    await kill(doomed, owner.tenant, 10, "x", key=True)
    await doomed.enqueue("doomed", Note(), tenant=owner.tenant, key="x-3")
    result = await doomed.retry_many(owner, BulkRetry())
    assert (result.changed, result.skipped) == (9, 11)
    assert await counts(doomed, owner) == {"available": 10, "discarded": 11}


async def test_failed_ones_that_wait_run_now(slow_jobs: Jobs, recorder: Recorder, owner: Principal) -> None:
    def fail(context: JobContext, note: Note) -> None:
        raise RuntimeError("busy")

    recorder.then = fail
    await slow_jobs.enqueue_many("note", [(None, Note())] * 9, tenant=owner.tenant)
    await slow_jobs.worker(queues=["default"]).run_until_idle()
    assert (await slow_jobs.retry_many(owner, BulkRetry(states=["retryable"], error="busy"))).changed == 9
    assert await counts(slow_jobs, owner) == {"available": 9}


async def test_waiting_jobs_are_cancelled_once_and_running_ones_asked(
    jobs: Jobs, owner: Principal, other_owner: Principal
) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for by in (owner, other_owner):
        await jobs.enqueue_many("note", [(None, Note())] * 30, tenant=by.tenant)
        await jobs.enqueue_many("note", [(None, Note())] * 5, tenant=by.tenant, at=tomorrow, queue="mail")
    async with jobs.db.tenant_tx(owner.tenant) as tx:
        await tx.execute(
            "update backstay.job set state = 'running', fence = 7 "
            "where id = (select min(id::text)::uuid from backstay.job)"
        )
    results = await asyncio.gather(*(jobs.cancel_many(owner, BulkCancel(queue="default")) for _ in range(4)))
    assert sum(result.changed for result in results) == 29
    assert await counts(jobs, owner) == {"cancelled": 29, "running": 1, "scheduled": 5}
    asked = await jobs.cancel_many(owner, BulkCancel(states=["running", "scheduled"]))
    assert (asked.changed, asked.asked) == (5, 1)
    assert (await jobs.cancel_many(owner, BulkCancel(states=["running"]))).asked == 0, "it was asked already"
    assert await counts(jobs, other_owner) == {"available": 30, "scheduled": 5}


async def test_over_http(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, app: App, owner: Principal
) -> None:
    app.jobs.handler("doomed", die, Note)
    await kill(app.jobs, owner.tenant, 10)
    assert (await other_client.post("/api/jobs/retry", json={})).json()["changed"] == 0
    answer = await client.post("/api/jobs/retry", json={"name": "doomed", "error": "no provider"})
    assert answer.json() == {"changed": 10, "asked": 0, "skipped": 0, "complete": True}
    assert (await client.post("/api/jobs/cancel", json={"states": ["available"]})).json()["changed"] == 10
    for body in (
        {"states": []},
        {"states": ["completed"]},
        {"states": ["running"]},
        {"limit": 0},
        {"limit": 100_001},
        {"since": "2026-01-01T00:00:00"},
        {"error": ""},
        {"error": "\0"},
    ):
        assert (await client.post("/api/jobs/retry", json=body)).status_code == 422, body


async def test_at_the_command_line(app: App, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app.jobs.handler("doomed", die, Note)
    await kill(app.jobs, app.default_tenant, 10)
    monkeypatch.setenv("BACKSTAY_DATABASE_URL", database_url)
    monkeypatch.setenv("BACKSTAY_MASTER_KEY", MASTER_KEY)
    monkeypatch.chdir(app.settings.data_dir)

    def run(*arguments: str) -> str:
        told = CliRunner().invoke(commands, ["jobs", *arguments])
        assert told.exit_code == 0, told.output
        return told.output

    assert "0 wait again" in await asyncio.to_thread(run, "retry-all", "--error", "nothing")
    limited = await asyncio.to_thread(run, "retry-all", "--limit", "4", "--since", "2020-01-01")
    assert "4 wait again; the limit was reached" in limited
    rest = await asyncio.to_thread(run, "retry-all", "--state", "discarded", "--json")
    assert orjson.loads(rest)["changed"] == 6
    assert "10 cancelled" in await asyncio.to_thread(run, "cancel-all", "--name", "doomed")
    wrong = await asyncio.to_thread(CliRunner().invoke, commands, ["jobs", "retry-all", "--state", "completed"])
    assert wrong.exit_code == 2
