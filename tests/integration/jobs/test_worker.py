"""The worker: outcomes, retries, rescue, fences, limits, cancellation and the end."""

import asyncio
import threading
import time
from datetime import timedelta
from uuid import UUID

import pytest

from backstay.jobs import (
    Cancel,
    Discard,
    JobContext,
    JobLost,
    Jobs,
    JobState,
    Retry,
    RetryLater,
    Snooze,
    runner,
    upkeep,
)
from backstay.kernel.clock import ManualClock
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal

from .conftest import Note, Recorder, until, working


async def value(db: Database, query: str) -> object:
    async with db.system_tx() as tx:
        row = await (await tx.execute(query)).fetchone()
    return None if row is None else row[0]


def fail(*_: object) -> None:
    raise ConnectionError("no route for Bearer abcdefghijklmnop")


async def test_a_failure_is_retried_with_backoff_and_then_discarded(
    slow_jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal, manual_clock: ManualClock
) -> None:
    recorder.then = fail
    id = await slow_jobs.enqueue("note", Note(), tenant=tenant)
    for attempt, longest in ((1, timedelta(minutes=1)), (2, timedelta(minutes=2))):
        await slow_jobs.worker().run_until_idle()
        job = await slow_jobs.get(owner, id)
        assert (job.state, job.attempt) == (JobState.RETRYABLE, attempt)
        assert manual_clock.now() <= job.run_at <= manual_clock.now() + longest
        assert "no route" in (job.error or "")
        assert "abcdefghijklmnop" not in (job.error or "")
        await slow_jobs.worker().run_until_idle()
        assert len(recorder.seen) == attempt, "it ran before its time"
        manual_clock.advance(longest)
    await slow_jobs.worker().run_until_idle()
    job = await slow_jobs.get(owner, id)
    assert (job.state, job.attempt) == (JobState.DISCARDED, 3)
    assert [attempt for _, attempt in recorder.seen] == [1, 2, 3]
    assert [dead.id for dead in await slow_jobs.list(owner, state=JobState.DISCARDED)] == [id]


async def test_a_dead_job_can_be_retried_by_hand(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal
) -> None:
    recorder.then = lambda *_: give_up()

    def give_up() -> None:
        raise Discard("useless")

    id = await jobs.enqueue("note", Note(text="x" * 70_000), tenant=tenant)
    await jobs.worker().run_until_idle()
    assert (await jobs.get(owner, id)).state == JobState.DISCARDED
    recorder.then = None
    assert (await jobs.retry(owner, id)).state == JobState.AVAILABLE
    await jobs.worker().run_until_idle()
    job = await jobs.get(owner, id)
    assert (job.state, job.attempt) == (JobState.COMPLETED, 1)
    assert len(recorder.seen) == 2


@pytest.mark.parametrize(
    ("signal", "state", "attempt"),
    [
        (Snooze(timedelta(hours=1)), JobState.SCHEDULED, 0),
        (RetryLater("later", timedelta(hours=1)), JobState.RETRYABLE, 1),
        (Cancel("no longer wanted"), JobState.CANCELLED, 1),
        (Discard("cannot work"), JobState.DISCARDED, 1),
    ],
)
async def test_signals_pass_through_except_exception(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal, signal: BaseException, state: str, attempt: int
) -> None:
    def careless(*_: object) -> None:
        try:
            raise signal
        except Exception:
            pytest.fail("an `except Exception` ate the signal")

    recorder.then = careless
    id = await jobs.enqueue("note", Note(), tenant=tenant)
    await jobs.worker().run_until_idle()
    job = await jobs.get(owner, id)
    assert (job.state, job.attempt) == (state, attempt)


async def test_a_scheduled_job_runs_when_its_time_has_come(
    slow_jobs: Jobs, recorder: Recorder, tenant: UUID, manual_clock: ManualClock
) -> None:
    at = manual_clock.now() + timedelta(hours=1)
    await slow_jobs.enqueue("note", Note(text="then"), tenant=tenant, at=at)
    await slow_jobs.worker().run_until_idle()
    assert recorder.seen == []
    manual_clock.advance(timedelta(hours=1))
    await slow_jobs.worker().run_until_idle()
    assert recorder.texts == ["then"]


