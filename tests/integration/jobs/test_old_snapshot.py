"""A transaction that is left open elsewhere keeps the entries of finished jobs in the indexes: the queue goes on.

Measured in entries and pages read, never in time.
"""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from backstay.jobs import Jobs, store
from backstay.jobs.flows import Flows, pause_after
from backstay.kernel.db import Database
from backstay.kernel.ids import new_id

from .conftest import crowd
from .test_fairness import WORKER, Claims, by_tenant, fill
from .test_plans import QUERIES


class HandClock:
    """Seconds that pass only when they are told to."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hand_clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def claims(db: Database, jobs: Jobs, hand_clock: HandClock) -> Claims:
    async with db.system_tx() as tx:
        await store.add_worker(tx, WORKER, "old snapshot", ["default"], 3_600)
    claims = Claims(db, jobs)
    claims.flows = Flows(hand_clock)
    return claims


@pytest.fixture
async def old_snapshot(database_url: str) -> AsyncIterator[None]:
    """A report that someone began and left."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("begin isolation level repeatable read")
        await connection.execute("select count(*) from backstay.job")
        yield


async def work_off(claims: Claims, batch: int) -> list[tuple[int, int]]:
    """Claims and completes until nothing is left: how many each turn claimed and how many entries it read."""
    turns, fences = [], []
    while True:
        turn = await claims.turn(batch, fences)
        turns.append((len(turn.claimed), turn.read))
        fences = [job.fence for job in turn.claimed]
        if not fences:
            return turns


@pytest.mark.parametrize(("count", "batch"), [(9_000, 50), pytest.param(50_000, 500, marks=pytest.mark.slow)])
async def test_claims_read_what_they_take_while_an_old_snapshot_is_held(
    claims: Claims, database_url: str, old_snapshot: None, tenant: UUID, count: int, batch: int
) -> None:
    crowd(database_url, tenant, count)
    turns = await work_off(claims, batch)
    assert sum(claimed for claimed, _ in turns) == count
    put_off = next(at for at, (claimed, read) in enumerate(turns) if read > 4_000 + 20 * batch)
    after = turns[put_off + 1 :]
    assert len(after) > 20, "the snapshot was not in the way: the test proves nothing"
    assert max(read for _, read in after) <= 2 * batch + 20
    assert pages_of_a_claim(database_url, claims) < 200


async def test_a_job_that_lies_before_is_found_by_the_next_whole_scan(
    claims: Claims, jobs: Jobs, database_url: str, old_snapshot: None, tenant: UUID, hand_clock: HandClock
) -> None:
    crowd(database_url, tenant, 9_000)
    await work_off(claims, 50)
    await fill(jobs, tenant, 3, priority=50)  # in front of all that was claimed
    late = new_id()
    await fill(jobs, late, 3)
    assert by_tenant(await claims(50)) == {late: 3}, "a tenant that was not known is found at once"
    hand_clock.now += 30
    assert by_tenant(await claims(50)) == {tenant: 3}


async def test_a_scan_that_costs_little_is_whole(claims: Claims, jobs: Jobs, database_url: str, tenant: UUID) -> None:
    """A job of a higher priority never waits then."""
    crowd(database_url, tenant, 1_500)
    for _ in range(20):
        turn = await claims.turn(50)
        await claims.turn(0, [job.fence for job in turn.claimed])
    await fill(jobs, tenant, 1, priority=50)
    assert (await claims(1))[0].priority == 50


async def test_a_worker_looks_at_its_claims_and_not_at_all_that_ran(
    claims: Claims, database_url: str, db: Database, old_snapshot: None, tenant: UUID
) -> None:
    crowd(database_url, tenant, 9_000)
    await work_off(claims, 500)
    async with db.system_tx(indexed=True) as tx:
        held, read = await store.claims(tx, WORKER, 0)
        assert (held, read >= 9_000) == ({}, True), "the snapshot was not in the way: the test proves nothing"
        assert pause_after(read, len(held)) > 0.1
        held, read = await store.claims(tx, WORKER, 10**9)
    assert (held, read) == ({}, 0)


def pages_of_a_claim(database_url: str, claims: Claims) -> int:
    """Pages that the whole statement touches when there is nothing to claim."""
    [query] = [query for query in QUERIES if query.name == "turn"]
    params: dict[str, Any] = {
        "worker": WORKER,
        "first_fence": 1 << 40,
        "fences": [],
        "queues": ["default"],
        "names": ["note"],
        "room": 50,
        "now": "2026-01-01T00:00:00Z",
        "first": UUID(int=0),
        "last": UUID(int=2**128 - 1),
        **claims.flows.memory()._asdict(),
    }
    with psycopg.connect(database_url) as connection:
        connection.execute("set local enable_seqscan = off")
        cursor = psycopg.ClientCursor(connection)
        cursor.execute("explain (analyze, buffers, format json) " + query.text.rstrip().rstrip(";"), params)  # type: ignore[arg-type]
        row = cursor.fetchone()
        connection.rollback()
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    return int(plan[0]["Plan"]["Shared Hit Blocks"]) + int(plan[0]["Plan"]["Shared Read Blocks"])
