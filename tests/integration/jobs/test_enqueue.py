"""Enqueue: in the caller's transaction, once for each key, and never losing a newer change."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from backstay.jobs import JobInputInvalid, JobNotFound, Jobs, JobState
from backstay.kernel.db import Database
from backstay.kernel.errors import TenantMismatch
from backstay.kernel.principal import Principal

from .conftest import Note, Recorder, until, working


class Oops(Exception):
    pass


async def test_a_job_runs_with_its_input_and_moves_away(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal, db: Database
) -> None:
    id = await jobs.enqueue("note", Note(text="hello"), tenant=tenant)
    await jobs.worker().run_until_idle()
    assert recorder.seen == [("hello", 1)]
    job = await jobs.get(owner, id)
    assert (job.state, job.attempt, job.input) == (JobState.COMPLETED, 1, {"text": "hello"})
    async with db.system_tx() as tx:
        left = await (await tx.execute("select count(*) from backstay.job")).fetchone()
    assert left == (0,)


async def test_a_job_rolls_back_with_its_transaction(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal, db: Database
) -> None:
    async def write() -> None:
        async with db.tenant_tx(tenant) as tx:
            await jobs.enqueue("note", Note(text="never"), tenant=tenant, tx=tx)
            raise Oops

    with pytest.raises(Oops):
        await write()
    await jobs.worker().run_until_idle()
    assert await jobs.list(owner) == []
    assert recorder.seen == []


async def test_a_transaction_of_another_tenant_is_refused(
    jobs: Jobs, tenant: UUID, other_tenant: UUID, db: Database
) -> None:
    async with db.tenant_tx(other_tenant) as tx:
        with pytest.raises(TenantMismatch):
            await jobs.enqueue("note", Note(), tenant=tenant, tx=tx)


async def test_tenants_do_not_see_each_others_jobs(
    jobs: Jobs, tenant: UUID, owner: Principal, other_owner: Principal
) -> None:
    id = await jobs.enqueue("note", Note(), tenant=tenant)
    assert [job.id for job in await jobs.list(owner)] == [id]
    assert await jobs.list(other_owner) == []
    with pytest.raises(JobNotFound):
        await jobs.get(other_owner, id)
    with pytest.raises(JobNotFound):
        await jobs.cancel(other_owner, id)


async def test_a_waiting_job_with_the_key_stands(
    jobs: Jobs, recorder: Recorder, tenant: UUID, other_tenant: UUID
) -> None:
    first = await jobs.enqueue("note", Note(text="first"), tenant=tenant, key="k")
    assert await jobs.enqueue("note", Note(text="second"), tenant=tenant, key="k") == first
    assert await jobs.enqueue("note", Note(text="other key"), tenant=tenant, key="l") != first
    assert await jobs.enqueue("note", Note(text="other tenant"), tenant=other_tenant, key="k") != first
    await jobs.worker().run_until_idle()
    assert sorted(recorder.texts) == ["first", "other key", "other tenant"]
    assert await jobs.enqueue("note", Note(text="again"), tenant=tenant, key="k") != first


async def test_while_the_standing_job_runs_a_new_one_is_queued_and_starts_after_it(
    jobs: Jobs, recorder: Recorder, tenant: UUID
) -> None:
    """The running one may have read the row before this caller changed it."""
    started, go_on = asyncio.Event(), asyncio.Event()
    running = 0

    async def hold() -> None:
        nonlocal running
        running += 1
        assert running == 1, "two jobs with one key ran at once"
        started.set()
        await go_on.wait()
        running -= 1

    recorder.then = lambda _, note: None if note.text == "probe" else hold()
    first = await jobs.enqueue("note", Note(text="old"), tenant=tenant, key="row")
    async with working(jobs.worker(concurrency=4), jobs.worker(concurrency=4)):
        await asyncio.wait_for(started.wait(), 10)
        second = await jobs.enqueue("note", Note(text="new"), tenant=tenant, key="row")
        third = await jobs.enqueue("note", Note(text="newer"), tenant=tenant, key="row")
        assert second != first
        assert third == second
        await jobs.enqueue("note", Note(text="probe"), tenant=tenant, key="elsewhere")
        await until(lambda: "probe" in recorder.texts)  # so both workers have looked for work since
        assert recorder.texts == ["old", "probe"]
        go_on.set()
        await until(lambda: len(recorder.seen) == 3)
    assert sorted(recorder.texts) == ["new", "old", "probe"]


async def test_the_standing_job_cannot_run_before_the_callers_change_is_committed(
    jobs: Jobs, recorder: Recorder, tenant: UUID, db: Database
) -> None:
    """It would read the old row, and no job would be left to read the new one."""
    standing = await jobs.enqueue("note", Note(text="embed"), tenant=tenant, key="row")
    async with db.tenant_tx(tenant) as tx:
        assert await jobs.enqueue("note", Note(text="embed"), tenant=tenant, key="row", tx=tx) == standing
        async with working(jobs.worker()):
            await jobs.enqueue("note", Note(text="unrelated"), tenant=tenant)
            await until(lambda: "unrelated" in recorder.texts)
            assert recorder.texts == ["unrelated"]
    await jobs.worker().run_until_idle()
    assert recorder.texts == ["unrelated", "embed"]


async def test_enqueue_brings_a_scheduled_job_forward(slow_jobs: Jobs, tenant: UUID, owner: Principal) -> None:
    now = slow_jobs.clock.now()
    id = await slow_jobs.enqueue("note", Note(), tenant=tenant, key="k", at=now + timedelta(hours=4))
    assert (await slow_jobs.get(owner, id)).state == JobState.SCHEDULED
    assert await slow_jobs.enqueue("note", Note(), tenant=tenant, key="k", at=now + timedelta(hours=1)) == id
    assert (await slow_jobs.get(owner, id)).run_at == now + timedelta(hours=1)
    assert await slow_jobs.enqueue("note", Note(), tenant=tenant, key="k", priority=5) == id
    job = await slow_jobs.get(owner, id)
    assert (job.state, job.run_at, job.priority) == (JobState.AVAILABLE, now, 5)


async def test_many_keys_in_one_statement(jobs: Jobs, recorder: Recorder, tenant: UUID) -> None:
    standing = await jobs.enqueue("note", Note(text="b"), tenant=tenant, key="b")
    ids = await jobs.enqueue_many(
        "note",
        [("a", Note(text="a")), ("b", Note(text="b2")), (None, Note(text="c")), ("a", Note(text="a2"))],
        tenant=tenant,
    )
    assert ids[1] == standing
    assert ids[0] == ids[3]
    assert len(set(ids)) == 3
    await jobs.worker().run_until_idle()
    assert sorted(recorder.texts) == ["a", "b", "c"]


async def test_keys_in_opposite_order_do_not_deadlock(jobs: Jobs, tenant: UUID, db: Database) -> None:
    keys = [str(number) for number in range(50)]

    async def add(order: list[str]) -> list[UUID]:
        return await jobs.enqueue_many("note", [(key, Note()) for key in order], tenant=tenant)

    answers = await asyncio.gather(*(add(keys if turn % 2 else keys[::-1]) for turn in range(20)))
    for turn, ids in enumerate(answers):
        assert (ids if turn % 2 else ids[::-1]) == answers[1]


async def test_a_large_input_goes_to_blob(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal, db: Database
) -> None:
    text = "x" * 100_000
    id = await jobs.enqueue("note", Note(text=text), tenant=tenant)
    async with db.tenant_tx(tenant) as tx:
        row = await (await tx.execute("select payload is null from backstay.job")).fetchone()
    assert row == (True,)
    assert (await jobs.get(owner, id)).input == {"text": text}
    await jobs.worker().run_until_idle()
    assert recorder.texts == [text]


@pytest.mark.parametrize("key", ["", "x" * 501, "nul\0"])
async def test_impossible_keys_are_refused(jobs: Jobs, tenant: UUID, key: str) -> None:
    with pytest.raises(JobInputInvalid):
        await jobs.enqueue("note", Note(), tenant=tenant, key=key)


async def test_a_nul_in_the_input_is_refused_and_its_escape_is_not(
    jobs: Jobs, recorder: Recorder, tenant: UUID
) -> None:
    with pytest.raises(JobInputInvalid):
        await jobs.enqueue("note", Note(text="a\0b"), tenant=tenant)
    await jobs.enqueue("note", Note(text="a\\u0000b 🎈"), tenant=tenant)
    await jobs.worker().run_until_idle()
    assert recorder.texts == ["a\\u0000b 🎈"]


async def test_a_time_without_zone_is_refused(jobs: Jobs, tenant: UUID) -> None:
    with pytest.raises(JobInputInvalid):
        await jobs.enqueue("note", Note(), tenant=tenant, at=datetime(2026, 1, 1))
    assert await jobs.enqueue("note", Note(), tenant=tenant, at=datetime(2026, 1, 1, tzinfo=UTC))


async def test_priority_then_age_decide_the_order(jobs: Jobs, recorder: Recorder, tenant: UUID) -> None:
    for text, priority in (("c", 0), ("d", 0), ("a", 9), ("e", -3), ("b", 1)):
        await jobs.enqueue("note", Note(text=text), tenant=tenant, priority=priority)
    await jobs.worker(concurrency=1).run_until_idle()
    assert recorder.texts == ["a", "b", "c", "d", "e"]
