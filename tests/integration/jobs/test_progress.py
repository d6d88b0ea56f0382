"""Progress: told without waiting, written together, shown to whoever looks, and fenced."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import httpx
import pytest

from backstay.app import App
from backstay.jobs import JobContext, Jobs, progress, store
from backstay.kernel.principal import Principal

from .conftest import Note, Recorder, until, working
from .test_remote import code, dead, enqueued, registered, state


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.05)


async def test_a_handler_tells_and_whoever_looks_sees_it(jobs: Jobs, recorder: Recorder, owner: Principal) -> None:
    go_on = asyncio.Event()

    async def read(context: JobContext, note: Note) -> None:
        await context.progress(0.1)
        await context.progress(0.4, "reading page 4\0")
        await go_on.wait()
        if context.attempt == 1:
            raise RuntimeError("again")

    recorder.then = read
    id = await jobs.enqueue("note", Note(), tenant=owner.tenant)

    async def shown(fraction: float | None, text: str | None) -> bool:
        job = await jobs.get(owner, id)
        return (job.progress and round(job.progress, 3), job.progress_note) == (fraction, text)

    async with working(jobs.worker()):
        await until(lambda: shown(0.4, "reading page 4"))
        [listed] = await jobs.list(owner)
        assert listed.progress_note == "reading page 4"
        go_on.set()
        await until(lambda: shown(None, None))
    assert (await jobs.get(owner, id)).state == "completed"


async def test_a_new_attempt_begins_without(jobs: Jobs, recorder: Recorder, owner: Principal) -> None:
    told, go_on = asyncio.Event(), asyncio.Event()

    async def twice(context: JobContext, note: Note) -> None:
        if context.attempt == 1:
            context.progress(0.9)
            await told.wait()
            raise RuntimeError("again")
        await go_on.wait()

    recorder.then = twice
    id = await jobs.enqueue("note", Note(), tenant=owner.tenant)

    async with working(jobs.worker()):
        await until(lambda: _is(jobs, owner, id, 1, 0.9))
        told.set()
        await until(lambda: _is(jobs, owner, id, 2, None))
        go_on.set()


async def _is(jobs: Jobs, by: Principal, id: Any, attempt: int, fraction: float | None) -> bool:
    job = await jobs.get(by, id)
    return (job.state, job.attempt, job.progress and round(job.progress, 2)) == ("running", attempt, fraction)


async def test_many_words_are_few_statements(
    jobs: Jobs, recorder: Recorder, owner: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    report = store.report_progress

    async def counted(tx: Any, told: Any) -> Any:
        written.append(len(told))
        return await report(tx, told)

    monkeypatch.setattr(store, "report_progress", counted)
    monkeypatch.setattr(progress, "_EVERY", 0.2)
    took: list[float] = []

    async def busy(context: JobContext, note: Note) -> None:
        began = time.monotonic()
        for step in range(10_000):
            await context.progress(step / 10_000)
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.5)

    recorder.then = busy
    await jobs.enqueue_many("note", [(None, Note())] * 5, tenant=owner.tenant)
    await jobs.worker().run_until_idle()
    assert len(took) == 5
    assert 1 <= len(written) <= 10
    assert max(written) == 5, "one statement tells of all lanes"


async def test_the_database_does_not_hold_a_handler_up(jobs: Jobs, recorder: Recorder, owner: Principal) -> None:
    """A handler's own transaction locks its row: its word waits, and nobody else's does."""
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def locked(context: JobContext, note: Note) -> None:
        await context.progress(0.5, note.text)
        if note.text == "locked":
            async with context.transaction():
                inside.set()
                await go_on.wait()
        await go_on.wait()

    recorder.then = locked
    held = await jobs.enqueue("note", Note(text="locked"), tenant=owner.tenant)
    async with working(jobs.worker()):
        await inside.wait()
        ids = await jobs.enqueue_many("note", [(None, Note(text="free"))] * 3, tenant=owner.tenant)

        async def others_told() -> bool:
            return all([(await jobs.get(owner, id)).progress_note == "free" for id in ids])

        await until(others_told)
        assert (await jobs.get(owner, held)).progress_note in (None, "locked")
        go_on.set()


async def test_a_word_of_a_lost_job_is_not_written(jobs: Jobs, owner: Principal) -> None:
    id = await jobs.enqueue("note", Note(), tenant=owner.tenant)
    told = progress.Progress(jobs.db, {7})
    async with jobs.db.tenant_tx(owner.tenant) as tx:
        await tx.execute("update backstay.job set state = 'running', fence = 8 where id = %s", [id])
    told.tell(7, 0.5, "zombie")
    told.tell(9, 0.5, "never held")
    await told.write()
    assert (await jobs.get(owner, id)).progress is None
    assert list(told._told) == [7], "what is not held is forgotten"


async def test_a_handler_in_a_thread_tells_too(jobs: Jobs, owner: Principal) -> None:
    seen: list[float] = []

    def slow(context: JobContext, note: Note) -> None:
        context.progress(0.25, "in a thread")
        ends = time.monotonic() + 10
        while not seen and time.monotonic() < ends:
            time.sleep(0.01)

    jobs.handler("slow", slow, Note, timeout=timedelta(minutes=1))
    id = await jobs.enqueue("slow", Note(), tenant=owner.tenant)

    async def told() -> bool:
        return (await jobs.get(owner, id)).progress == 0.25

    async with working(jobs.worker()):
        await until(told)
        seen.append(1)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf")])
async def test_a_fraction_is_from_0_to_1(jobs: Jobs, fraction: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        progress.Progress(jobs.db, {1}).tell(1, fraction, None)


async def test_a_remote_worker_tells_and_hears_that_it_shall_stop(client: httpx.AsyncClient, app: App) -> None:
    worker, heir = await registered(client), await registered(client)
    id = await enqueued(client)
    [job] = await worker.claim()
    answer = await worker.tell(job, "progress", fraction=0.5, note="half\0way sk-ant-REDACTED")
    assert answer.json() == {"job": id, "claim": job["claim"], "cancelling": False}
    found = await state(client, id)
    assert (found["progress"], found["progress_note"][:7]) == (0.5, "halfway")
    assert "secret12345678" not in found["progress_note"]
    for body in ({"fraction": 1.1}, {"fraction": -1}, {"fraction": 0.5, "note": "x" * 501}, {}):
        assert (await worker.tell(job, "progress", **body)).status_code == 422, body
    await client.post(f"/api/jobs/{id}/cancel")
    assert (await worker.tell(job, "progress", fraction=0.6)).json()["cancelling"] is True
    await dead(app, worker)
    assert code(await worker.tell(job, "progress", fraction=0.7)) == (409, "job_lost")
    other = await enqueued(client)
    [fresh] = await heir.claim()
    assert (fresh["job"], (await state(client, other))["progress"]) == (other, None)
