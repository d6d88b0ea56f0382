"""Limits hold exactly over all workers, and hold up nothing that they do not concern."""

import asyncio
import sys
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from backstay.jobs import Jobs, LimitInvalid, PerKey, Rate, store, upkeep
from backstay.jobs.remote import store as remote_store
from backstay.kernel.db import Database
from backstay.kernel.ids import new_id

from . import limiting
from .conftest import Note, Recorder, until, working
from .test_fairness import WORKER, Claims, by_tenant, fill


@pytest.fixture
async def claims(db: Database, jobs: Jobs) -> Claims:
    async with db.system_tx() as tx:
        await store.add_worker(tx, WORKER, "limits", ["default"], 3_600)
    return Claims(db, jobs)


async def turn_back_the_starts(db: Database, seconds: float) -> None:
    """As if so much time had gone by since they began."""
    async with db.system_tx() as tx:
        await tx.execute("update backstay.job_start set at = at - %s * interval '1 second'", [seconds])


def test_a_rate_is_read_and_written() -> None:
    assert Rate.read("100/minute") == Rate(100, 60)
    assert Rate.read("30/10 minutes") == Rate(30, 600)
    assert [str(Rate.read(text)) for text in ("5/s", "1/hours", "7/90s", "2/day")] == ["5/s", "1/h", "7/90s", "2/d"]
    for wrong in ("", "often", "0/s", "5/0s", "5/2days", "-1/s", "5/month", "1e3/s", "99999999999/s"):
        with pytest.raises(LimitInvalid):
            Rate.read(wrong)


async def test_a_window_never_has_more_starts_than_its_rate(jobs: Jobs, claims: Claims, db: Database) -> None:
    tenant = new_id()
    await jobs.limit("default", rate="10/minute")
    await fill(jobs, tenant, 100)
    assert len(await claims(4)) == 4
    await turn_back_the_starts(db, 30)
    turn = await claims.turn(50)
    assert len(turn.claimed) == 6
    full = await claims.turn(50)
    assert full.claimed == []
    assert full.wait is not None
    assert 25 < full.wait <= 30, "the first four leave the window in half a minute"
    await turn_back_the_starts(db, 31)
    assert len(await claims(50)) == 4, "the window slides: what began in its second half still counts"
    await turn_back_the_starts(db, 60)
    assert len(await claims(50)) == 10, "and what began a whole window ago does not"


async def test_a_rate_of_one_name_holds_up_no_other(jobs: Jobs, claims: Claims, recorder: Recorder) -> None:
    tenant = new_id()
    jobs.handler("other", recorder, Note, rate="3/hour")
    await upkeep.declare(jobs.db, jobs.handlers)
    await fill(jobs, tenant, 500, name="other", priority=50)
    await fill(jobs, tenant, 20)
    assert Counter(job.name for job in await claims(10)) == {"other": 3, "note": 7}
    assert Counter(job.name for job in await claims(10)) == {"note": 10}


async def test_a_key_has_its_places_and_holds_up_no_other_key(jobs: Jobs, claims: Claims, recorder: Recorder) -> None:
    jobs.handler("other", recorder, Note, concurrency=PerKey(3, lambda note: note.text or None))
    await upkeep.declare(jobs.db, jobs.handlers)
    tenant, other_tenant = new_id(), new_id()
    for text, count in (("ada", 200), ("bob", 2), ("", 4)):
        await jobs.enqueue_many("other", [(None, Note(text=text))] * count, tenant=tenant)
    await jobs.enqueue_many("other", [(None, Note(text="ada"))] * 9, tenant=other_tenant)
    turn = await claims.turn(100)
    assert Counter((job.tenant, job.limit_key) for job in turn.claimed) == {
        (tenant, "ada"): 3,
        (tenant, "bob"): 2,
        (tenant, ""): 4,
        (other_tenant, "ada"): 3,
    }
    assert await claims(100) == []
    ended = [job.fence for job in turn.claimed if job.limit_key == "ada" and job.tenant == tenant][:1]
    await claims.turn(0, ended)
    assert [(job.tenant, job.limit_key) for job in await claims(100)] == [(tenant, "ada")]


async def test_a_thousand_full_keys_do_not_hide_a_free_one(jobs: Jobs, claims: Claims, recorder: Recorder) -> None:
    """A scan sees 64 of them; the next goes on behind."""
    jobs.handler("other", recorder, Note, concurrency=PerKey(1, lambda note: note.text))
    await upkeep.declare(jobs.db, jobs.handlers)
    tenant = new_id()
    await jobs.enqueue_many("other", [(None, Note(text=f"{n:04}")) for n in range(200)], tenant=tenant)
    claimed = 0
    while got := len(await claims(64)):
        claimed += got
    assert claimed == 200
    await jobs.enqueue_many("other", [(None, Note(text=f"{n:04}")) for n in range(200)], tenant=tenant)
    await jobs.enqueue("other", Note(text="free"), tenant=tenant)
    looks = 0
    turn = await claims.turn(64)
    while not turn.claimed:
        assert claims.flows.goes_on(turn, 64), "a scan that saw only full ones is followed by another"
        looks += 1
        turn = await claims.turn(64)
    assert [job.limit_key for job in turn.claimed] == ["free"]
    assert looks <= 4


