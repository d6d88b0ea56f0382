"""The hot queries stay on their indexes, with no rows and with many."""

import json
from typing import Any
from uuid import UUID

import psycopg
import pytest

from backstay.jobs import Jobs, store
from backstay.jobs.models import Turn
from backstay.jobs.remote import store as remote_store
from backstay.kernel import sql
from backstay.kernel.db import Database, Tx

from .conftest import Note

QUERIES = [*sql.load("backstay.jobs"), *sql.load("backstay.jobs.remote")]
ROWS = 50_000
PARAMS: dict[str, dict[str, Any]] = {
    "turn": {
        "worker": UUID(int=1),
        "first_fence": 1 << 32,
        "fences": list(range(200)),
        "queues": ["default", "mail"],
        "names": ["note"],
        "room": 500,
        "now": "2026-01-01T00:00:00Z",
        "behind": "[]",
        "begun": "[]",
        "had": "[]",
        "first": UUID(int=0),
        "last": UUID(int=2**128 - 1),
    },
    "settle": {
        "verdicts": '[{"fence": 1, "state": "retryable", "run_at": "2026-01-01T00:00:00Z", "counted": true}]',
        "now": "2026-01-01T00:00:00Z",
    },
    "promote": {"now": "2020-01-01T00:00:00Z", "limit": 100},
    "next_due": {},
    "claims": {"worker": UUID(int=1), "since": 7},
    "rescue": {"now": "2026-01-01T00:00:00Z"},
    "ready_queues": {},
    "remote_claim": {
        "tenant_id": UUID(int=2),
        "worker": UUID(int=1),
        "room": 10,
        "now": "2026-01-01T00:00:00Z",
    },
    "report_progress": {"rows": '[{"fence": 1, "fraction": 0.5, "note": "x"}]'},
    "remote_claims": {"tenant_id": UUID(int=2), "worker": UUID(int=1)},
    "remote_hold": {"tenant_id": UUID(int=2), "worker": UUID(int=1), "id": UUID(int=3), "fence": 1},
    "remote_complete": {
        "tenant_id": UUID(int=2),
        "worker": UUID(int=1),
        "id": UUID(int=3),
        "fence": 1,
        "now": "2026-01-01T00:00:00Z",
    },
}


def scans(plan: dict[str, Any]) -> list[str]:
    """Sequential scans of the hot table in a plan, and the indexes it uses."""
    found = []
    if plan.get("Relation Name") == "job" and plan["Node Type"] in ("Seq Scan", "Sample Scan"):
        found.append("Seq Scan on job")
    if "Index Name" in plan:
        found.append(plan["Index Name"])
    for part in plan.get("Plans", []):
        found += scans(part)
    return found


def explain(connection: psycopg.Connection[Any], name: str, mode: str) -> dict[str, Any]:
    """The plan of the prepared query, custom or generic, as the driver's prepared statements get it."""
    query = next(query for query in QUERIES if query.name == name)
    with connection.transaction(force_rollback=True):
        connection.execute(f"set local plan_cache_mode = 'force_{mode}_plan'")
        connection.execute("set local role backstay_system")
        connection.execute("set local enable_seqscan = off")  # as `system_tx(indexed=True)` does
        cursor = psycopg.ClientCursor(connection)
        params = PARAMS[name]
        text = query.text.rstrip().rstrip(";")
        names = list(params)
        numbered = text
        for number, key in enumerate(names, 1):
            numbered = numbered.replace(f"%({key})s", f"${number}")
        connection.execute(f"prepare hot as {numbered.replace('%%', '%')}")  # type: ignore[arg-type]
        marks = ", ".join(["%s"] * len(names))
        arguments = f"({marks})" if names else ""
        cursor.execute(f"explain (format json) execute hot{arguments}", list(params.values()))  # type: ignore[arg-type]
        row = cursor.fetchone()
        connection.execute("deallocate hot")
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    found: dict[str, Any] = plan[0]["Plan"]
    return found


def unordered(plan: dict[str, Any]) -> bool:
    """Whether a plan reads the index of flows otherwise than in its order: a claim would then read all that waits."""
    parts = plan.get("Plans", [])
    if plan["Node Type"] == "Bitmap Index Scan" and plan.get("Index Name") == "job_flow":
        return True
    if plan["Node Type"].endswith("Sort") and any(part.get("Index Name") == "job_flow" for part in parts):
        return True
    return any(unordered(part) for part in parts)


