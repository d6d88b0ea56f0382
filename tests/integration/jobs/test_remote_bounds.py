"""What bounds workers in other languages: the time of an attempt, the names of a tenant."""

import asyncio

import httpx
import pytest

from backstay.app import App
from backstay.jobs.remote.service import time_out
from backstay.kernel.clock import SystemClock

from .test_remote import QUICK, enqueued, registered, state


async def started_earlier(app: App, seconds: float) -> None:
    async with app.db.system_tx() as tx:
        await tx.execute("update backstay.job set started_at = started_at - %s * interval '1 second'", [seconds])


async def test_an_attempt_that_takes_too_long_fails_and_its_claim_is_over(app: App, client: httpx.AsyncClient) -> None:
    worker = await registered(client, timeout_seconds=30, max_attempts=2, **QUICK)
    id = await enqueued(client)
    [first] = await worker.claim()
    assert await time_out(app.db, SystemClock().now()) == 0
    await started_earlier(app, 31)
    assert await time_out(app.db, SystemClock().now()) == 1
    shown = await state(client, id)
    assert (shown["state"], shown["attempt"]) == ("retryable", 1)
    assert shown["error"] == "it took longer than its timeout of 30 seconds"
    late = await worker.tell(first, "complete")
    assert (late.status_code, late.json()["code"]) == (409, "job_lost")
    [second] = await worker.claim(wait=5)
    assert second["attempt"] == 2
    await started_earlier(app, 31)
    assert await time_out(app.db, SystemClock().now()) == 1
    assert (await state(client, id))["state"] == "discarded"


async def test_a_heartbeat_times_out_what_hangs(app: App, client: httpx.AsyncClient) -> None:
    """The worker lives, so its lease does not help; its own heartbeat ends the job that it holds too long."""
    worker = await registered(client, timeout_seconds=1)
    id = await enqueued(client)
    assert await worker.claim()
    await started_earlier(app, 5)
    async with asyncio.timeout(15):
        while (await state(client, id))["state"] == "running":
            assert (await worker.ask("heartbeat")).status_code == 200
            await asyncio.sleep(0.05)
    assert (await state(client, id))["state"] == "retryable"


async def test_two_who_time_out_count_an_attempt_once(app: App, client: httpx.AsyncClient) -> None:
    worker = await registered(client, timeout_seconds=30)
    id = await enqueued(client)
    assert await worker.claim()
    await started_earlier(app, 31)
    now = SystemClock().now()
    assert sorted(await asyncio.gather(*(time_out(app.db, now) for _ in range(4)))) == [0, 0, 0, 1]
    assert (await state(client, id))["attempt"] == 1


async def test_without_a_timeout_an_attempt_lasts_as_long_as_its_worker(app: App, client: httpx.AsyncClient) -> None:
    worker = await registered(client)
    id = await enqueued(client)
    assert await worker.claim()
    await started_earlier(app, 10_000_000)
    assert await time_out(app.db, SystemClock().now()) == 0
    assert (await state(client, id))["state"] == "running"


@pytest.mark.parametrize("together", [1, 3])
async def test_a_tenant_registers_a_bounded_number_of_names(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr("backstay.jobs.remote.service.MAX_NAMES", 60)
    await registered(client, *(f"a{n}" for n in range(40)))
    more = [
        client.post("/api/workers", json={"name": "test", "jobs": [{"name": f"{who}{n}"} for n in range(20)]})
        for who in "bcd"[:together]
    ]
    answers = await asyncio.gather(*more)
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * (together - 1)]
    refused = await client.post("/api/workers", json={"name": "test", "jobs": [{"name": "one more"}]})
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_job_names")
    await registered(client, *(f"a{n}" for n in range(40)))  # the same again
    await registered(other_client, "one more")