async def test_limits_are_taken_together(jobs: Jobs, claims: Claims, recorder: Recorder) -> None:
    jobs.handler("other", recorder, Note, rate="5/hour", concurrency=PerKey(2, lambda note: note.text))
    await upkeep.declare(jobs.db, jobs.handlers)
    one, two = new_id(), new_id()
    await jobs.limit("default", 9)
    await jobs.share("default", one, max_running=4)
    for tenant in (one, two):
        for text in ("a", "b", "c"):
            await jobs.enqueue_many("other", [(None, Note(text=text))] * 10, tenant=tenant)
        await fill(jobs, tenant, 30)
    claimed: list[object] = []
    while got := await claims(50):
        claimed += got
    names = Counter(job.name for job in claimed)  # type: ignore[attr-defined]
    assert len(claimed) == 9
    assert names["other"] <= 5
    assert by_tenant(claimed)[one] <= 4  # type: ignore[arg-type]
    keys = Counter((job.tenant, job.limit_key) for job in claimed if job.limit_key)  # type: ignore[attr-defined]
    assert max(keys.values()) <= 2


async def test_a_key_that_cannot_be_stored_is_refused(jobs: Jobs, recorder: Recorder) -> None:
    key = ""
    job = jobs.handler("other", recorder, Note, concurrency=PerKey(3, lambda _: key))
    for key in ("x" * 201, "a\0b"):  # noqa: B007 -- the limit's function reads it
        with pytest.raises(LimitInvalid):
            await job.enqueue(Note(), tenant=new_id())
    with pytest.raises(LimitInvalid):
        PerKey(0, lambda note: note.text)


async def test_a_worker_begins_the_next_job_when_a_place_is_free(
    jobs: Jobs, recorder: Recorder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, one place, and no poll in the time of the test: each end wakes whoever waits."""
    monkeypatch.setattr("backstay.jobs.runner._POLL", 60.0)
    await jobs.limit("default", 1)
    await jobs.enqueue_many("note", [(None, Note(text=str(n))) for n in range(30)], tenant=tenant)
    async with working(jobs.worker(concurrency=2), jobs.worker(concurrency=2)):
        await until(lambda: len(recorder.seen) == 30)


async def test_a_worker_wakes_when_the_window_turns(
    jobs: Jobs, recorder: Recorder, tenant: UUID, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backstay.jobs.runner._POLL", 60.0)
    began: list[float] = []
    recorder.then = lambda context, note: began.append(asyncio.get_running_loop().time())
    await jobs.limit("default", rate="2/s")
    await jobs.enqueue_many("note", [(None, Note())] * 6, tenant=tenant)
    turns = 0
    turn = store.turn

    async def counted(*args: object, **kwargs: object) -> object:
        nonlocal turns
        turns += 1
        return await turn(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "turn", counted)
    async with working(jobs.worker()):
        await until(lambda: len(began) == 6)
    async with db.system_tx() as tx:
        rows = await (await tx.execute("select started_at from backstay.job_done order by started_at")).fetchall()
        starts = await (await tx.execute("select at, jobs from backstay.job_start order by at")).fetchall()
    assert len(rows) == 6
    times = [at for at, jobs_ in starts for _ in range(jobs_)]
    assert all((later - earlier).total_seconds() >= 1 for earlier, later in zip(times, times[2:], strict=False))
    assert turns < 40, "it waits for the window and does not ask again and again"


async def test_starts_of_remote_workers_count_in_a_queues_window(
    jobs: Jobs, claims: Claims, db: Database, tenant: UUID
) -> None:
    await jobs.limit("default", rate="5/minute")
    await fill(jobs, tenant, 10)
    await jobs.enqueue_many("resize", [(None, Note())] * 10, tenant=tenant, remote=True)
    worker = new_id()
    async with db.system_tx() as tx:
        await remote_store.register(
            tx, tenant=tenant, id=worker, name="x", queues=["default"], names=["resize"], lease=60
        )
    assert len(await claims(2)) == 2
    async with db.system_tx(indexed=True) as tx:
        await remote_store.lock_limits(tx, tenant, worker)
        theirs = await remote_store.claim(tx, tenant, worker, 10, jobs.clock.now())
    assert theirs is not None
    assert len(theirs) == 3
    assert await claims(5) == []


async def test_three_processes_never_run_more_than_a_key_allows(
    jobs: Jobs, tenant: UUID, database_url: str, tmp_path: Path
) -> None:
    limiting.register(jobs)
    orders = [(None, limiting.Order(customer=name)) for _ in range(25) for name in ("ada", "bob")]
    await jobs.enqueue_many("ship", orders, tenant=tenant)
    command = [sys.executable, limiting.__file__, database_url, str(tmp_path)]
    workers = [
        await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        for _ in range(3)
    ]
    async with asyncio.timeout(60):
        told = b"".join([(await worker.communicate())[0] for worker in workers]).decode().splitlines()
    # A start is told before it happens to others' eyes and an end after: sorted by time, ends first at a tie.
    events = sorted((float(at), what == "begin", who) for what, at, who in (line.split() for line in told))
    running: Counter[str] = Counter()
    highest: Counter[str] = Counter()
    for _, begins, who in events:
        running[who] += 1 if begins else -1
        highest[who] = max(highest[who], running[who])
    assert sum(begins for _, begins, _ in events) == 50
    assert highest == {"ada": 2, "bob": 2}


async def test_handlers_of_no_limit_any_more_lift_it(jobs: Jobs, db: Database, recorder: Recorder) -> None:
    jobs.handler("other", recorder, Note, rate="3/hour")
    await upkeep.declare(jobs.db, jobs.handlers)
    plain = Jobs(db, jobs.clock, jobs.settings)
    plain.handler("other", recorder, Note)
    await upkeep.declare(db, plain.handlers)
    async with db.system_tx() as tx:
        assert await (await tx.execute("select * from backstay.job_limit")).fetchall() == []