async def test_a_job_due_in_a_moment_does_not_wait_for_the_poll(
    jobs: Jobs, recorder: Recorder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_POLL", 600.0)
    async with working(jobs.worker(lease=timedelta(minutes=10))):
        await jobs.enqueue("note", Note(text="warm"), tenant=tenant)
        await until(lambda: len(recorder.seen) == 1)
        began = time.monotonic()
        at = jobs.clock.now() + timedelta(milliseconds=100)
        await jobs.enqueue("note", Note(text="soon"), tenant=tenant, at=at)
        await until(lambda: len(recorder.seen) == 2)
        assert time.monotonic() - began >= 0.1


async def test_a_sync_handler_runs_in_a_thread(jobs: Jobs, tenant: UUID, owner: Principal) -> None:
    seen: list[str] = []

    def blocking(context: JobContext, note: Note) -> None:
        seen.append(threading.current_thread().name)

    job = jobs.job(name="blocking")(blocking)
    id = await job.enqueue(Note(), tenant=tenant)
    await jobs.worker().run_until_idle()
    assert (await jobs.get(owner, id)).state == JobState.COMPLETED
    assert seen[0].startswith("backstay-job")


async def test_an_attempt_over_its_timeout_fails(jobs: Jobs, tenant: UUID, owner: Principal) -> None:
    cancelled = asyncio.Event()

    async def forever(context: JobContext, note: Note) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    job = jobs.job(name="forever", timeout=timedelta(milliseconds=20), retry=Retry(max_attempts=1))(forever)
    id = await job.enqueue(Note(), tenant=tenant)
    await jobs.worker().run_until_idle()
    assert cancelled.is_set()
    found = await jobs.get(owner, id)
    assert (found.state, found.error) == (JobState.DISCARDED, "it took longer than its timeout of 0.02 seconds")


async def test_what_the_handler_itself_cancels_or_exits_is_a_failure(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal
) -> None:
    for error in (asyncio.CancelledError(), SystemExit(3), TimeoutError()):

        def leave(*_: object, error: BaseException = error) -> None:
            raise error

        recorder.then = leave
        id = await jobs.enqueue("note", Note(), tenant=tenant)
        async with working(jobs.worker()):
            await until(lambda id=id: state_is(jobs, owner, id, JobState.DISCARDED))  # type: ignore[misc]
        assert type(error).__name__ in ((await jobs.get(owner, id)).error or "")


async def state_is(jobs: Jobs, by: Principal, id: UUID, state: JobState) -> bool:
    return (await jobs.get(by, id)).state == state


async def test_input_that_no_longer_fits_is_discarded_and_says_why(
    jobs: Jobs, tenant: UUID, owner: Principal, db: Database
) -> None:
    id = await jobs.enqueue("note", Note(), tenant=tenant)
    async with db.system_tx() as tx:
        await tx.execute("""update backstay.job set payload = '{"text": [1]}'""")
    await jobs.worker().run_until_idle()
    job = await jobs.get(owner, id)
    assert job.state == JobState.DISCARDED
    assert "the input does not fit" in (job.error or "")


async def test_a_running_job_is_cancelled_on_request(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal
) -> None:
    recorder.then = lambda *_: asyncio.Event().wait()
    waiting = await jobs.enqueue("note", Note(), tenant=tenant, at=jobs.clock.now() + timedelta(hours=1))
    assert (await jobs.cancel(owner, waiting)).state == JobState.CANCELLED
    id = await jobs.enqueue("note", Note(), tenant=tenant)
    async with working(jobs.worker()):
        await until(lambda: len(recorder.seen) == 1)
        assert (await jobs.cancel(owner, id)).state == JobState.RUNNING
        await until(lambda: state_is(jobs, owner, id, JobState.CANCELLED))
        recorder.then = None
        await jobs.enqueue("note", Note(text="the lane goes on"), tenant=tenant)
        await until(lambda: recorder.texts[-1] == "the lane goes on")


async def test_a_stopping_worker_lets_jobs_end_and_gives_the_rest_back(
    jobs: Jobs, recorder: Recorder, tenant: UUID, db: Database, owner: Principal
) -> None:
    go_on = asyncio.Event()
    recorder.then = lambda _, note: go_on.wait() if note.text == "quick" else asyncio.Event().wait()
    quick = await jobs.enqueue("note", Note(text="quick"), tenant=tenant)
    stuck = await jobs.enqueue("note", Note(text="stuck"), tenant=tenant)
    ahead = [await jobs.enqueue("note", Note(text="ahead"), tenant=tenant) for _ in range(3)]
    stop = asyncio.Event()
    worker = jobs.worker(concurrency=2, grace=timedelta(seconds=0.5))
    running = asyncio.create_task(worker.run(stop))
    await until(lambda: len(recorder.seen) == 2)
    stop.set()
    go_on.set()
    await running
    assert (await jobs.get(owner, quick)).state == JobState.COMPLETED
    for id in (stuck, *ahead):
        job = await jobs.get(owner, id)
        assert (job.state, job.attempt) == (JobState.AVAILABLE, 0)
    assert await value(db, "select count(*) from backstay.worker") == 0
    assert recorder.texts == ["quick", "stuck"]


async def test_a_dead_workers_job_is_rescued_after_its_lease_and_its_late_write_changes_nothing(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal, db: Database
) -> None:
    """The first worker neither beats nor watches its lease, like a frozen process."""
    first, second = jobs.worker(lease=timedelta(seconds=1)), jobs.worker(lease=timedelta(seconds=1))
    go_on, begun = asyncio.Event(), asyncio.Event()
    late: list[object] = []

    async def once(id: UUID) -> None:
        await asyncio.Event().wait()

    first._lease._beat = once  # type: ignore[method-assign]
    first._lease.lapse = lambda why: None  # type: ignore[method-assign]

    async def body(context: JobContext, note: Note) -> None:
        if context.attempt == 1 and not begun.is_set():
            begun.set()
            await go_on.wait()
            try:
                async with context.transaction():
                    late.append("written")
            except JobLost as error:
                late.append(error)
                return

    recorder.then = body
    id = await jobs.enqueue("note", Note(), tenant=tenant)
    async with working(first):
        await asyncio.wait_for(begun.wait(), 10)
        expires = await value(db, "select expires_at from backstay.worker")
        async with working(second):
            await until(lambda: len(recorder.seen) == 2)
            assert await value(db, "select clock_timestamp()") >= expires
            await until(lambda: state_is(jobs, owner, id, JobState.COMPLETED))
        done = await jobs.get(owner, id)
        assert (done.rescues, done.attempt) == (1, 1)
        go_on.set()
        await until(lambda: bool(late))
        assert isinstance(late[0], JobLost)
    assert await jobs.get(owner, id) == done
    assert await value(db, "select count(*) from backstay.job_done") == 1


async def test_a_late_completion_is_refused(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal, db: Database
) -> None:
    """The zombie's handler has ended: its outcome must not end the attempt that another worker makes."""
    go_on = asyncio.Event()
    recorder.then = lambda *_: go_on.wait()
    id = await jobs.enqueue("note", Note(), tenant=tenant)
    async with working(jobs.worker(lease=timedelta(seconds=60))):
        await until(lambda: len(recorder.seen) == 1)
        async with db.system_tx() as tx:  # as the claim of another worker would leave it
            await tx.execute(
                "insert into backstay.worker (id, name, queues, started_at, seen_at, expires_at) "
                "values (gen_random_uuid(), 'other', '{}', now(), now(), now() + interval '1 hour')"
            )
            await tx.execute(
                "update backstay.job set fence = fence + 1000, "
                "worker_id = (select id from backstay.worker where name = 'other')"
            )
        go_on.set()
        recorder.then = None
        await jobs.enqueue("note", Note(text="next"), tenant=tenant)
        await until(lambda: recorder.texts[-1] == "next")
        await until(lambda: counted(db, 1))
        assert (await jobs.get(owner, id)).state == JobState.RUNNING


async def counted(db: Database, done: int) -> bool:
    return await value(db, "select count(*) from backstay.job_done") == done


async def test_a_late_worker_stops_its_own_work_before_others_may_take_it(
    jobs: Jobs, recorder: Recorder, tenant: UUID, db: Database
) -> None:
    worker = jobs.worker(lease=timedelta(seconds=0.6))
    expires: list[object] = []

    async def stuck_heartbeat(id: UUID) -> None:
        await asyncio.Event().wait()

    async def body(context: JobContext, note: Note) -> None:
        if len(recorder.seen) == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                expires.append(await value(db, "select expires_at > clock_timestamp() from backstay.worker"))
                raise

    recorder.then = body
    worker._lease._beat = stuck_heartbeat  # type: ignore[method-assign]
    await jobs.enqueue("note", Note(), tenant=tenant)
    async with working(worker):
        await until(lambda: bool(expires))
    assert expires == [True], "it stopped only when others might have had the job already"


async def test_a_worker_declared_dead_registers_again_and_goes_on(
    jobs: Jobs, recorder: Recorder, tenant: UUID, db: Database
) -> None:
    worker = jobs.worker(lease=timedelta(seconds=0.5))
    async with working(worker):
        await until(lambda: worker.id is not None)
        first = worker.id
        async with db.system_tx() as tx:
            await tx.execute("delete from backstay.worker")
        await until(lambda: worker.id not in (None, first))
        await jobs.enqueue("note", Note(text="again"), tenant=tenant)
        await until(lambda: recorder.texts == ["again"])


async def test_claims_whose_answer_was_lost_are_given_back(
    jobs: Jobs, recorder: Recorder, tenant: UUID, db: Database
) -> None:
    """A connection that breaks at commit leaves a job claimed by a worker that does not know of it."""
    worker = jobs.worker(lease=timedelta(seconds=0.5))
    async with working(worker):
        await until(lambda: worker.id is not None)
        async with db.tenant_tx(tenant) as tx:
            await jobs.enqueue("note", Note(text="lost"), tenant=tenant, tx=tx)
            await tx.execute(
                "update backstay.job set state = 'running', attempt = 1, fence = 77, worker_id = %s", [worker.id]
            )
        await until(lambda: recorder.seen == [("lost", 1)])


async def test_a_job_that_kills_its_workers_is_discarded(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal, db: Database
) -> None:
    told: list[str] = []

    async def on_discard(context: JobContext, note: Note, reason: str) -> None:
        told.append(reason)

    jobs.handler("killer", recorder, Note, retry=Retry(max_rescues=2), on_discard=on_discard)
    id = await jobs.enqueue("killer", Note(), tenant=tenant)
    async with db.system_tx() as tx:
        await tx.execute("update backstay.job set rescues = 3")
    await jobs.worker().run_until_idle()
    assert (await jobs.get(owner, id)).state == JobState.DISCARDED
    assert recorder.seen == []
    assert told == ["3 workers died while they ran it"]


async def test_workers_lost_count_only_in_a_row(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal, db: Database
) -> None:
    def later(*_: object) -> None:
        raise Snooze(timedelta(hours=1))

    recorder.then = later
    id = await jobs.enqueue("note", Note(), tenant=tenant)
    async with db.system_tx() as tx:
        await tx.execute("update backstay.job set rescues = 3")
    await jobs.worker().run_until_idle()
    assert (await jobs.get(owner, id)).rescues == 0, "this worker has survived it"


async def test_a_job_that_lost_twenty_workers_waits_before_the_next_one_has_it(
    jobs: Jobs, tenant: UUID, owner: Principal, db: Database
) -> None:
    patient = await jobs.enqueue("note", Note(), tenant=tenant)
    async with db.system_tx() as tx:
        await tx.execute(
            "update backstay.job set state = 'running', worker_id = gen_random_uuid(), attempt = 1, rescues = 20"
        )
    now = jobs.clock.now()
    assert await upkeep.rescue(db, now) == 1
    job = await jobs.get(owner, patient)
    assert (job.state, job.rescues, job.attempt) == (JobState.RETRYABLE, 21, 0)
    assert job.run_at > now
    assert job.error == "21 workers in a row were lost while they ran it; it is tried again"


async def test_a_failed_job_gives_way_to_a_newer_one_with_its_key(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal
) -> None:
    newer: list[UUID] = []

    async def body(context: JobContext, note: Note) -> None:
        if note.text == "old":
            newer.append(await jobs.enqueue("note", Note(text="new"), tenant=tenant, key="k"))
            raise ConnectionError

    recorder.then = body
    old = await jobs.enqueue("note", Note(text="old"), tenant=tenant, key="k")
    await jobs.worker().run_until_idle()
    assert recorder.texts == ["old", "new"]
    found = await jobs.get(owner, old)
    assert (found.state, found.error) == (JobState.CANCELLED, "a newer job with this key took its place")
    assert (await jobs.get(owner, newer[0])).state == JobState.COMPLETED


async def test_a_paused_queue_is_not_claimed_from(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal
) -> None:
    await jobs.pause("default")
    async with working(jobs.worker()):
        await jobs.enqueue("note", Note(text="paused"), tenant=tenant)
        await jobs.enqueue("note", Note(text="other"), tenant=tenant, queue="elsewhere")
        await until(lambda: recorder.texts == ["other"])
        default = next(queue for queue in await jobs.queues(owner) if queue.name == "default")
        assert (default.name, default.paused, default.available) == ("default", True, 1)
        await jobs.resume("default")
        await until(lambda: recorder.texts == ["other", "paused"])


async def test_a_queues_limit_holds_over_several_workers(jobs: Jobs, recorder: Recorder, tenant: UUID) -> None:
    running = highest = 0

    async def body(context: JobContext, note: Note) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0.005)
        running -= 1

    recorder.then = body
    await jobs.limit("default", 3)
    await jobs.enqueue_many("note", [(None, Note()) for _ in range(60)], tenant=tenant)
    async with working(*(jobs.worker(concurrency=8) for _ in range(3))):
        await until(lambda: len(recorder.seen) == 60)
    assert highest == 3