@pytest.mark.parametrize("rows", [0, 20_000, pytest.param(300_000, marks=pytest.mark.slow)])
async def test_hot_queries_use_the_partial_indexes(database_url: str, rows: int) -> None:
    expected = {
        "turn": {"job_flow", "job_running", "job_running_key"},
        "settle": {"job_running"},
        "promote": {"job_due"},
        "next_due": {"job_due"},
        "ready_queues": {"job_flow"},
        "claims": {"job_running"},
        "rescue": {"job_running"},
        "remote_claim": {"job_remote_ready"},
        "report_progress": {"job_running"},
        "remote_claims": {"job_running", "job_pkey"},
        "remote_hold": {"job_running", "job_pkey"},
        "remote_complete": {"job_running", "job_pkey"},
    }
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "insert into backstay.job (tenant_id, id, queue, name, state, priority, run_at, created_at, payload, "
            "fence, worker_id, remote, limit_key) "
            "select %s, gen_random_uuid(), 'default', 'note', s.state, n %% 3, now(), now(), '{}', "
            "case s.state when 'running' then n end, case s.state when 'running' then %s end, n %% 10 = 9, "
            "case when n %% 10 <> 9 then '' end "
            "from generate_series(1, %s) as n cross join lateral (select case when n %% 100 < 2 then 'running' "
            "when n %% 100 < 6 then 'scheduled' when n %% 100 < 8 then 'retryable' else 'available' end as state) s",
            [UUID(int=2), UUID(int=1), rows],
        )
        for statistics in ("none", "analyzed"):
            if statistics == "analyzed":
                connection.execute("analyze backstay.job")
            for name, indexes in expected.items():
                for mode in ("custom", "generic"):
                    plan = explain(connection, name, mode)
                    used = scans(plan)
                    about = f"{name}, {rows} rows, {mode} plan, statistics: {statistics}: {used}"
                    assert "Seq Scan on job" not in used, about
                    if rows:
                        assert indexes & set(used), about
                    if name == "turn":
                        assert "job_flow" in used, about
                        assert "job_ready" not in used, about
                        assert not unordered(plan), about


async def test_a_claim_from_many_waiting_jobs_takes_milliseconds(jobs: Jobs, tenant: UUID, db: Database) -> None:
    """By what it reads, not by the clock: the pages touched do not grow with the queue."""
    for _ in range(ROWS // 5_000):
        await jobs.enqueue_many("note", [(None, Note())] * 5_000, tenant=tenant)
    worker = UUID(int=5)
    async with db.system_tx() as tx:
        await store.add_worker(tx, worker, "plan", ["default"], 60)
    async with db.system_tx() as tx:
        before = await reads(tx.connection)
        read = await store.turn(
            tx,
            worker=worker,
            first_fence=0,
            fences=[],
            queues=["default"],
            names=["note"],
            room=10,
            now=jobs.clock.now(),
        )
        turn = await read()
        touched = await reads(tx.connection) - before
    assert len(turn.claimed) == 10
    assert touched < 1_000, f"claiming 10 of {ROWS} jobs read {touched} rows"


async def test_remote_jobs_that_nobody_works_on_cost_no_other_claim_anything(
    jobs: Jobs, tenant: UUID, other_tenant: UUID, db: Database
) -> None:
    """Neither our own workers read them, nor remote ones of another tenant or for another name."""
    for _ in range(ROWS // 5_000):
        await jobs.enqueue_many("stuck", [(None, Note())] * 5_000, tenant=tenant, remote=True)
    ours = await jobs.enqueue("note", Note(), tenant=tenant)
    [theirs] = await jobs.enqueue_many("resize", [(None, Note())], tenant=tenant, remote=True)
    [others] = await jobs.enqueue_many("stuck", [(None, Note())], tenant=other_tenant, remote=True)
    plain, remote, other = UUID(int=5), UUID(int=6), UUID(int=7)
    async with db.system_tx() as tx:
        await store.add_worker(tx, plain, "plan", ["default"], 60)
        for worker, owner, name in ((remote, tenant, "resize"), (other, other_tenant, "stuck")):
            await remote_store.register(
                tx, tenant=owner, id=worker, name="plan", queues=["default"], names=[name], lease=60
            )
    async with db.system_tx(indexed=True) as tx:
        before = await reads(tx.connection)
        read = await store.turn(
            tx,
            worker=plain,
            first_fence=0,
            fences=[],
            queues=["default"],
            names=["note", "stuck"],
            room=10,
            now=jobs.clock.now(),
        )
        turn = await read()
        assert [claim.id for claim in turn.claimed] == [ours]
        for worker, owner, id in ((remote, tenant, theirs), (other, other_tenant, others)):
            claimed = await remote_store.claim(tx, owner, worker, 10, jobs.clock.now())
            assert claimed is not None
            assert [claim.id for claim in claimed] == [id]
        touched = await reads(tx.connection) - before
    assert touched < 200, f"claiming 3 jobs beside {ROWS} read {touched} rows"


async def test_a_worker_keeps_its_claims_on_the_indexes(
    jobs: Jobs, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, seen = store.turn, set()

    async def watched(tx: Tx, **kwargs: Any) -> Turn:
        seen.add(await (await tx.execute("show enable_seqscan")).fetchone())
        return await turn(tx, **kwargs)

    monkeypatch.setattr(store, "turn", watched)
    await jobs.enqueue("note", Note(), tenant=tenant)
    await jobs.worker().run_until_idle()
    assert seen == {("off",)}, "a plan made while the queue was empty would stay"


async def reads(connection: psycopg.AsyncConnection[Any]) -> int:
    """Rows of the hot table that this transaction has fetched so far."""
    cursor = await connection.execute(
        "select pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid) "
        "from pg_class where oid = 'backstay.job'::regclass"
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0
