"""Schedules fire each of their times once, whoever looks, and not for what nobody wanted."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from backstay.audit import Audit
from backstay.jobs import JobInputInvalid, Jobs, UnknownJob
from backstay.jobs.schedules import CronInvalid, Missed, NewSchedule, ScheduleNotFound, Schedules
from backstay.jobs.schedules import store as schedules_store
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

from .conftest import Note, Recorder, until, working


@pytest.fixture
def schedules(slow_jobs: Jobs, db: Database, manual_clock: ManualClock, vault: Vault) -> Schedules:
    """On a clock that stands still."""
    return Schedules(db, manual_clock, slow_jobs, Audit(db, manual_clock, vault))


def every_minute(**more: object) -> NewSchedule:
    return NewSchedule(**{"job": "note", "cron": "* * * * *", **more})  # type: ignore[arg-type]


async def count(db: Database, table: str) -> int:
    async with db.system_tx() as tx:
        row = await (await tx.execute(f"select count(*) from backstay.{table}")).fetchone()
    assert row is not None
    return int(row[0])


async def test_each_time_enqueues_the_job_once(
    schedules: Schedules, owner: Principal, manual_clock: ManualClock, slow_jobs: Jobs, recorder: Recorder
) -> None:
    made = await schedules.put(owner, "nightly", every_minute(input={"text": "hi"}, priority=3))
    assert made.next_at is not None
    assert await schedules.fire() == 0
    manual_clock.advance(timedelta(minutes=1))
    assert [await schedules.fire() for _ in range(3)] == [1, 0, 0]
    manual_clock.advance(timedelta(minutes=1))
    assert await schedules.fire() == 1
    await slow_jobs.worker().run_until_idle()
    assert recorder.texts == ["hi", "hi"]
    fires = await schedules.fires(owner, "nightly")
    assert [fire.at for fire in fires] == [made.next_at + timedelta(minutes=1), made.next_at]
    jobs = await slow_jobs.list(owner)
    assert {job.id for job in jobs} == {fire.job_id for fire in fires}
    assert {job.priority for job in jobs} == {3}
    assert (await schedules.get(owner, "nightly")).last_at == fires[0].at


async def test_many_workers_that_look_at_once_fire_each_schedule_once(
    schedules: Schedules,
    owner: Principal,
    manual_clock: ManualClock,
    database_url: str,
    settings: Settings,
    vault: Vault,
) -> None:
    for number in range(150):
        await schedules.put(owner, f"s{number}", every_minute())
    manual_clock.advance(timedelta(minutes=1))

    async def look() -> int:
        async with Database(database_url, settings) as db:
            jobs = Jobs(db, manual_clock, settings)
            return await Schedules(db, manual_clock, jobs, Audit(db, manual_clock, vault)).fire()

    fired = await asyncio.gather(*(look() for _ in range(6)), schedules.fire())
    assert sum(fired) == 150
    assert await count(schedules._db, "schedule_fire") == 150
    assert await count(schedules._db, "job") == 150


async def test_what_breaks_in_the_middle_of_firing_leaves_nothing_and_is_fired_later(
    schedules: Schedules, owner: Principal, manual_clock: ManualClock, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await schedules.put(owner, "s", every_minute())
    manual_clock.advance(timedelta(minutes=1))
    with monkeypatch.context() as patch:

        async def broken(*_: object) -> None:
            raise RuntimeError("killed here")

        patch.setattr(schedules_store, "advance", broken)
        with pytest.raises(RuntimeError):
            await schedules.fire()
    assert (await count(db, "schedule_fire"), await count(db, "job")) == (0, 0)
    assert await schedules.fire() == 1


async def test_one_that_is_made_again_does_not_fire_twice_for_one_time(
    schedules: Schedules, owner: Principal, manual_clock: ManualClock, db: Database
) -> None:
    before = manual_clock.now()
    await schedules.put(owner, "s", every_minute())
    manual_clock.advance(timedelta(minutes=1))
    assert await schedules.fire() == 1
    await schedules.delete(owner, "s")
    manual_clock.advance(before - manual_clock.now())
    await schedules.put(owner, "s", every_minute())
    manual_clock.advance(timedelta(minutes=1))
    assert await schedules.fire() == 0
    assert await count(db, "job") == 1


@pytest.mark.parametrize(("missed", "fired"), [(Missed.ONCE, 1), (Missed.SKIP, 0)])
async def test_after_a_time_without_workers_it_fires_once_or_waits(
    schedules: Schedules, owner: Principal, manual_clock: ManualClock, missed: Missed, fired: int
) -> None:
    await schedules.put(owner, "s", NewSchedule(job="note", cron="0 * * * *", missed=missed))
    hour = manual_clock.now().replace(minute=0, second=0, microsecond=0)
    manual_clock.advance(timedelta(hours=10) + timedelta(minutes=30) + (hour - manual_clock.now()))
    assert await schedules.fire() == fired
    assert [fire.at for fire in await schedules.fires(owner, "s")] == [hour + timedelta(hours=10)] * fired
    assert (await schedules.get(owner, "s")).next_at == hour + timedelta(hours=11)


async def test_without_overlap_a_firing_waits_for_the_one_before(
    schedules: Schedules, owner: Principal, manual_clock: ManualClock, db: Database
) -> None:
    await schedules.put(owner, "s", every_minute(overlap=False))
    for _ in range(3):
        manual_clock.advance(timedelta(minutes=1))
        await schedules.fire()
    assert await count(db, "job") == 1
    assert len({fire.job_id for fire in await schedules.fires(owner, "s")}) == 1


async def test_paused_it_does_not_fire_and_what_lay_in_the_pause_was_not_missed(
    schedules: Schedules, owner: Principal, manual_clock: ManualClock
) -> None:
    await schedules.put(owner, "s", every_minute())
    assert (await schedules.pause(owner, "s")).next_at is None
    manual_clock.advance(timedelta(minutes=5))
    assert await schedules.fire() == 0
    resumed = await schedules.resume(owner, "s")
    assert resumed.next_at is not None
    assert resumed.next_at > manual_clock.now()
    assert await schedules.fire() == 0
    manual_clock.advance(timedelta(minutes=1))
    assert await schedules.fire() == 1


async def test_a_change_of_the_input_keeps_the_next_time_and_one_of_the_expression_does_not(
    schedules: Schedules, owner: Principal, manual_clock: ManualClock
) -> None:
    first = await schedules.put(owner, "s", NewSchedule(job="note", cron="0 * * * *"))
    manual_clock.advance(timedelta(hours=1))
    same = await schedules.put(owner, "s", NewSchedule(job="note", cron="0 * * * *", input={"text": "new"}))
    assert same.next_at == first.next_at
    again = await schedules.put(owner, "s", NewSchedule(job="note", cron="0 * * * *", input={"text": "new"}))
    assert again.updated_at == same.updated_at
    other = await schedules.put(owner, "s", NewSchedule(job="note", cron="30 * * * *"))
    assert other.next_at is not None
    assert other.next_at > manual_clock.now()


async def test_run_now_enqueues_besides_the_times(schedules: Schedules, owner: Principal, slow_jobs: Jobs) -> None:
    before = await schedules.put(owner, "s", every_minute(input={"text": "now"}))
    job = await slow_jobs.get(owner, await schedules.run_now(owner, "s"))
    assert job.input == {"text": "now"}
    assert (await schedules.get(owner, "s")).next_at == before.next_at


async def test_other_tenants_neither_see_nor_touch_it(
    schedules: Schedules, owner: Principal, other_owner: Principal, manual_clock: ManualClock, slow_jobs: Jobs
) -> None:
    await schedules.put(owner, "s", every_minute())
    await schedules.put(other_owner, "theirs", every_minute())
    for change in (
        schedules.get,
        schedules.pause,
        schedules.resume,
        schedules.delete,
        schedules.run_now,
        schedules.fires,
    ):
        with pytest.raises(ScheduleNotFound):
            await change(other_owner, "s")  # type: ignore[operator]
    manual_clock.advance(timedelta(minutes=1))
    assert await schedules.fire() == 2
    assert len(await slow_jobs.list(owner)) == len(await slow_jobs.list(other_owner)) == 1
    assert [schedule.name for schedule in await schedules.list(other_owner)] == ["theirs"]


async def test_what_is_wrong_is_refused_before_anything_is_written(
    schedules: Schedules, owner: Principal, db: Database
) -> None:
    wrong = [
        (every_minute(cron="61 * * * *"), CronInvalid),
        (every_minute(timezone="Mars/Olympus"), CronInvalid),
        (every_minute(job="unheard"), UnknownJob),
        (every_minute(input={"text": ["no"]}), JobInputInvalid),
    ]
    for new, error in wrong:
        with pytest.raises(error):
            await schedules.put(owner, "s", new)
    assert await count(db, "schedule") == 0


async def test_one_that_cannot_be_read_rests_and_stops_no_other(
    schedules: Schedules, owner: Principal, manual_clock: ManualClock, db: Database
) -> None:
    await schedules.put(owner, "bad", every_minute())
    await schedules.put(owner, "good", every_minute())
    async with db.system_tx() as tx:
        await tx.execute("update backstay.schedule set timezone = 'Mars/Olympus' where name = 'bad'")
    manual_clock.advance(timedelta(minutes=1))
    assert await schedules.fire() == 1
    assert await schedules.fire() == 0


async def test_firings_are_kept_for_30_days(
    schedules: Schedules, owner: Principal, manual_clock: ManualClock, db: Database
) -> None:
    await schedules.put(owner, "s", NewSchedule(job="note", cron="0 0 1 * *"))
    for _ in range(2):
        manual_clock.advance(timedelta(days=32))
        await schedules.fire()
    await schedules._prune()
    assert await count(db, "schedule_fire") == 1


async def test_a_worker_fires_at_the_time(
    db: Database, settings: Settings, clock: object, vault: Vault, owner: Principal, jobs: Jobs, recorder: Recorder
) -> None:
    schedules = Schedules(db, jobs.clock, jobs, Audit(db, jobs.clock, vault))
    async with working(jobs.worker(), jobs.worker()):
        # Made while the workers wait for nothing: they must hear of it, their poll is far slower.
        await schedules.put(owner, "s", NewSchedule(job="note", cron="* * * * * *"))
        await until(lambda: len(recorder.seen) >= 3)
    fires = await schedules.fires(owner, "s")
    assert len({fire.at for fire in fires}) == len(fires) >= 3


async def test_declared_by_the_program_it_is_put_at_the_start(
    schedules: Schedules, tenant: UUID, owner: Principal, slow_jobs: Jobs
) -> None:
    job = slow_jobs.handler("hello", Recorder(), Note)
    schedules.declare("hello", job, Note(text="x"), "0 3 * * *", timezone="Europe/Berlin", overlap=False)
    with pytest.raises(ConfigurationError):
        schedules.declare("hello", job, Note(), "0 3 * * *", timezone="UTC")
    with pytest.raises(CronInvalid):
        schedules.declare("never", job, Note(), "0 0 31 2 *", timezone="UTC")
    with pytest.raises(ConfigurationError):
        schedules.declare("no spaces", job, Note(), "0 3 * * *", timezone="UTC")
    for _ in range(2):
        await schedules.put_declared(tenant)
    found = await schedules.get(owner, "hello")
    assert (found.job, found.input, found.timezone, found.overlap) == ("hello", {"text": "x"}, "Europe/Berlin", False)
    assert [at.astimezone(UTC).minute for at in found.coming] == [0] * 5
    assert found.created_at == found.updated_at <= datetime.now(UTC)