async def test_a_worker_leaves_jobs_it_does_not_know(
    jobs: Jobs, recorder: Recorder, tenant: UUID, owner: Principal
) -> None:
    unknown = await jobs.enqueue("of another program", Note(), tenant=tenant)
    await jobs.enqueue("note", Note(text="mine"), tenant=tenant)
    async with working(jobs.worker()):
        await until(lambda: recorder.texts == ["mine"])
    assert (await jobs.get(owner, unknown)).state == JobState.AVAILABLE


async def test_several_workers_run_each_job_once(
    jobs: Jobs, recorder: Recorder, tenant: UUID, other_tenant: UUID
) -> None:
    for whose in (tenant, other_tenant):
        await jobs.enqueue_many("note", [(None, Note(text=f"{whose} {n}")) for n in range(300)], tenant=whose)
    async with working(*(jobs.worker(concurrency=4) for _ in range(4))):
        await until(lambda: len(recorder.seen) >= 600)
    assert len(set(recorder.texts)) == len(recorder.seen) == 600


async def test_finished_days_are_dropped_and_days_ahead_are_made(jobs: Jobs, tenant: UUID, db: Database) -> None:
    await jobs.enqueue("note", Note(text="x" * 70_000), tenant=tenant)
    await jobs.worker().run_until_idle()
    now = jobs.clock.now()
    async with db.system_tx() as tx:
        await tx.execute(
            "update backstay.job_done set finished_at = finished_at + interval '5 days'"
        )  # beyond the days made ahead: it lands in the safety net
    assert await value(db, "select count(*) from backstay.job_done_default") == 1
    await upkeep.prune(db, now + timedelta(days=4))
    assert await value(db, "select count(*) from backstay.job_done_default") == 0
    assert await value(db, "select count(*) from backstay.job_done") == 1
    part = f"job_done_{now:%Y%m%d}"
    assert await value(db, f"select to_regclass('backstay.{part}')::text") is not None
    await upkeep.prune(db, now + timedelta(days=30))
    assert await value(db, f"select to_regclass('backstay.{part}')::text") is None
    assert await value(db, "select count(*) from backstay.job_done") == 0
    assert await value(db, "select count(*) from backstay.blob") == 0


