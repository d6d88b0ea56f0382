"""Tenants share a queue: by weight, whatever one of them has waiting, with its own priorities kept."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import httpx
import pytest

from backstay.app import App
from backstay.jobs import Jobs, store
from backstay.jobs.flows import Flows
from backstay.jobs.models import Claimed, Turn
from backstay.kernel.db import Database
from backstay.kernel.ids import new_id

from .conftest import Note, crowd

WORKER = UUID(int=5)


class Claims:
    """Claims as a worker does, and never completes anything."""

    def __init__(self, db: Database, jobs: Jobs, queues: Sequence[str] = ("default",)) -> None:
        self._db, self._jobs, self._queues = db, jobs, queues
        self.flows, self._fence = Flows(), 0

    async def __call__(self, room: int) -> list[Claimed]:
        return (await self.turn(room)).claimed

    async def turn(self, room: int, fences: Sequence[int] = ()) -> Turn:
        async with self._db.system_tx(indexed=True) as tx:
            read = await store.turn(
                tx,
                worker=WORKER,
                first_fence=self._fence,
                fences=fences,
                queues=self._queues,
                names=["note", "other"],
                room=room,
                now=self._jobs.clock.now(),
                memory=self.flows.memory(),
            )
            turn = await read()
        self._fence += room
        self.flows.learn(turn)
        return turn


@pytest.fixture
async def claims(db: Database, jobs: Jobs) -> Claims:
    async with db.system_tx() as tx:
        await store.add_worker(tx, WORKER, "fair", ["default"], 3_600)
    return Claims(db, jobs)


async def fill(jobs: Jobs, tenant: UUID, count: int, name: str = "note", priority: int = 0) -> None:
    rows = [(None, Note(text=str(number))) for number in range(count)]
    await jobs.enqueue_many(name, rows, tenant=tenant, priority=priority)


def by_tenant(claimed: Sequence[Claimed]) -> Counter[UUID]:
    return Counter(job.tenant for job in claimed)


async def test_a_tenant_that_comes_late_starts_with_the_next_claim(jobs: Jobs, claims: Claims) -> None:
    hog, late = new_id(), new_id()
    await fill(jobs, hog, 1_000)
    assert by_tenant(await claims(100)) == {hog: 100}
    await fill(jobs, late, 10)
    assert by_tenant(await claims(100)) == {late: 10, hog: 90}


async def test_a_claim_of_one_job_goes_from_tenant_to_tenant(jobs: Jobs, claims: Claims) -> None:
    tenants = [new_id() for _ in range(3)]
    for tenant in tenants:
        await fill(jobs, tenant, 10)
    order = [(await claims(1))[0].tenant for _ in range(12)]
    for first in range(0, 12, 3):
        assert set(order[first : first + 3]) == set(tenants), order


@pytest.mark.parametrize("room", [1, 7, 400])
async def test_a_tenants_part_is_its_weight_over_the_sum(jobs: Jobs, claims: Claims, room: int) -> None:
    heavy, light = new_id(), new_id()
    await jobs.share("default", heavy, weight=3)
    for tenant in (heavy, light):
        await fill(jobs, tenant, 400)
    started: Counter[UUID] = Counter()
    while started.total() < 400 - room + 1:
        started += by_tenant(await claims(room))
    assert started[heavy] == pytest.approx(started.total() * 3 / 4, abs=2)


async def test_a_tenant_that_was_away_has_nothing_saved_up(jobs: Jobs, claims: Claims) -> None:
    """It shares from now on; it does not get what it did not use."""
    steady, back = new_id(), new_id()
    await fill(jobs, steady, 300)
    for _ in range(10):
        await claims(10)
    await fill(jobs, back, 100)
    assert by_tenant([*await claims(10), *await claims(10)])[steady] >= 9


async def test_what_a_tenant_leaves_of_its_part_goes_to_the_others(jobs: Jobs, claims: Claims) -> None:
    small, large = new_id(), new_id()
    await fill(jobs, small, 3)
    await fill(jobs, large, 500)
    assert by_tenant(await claims(200)) == {small: 3, large: 197}


async def test_priorities_hold_inside_a_tenant_over_its_names(jobs: Jobs, claims: Claims) -> None:
    tenant, other = new_id(), new_id()
    await fill(jobs, tenant, 5, priority=0)
    await fill(jobs, tenant, 5, name="other", priority=5)
    await fill(jobs, tenant, 5, priority=9)
    await fill(jobs, other, 30)
    seen = [job.priority for _ in range(15) for job in await claims(2) if job.tenant == tenant]
    assert seen == [9] * 5 + [5] * 5 + [0] * 5


async def test_each_of_many_tenants_has_its_turn(jobs: Jobs, claims: Claims) -> None:
    """More than one scan sees: the next goes on behind the last tenant that it saw, and comes round."""
    tenants = {new_id() for _ in range(150)}
    for tenant in tenants:
        await fill(jobs, tenant, 4)
    first = [job for _ in range(3) for job in await claims(64)]
    assert set(by_tenant(first)) == tenants, "three claims of 64 reach 150 tenants"
    rest = []
    while claimed := await claims(64):
        rest += claimed
    assert by_tenant([*first, *rest]) == dict.fromkeys(tenants, 4)


async def test_a_tenants_own_limit_leaves_the_rest_to_others(jobs: Jobs, claims: Claims) -> None:
    bounded, free = new_id(), new_id()
    await jobs.share("default", bounded, max_running=3)
    for tenant in (bounded, free):
        await fill(jobs, tenant, 50)
    turn = await claims.turn(20)
    assert by_tenant(turn.claimed) == {bounded: 3, free: 17}
    assert by_tenant(await claims(20)) == {free: 20}
    ended = [job.fence for job in turn.claimed if job.tenant == bounded][:2]
    await claims.turn(0, ended)
    assert by_tenant(await claims(20)) == {bounded: 2, free: 13}


async def test_a_job_with_a_key_that_runs_takes_no_place(jobs: Jobs, claims: Claims) -> None:
    tenant, other = new_id(), new_id()
    await jobs.enqueue("note", Note(), tenant=tenant, key="k")
    [running] = await claims(5)
    await jobs.enqueue("note", Note(), tenant=tenant, key="k")
    await fill(jobs, tenant, 2)
    await fill(jobs, other, 9)
    assert by_tenant(await claims(6)) == {tenant: 2, other: 4}
    await claims.turn(0, [running.fence])
    assert [job.unique_key for job in await claims(9)].count("k") == 1


@pytest.mark.slow
async def test_ten_jobs_beside_three_hundred_thousand_start_within_one_batch(
    jobs: Jobs, claims: Claims, database_url: str
) -> None:
    hog, small = new_id(), new_id()
    crowd(database_url, hog, 300_000)
    await claims(1_000)
    await fill(jobs, small, 10)
    turn = await claims.turn(100)
    assert by_tenant(turn.claimed) == {small: 10, hog: 90}
    assert turn.read < 4_000, "it reads what it takes and what it took last, not what waits"


async def test_only_the_operator_shares_a_queue_out(
    app: App, client: httpx.AsyncClient, tenant: UUID, other_tenant: UUID
) -> None:
    path = f"/api/queues/mail/tenants/{tenant}"
    refused = await client.put(path, json={"weight": 100})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_the_operator")
    assert (await client.get("/api/queues/mail")).status_code == 403
    key = await app.auth.create_owner(app.default_tenant, "ops")
    client.headers["authorization"] = f"Bearer {key.secret}"
    shared = await client.put(path, json={"weight": 2.5, "max_running": 4})
    assert shared.json() == {"tenant": str(tenant), "weight": 2.5, "max_running": 4}
    limited = await client.put("/api/queues/mail/limits", json={"max_running": 9, "rate": "100/minute"})
    assert limited.json() == {
        "name": "mail",
        "paused": False,
        "max_running": 9,
        "rate": "100/m",
        "shares": [{"tenant": str(tenant), "weight": 2.5, "max_running": 4}],
    }
    for wrong in ({"weight": 0}, {"weight": -1}, {"weight": 1_001}, {"max_running": -1}):
        assert (await client.put(path, json=wrong)).status_code == 422
    odd = await client.put("/api/queues/mail/limits", json={"rate": "often"})
    assert (odd.status_code, odd.json()["code"]) == (422, "limit_invalid")
    assert (await client.put(path, json={})).json()["weight"] == 1
    assert (await client.get("/api/queues/mail")).json()["shares"] == []
    entries = (await client.get("/api/audit/entries", params={"action": "queue.shared"})).json()["items"]
    assert len(entries) == 2


async def test_a_remote_job_of_an_older_release_is_left_to_remote_workers(
    jobs: Jobs, claims: Claims, db: Database, tenant: UUID
) -> None:
    """While releases change, one that knows nothing of limits enqueues remote jobs with an empty key."""
    await jobs.enqueue_many("note", [(None, Note())] * 3, tenant=tenant, remote=True)
    async with db.system_tx() as tx:
        await tx.execute("update backstay.job set limit_key = ''")
    assert await claims(10) == []
    await fill(jobs, tenant, 2)
    assert len(await claims(10)) == 2