async def test_a_handler_never_holds_the_claim_connection(
    jobs: Jobs, recorder: Recorder, tenant: UUID, db: Database
) -> None:
    """As many handlers as there are connections sit in transactions; others are claimed meanwhile."""
    go_on = asyncio.Event()
    entered = 0

    async def body(context: JobContext, note: Note) -> None:
        nonlocal entered
        if note.text == "hold":
            async with db.tenant_tx(context.tenant):
                entered += 1
                await go_on.wait()

    recorder.then = body
    await jobs.enqueue_many("note", [(None, Note(text="hold")) for _ in range(8)], tenant=tenant)
    async with working(jobs.worker(concurrency=16)):
        await until(lambda: entered == 8)
        async with db.system_tx() as tx:
            await jobs.enqueue("note", Note(text="free"), tenant=tenant, tx=tx)
        await until(lambda: "free" in recorder.texts)
        go_on.set()


async def test_a_loop_that_loses_its_cancellation_does_not_keep_a_worker_from_leaving(jobs: Jobs) -> None:
    begun, lost = asyncio.Event(), list[str]()

    async def loop() -> None:
        while True:
            try:
                begun.set()
                await asyncio.sleep(3600)
            except asyncio.CancelledError:  # as `asyncio.wait_for` of Python 3.11 does
                if lost:
                    raise
                lost.append("once")

    jobs.chore(loop)
    stop = asyncio.Event()
    async with asyncio.timeout(30):
        working = asyncio.create_task(jobs.worker().run(stop))
        await begun.wait()
        stop.set()
        await working
    assert lost == ["once"]
