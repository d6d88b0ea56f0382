"""An embedder that refuses, is down, slow or too small: what workers share, and what a write and another tenant see."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from aiohttp import web

from backstay.app import App
from backstay.content import BatchLimit, Collection, Content, pace, pipeline_store
from backstay.gateway import ContextTooLong, ProviderRefused, ProviderUnreachable
from backstay.gateway.sim.server import SimServer
from backstay.jobs import Jobs
from backstay.kernel.clock import ManualClock, SystemClock
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

from .conftest import MODEL, Words, rows, settled, until, working

Says = Callable[[], Exception]


def busy(seconds: str) -> Says:
    return lambda: ProviderRefused("slow down", 429, b"{}", {"Retry-After": seconds})


async def wait_of(notes: Collection, clock: SystemClock, tenant: UUID) -> float:
    coverage = await notes.coverage(tenant)
    assert coverage.rests_until is not None
    return (coverage.rests_until - clock.now()).total_seconds()


async def rests(notes: Collection, tenant: UUID) -> bool:
    return (await notes.coverage(tenant)).rests_until is not None


async def test_too_many_requests_costs_no_attempt_and_is_waited_for_as_told(
    notes: Collection, db: Database, jobs: Jobs, words: Words, clock: SystemClock, tenant: UUID
) -> None:
    words.fault = lambda _: busy("60")()
    await notes.put("a", {"text": "a"}, tenant=tenant)
    async with working(jobs):
        await until(lambda: rests(notes, tenant))
    assert 50 < await wait_of(notes, clock, tenant) <= 66
    assert "slow down" in str((await notes.coverage(tenant)).trouble)
    waiting = await rows(db, tenant, "select state, attempt from backstay.job where name = 'content.embed'")
    assert waiting == [("scheduled", 0)]


async def test_what_one_worker_is_told_holds_for_all_and_a_hundred_writes_leave_one_job(
    notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    words.fault = lambda _: busy("60")()
    await notes.put("first", {"text": "first"}, tenant=tenant)
    async with working(jobs, concurrency=1):
        await until(lambda: rests(notes, tenant))
    for n in range(30):
        await notes.put(str(n), {"text": f"word{n}"}, tenant=tenant)
    left = "select count(*) from backstay.job where name = 'content.embed'"

    async def one_is_left() -> bool:
        return await rows(db, tenant, left) == [(1,)]

    async with working(jobs, concurrency=8):
        await until(one_is_left)
    assert len(words.calls) == 1


async def test_after_a_rest_one_request_goes_first_and_every_answer_doubles(
    notes: Collection, content: Content, db: Database, jobs: Jobs, words: Words, owner: Principal
) -> None:
    tenant = owner.tenant
    content.pipeline.limits[MODEL] = BatchLimit(inputs=1)
    words.fault = lambda _: busy("600")()
    await notes.put_many([(str(n), {"text": f"word{n}"}) for n in range(12)], tenant=tenant)
    async with working(jobs, concurrency=1):
        await until(lambda: rests(notes, tenant))
    for n in range(12, 24):
        await notes.put(str(n), {"text": f"word{n}"}, tenant=tenant)
    words.fault, words.calls = lambda _: None, []
    words.gate.clear()
    words.asked.clear()
    waiting = "select count(*) from backstay.job where name = 'content.embed' and state in ('available', 'running')"

    async def one_asks() -> bool:
        return await rows(db, tenant, waiting) == [(1,)]  # the others have ended: they may not ask

    async with working(jobs, concurrency=8):
        await content.retry_parked(owner, "notes")  # ends the rest
        await words.asked.wait()
        await until(one_asks)
        assert len(words.calls) == 1
        words.gate.set()
        await until(lambda: _embedded(notes, tenant, 24))


async def test_an_answer_of_before_the_rest_does_not_end_it(db: Database, tenant: UUID, clock: SystemClock) -> None:
    now = clock.now()
    async with db.tenant_tx(tenant) as tx:
        await pace.failed(tx, tenant, MODEL, ProviderUnreachable("away"), now)
        await pace.answered(tx, tenant, MODEL, now - timedelta(seconds=5))
        with pytest.raises(pace.Resting):
            await pace.ask(tx, tenant, MODEL, now)
        await pace.answered(tx, tenant, MODEL, now + timedelta(hours=1))
        found = await pipeline_store.trouble(tx, tenant, MODEL)
        assert found is not None
        assert (found.width, found.failures) == (2, 0)


async def test_failures_of_one_rest_count_once_and_the_rest_grows_to_five_minutes(
    db: Database, tenant: UUID, manual_clock: ManualClock
) -> None:
    async with db.tenant_tx(tenant) as tx:
        waits = []
        for _ in range(12):
            now = manual_clock.now()
            first = await pace.failed(tx, tenant, MODEL, ProviderUnreachable("away"), now)
            assert await pace.failed(tx, tenant, MODEL, ProviderUnreachable("away"), now) >= first
            found = await pipeline_store.trouble(tx, tenant, MODEL)
            assert found is not None
            waits.append((found.rests_until - now).total_seconds())
            manual_clock.advance(found.rests_until - now)
    assert found.failures == 12
    assert 1 <= waits[0] < 2.3
    assert 300 <= waits[-1] <= 330
    assert waits[:8] == sorted(waits[:8])


async def test_an_embedder_in_trouble_with_one_tenant_answers_another(
    notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID, other_tenant: UUID
) -> None:
    words.fault = lambda inputs: busy("600")() if "mine" in inputs else None
    await notes.put("a", {"text": "mine"}, tenant=tenant)
    await notes.put("a", {"text": "theirs"}, tenant=other_tenant)
    async with working(jobs):
        await until(lambda: rests(notes, tenant))
        await until(lambda: _embedded(notes, other_tenant, 1))
    assert (await notes.coverage(other_tenant)).rests_until is None


async def test_a_large_backlog_lets_other_tenants_in_between(
    notes: Collection, content: Content, db: Database, jobs: Jobs, words: Words, tenant: UUID, other_tenant: UUID
) -> None:
    content.pipeline.limits[MODEL] = BatchLimit(inputs=1)
    await notes.put_many([(str(n), {"text": f"word{n}"}) for n in range(40)], tenant=tenant)
    await notes.put("small", {"text": "theirs"}, tenant=other_tenant)
    async with working(jobs, concurrency=1):
        await until(lambda: _embedded(notes, other_tenant, 1))
        await until(lambda: _embedded(notes, tenant, 40))
    assert words.texts.index("theirs") < 20


@pytest.mark.parametrize("too_large", [413, 400])
async def test_a_batch_that_is_too_large_is_halved_and_the_next_ones_are_cut_small(
    notes: Collection, content: Content, db: Database, jobs: Jobs, words: Words, tenant: UUID, too_large: int
) -> None:
    def fault(inputs: Sequence[str]) -> Exception | None:
        if len(inputs) <= 8:
            return None
        return (ProviderRefused if too_large == 413 else ContextTooLong)("too large", too_large, b"{}", {})

    words.fault = fault
    content.pipeline.limits[MODEL] = BatchLimit(inputs=32)
    await notes.put_many([(str(n), {"text": f"word{n}"}) for n in range(64)], tenant=tenant)
    async with working(jobs, concurrency=1):
        await until(lambda: _embedded(notes, tenant, 64))
    assert [len(call) for call in words.calls] == [32, 16, 8, 8, 16, 8, 8, 8, 8, 8, 8]
    assert (await notes.coverage(tenant)).parked == 0


async def test_a_text_that_is_too_long_for_the_embedder_is_parked_and_does_not_make_batches_small(
    notes: Collection, content: Content, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    def fault(inputs: Sequence[str]) -> Exception | None:
        return ContextTooLong("too long", 400, b"{}", {}) if "long" in inputs else None

    words.fault = fault
    content.pipeline.limits[MODEL] = BatchLimit(inputs=8)
    documents = [(f"{n:02}", {"text": "long" if n == 0 else f"word{n}"}) for n in range(24)]
    await notes.put_many(documents, tenant=tenant)
    async with working(jobs, concurrency=1):
        await until(lambda: _embedded(notes, tenant, 23))
    assert (await notes.coverage(tenant)).parked == 1
    assert len(words.calls[-1]) == 8


async def test_writes_commit_while_the_embedder_says_nothing(
    notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    words.gate.clear()
    await notes.put("a", {"text": "a"}, tenant=tenant)
    async with working(jobs, concurrency=2):
        await words.asked.wait()
        for n in range(20):
            await notes.put(f"{n}", {"text": f"word {n}"}, tenant=tenant)
            await notes.put("a", {"text": f"another text {n}"}, tenant=tenant)
        assert (await notes.coverage(tenant)).embedded == 0  # nothing was waited for
        words.gate.set()
        await until(lambda: _embedded(notes, tenant, 21))


async def _embedded(notes: Collection, tenant: UUID, count: int) -> bool:
    return (await notes.coverage(tenant)).embedded >= count


class Front(SimServer):
    """The simulator behind one that first refuses as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[web.Response] = []

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.refusals:
            await request.read()
            return self.refusals.pop(0)
        return await super()._answer(request)


async def test_over_a_socket_a_429_and_a_failure_lose_nothing_and_stand_in_the_ledger(
    settings: Settings, household: object, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Front()
    front.refusals = [
        web.json_response({"error": {"message": "busy"}}, status=429, headers={"retry-after": "1"}),
        web.json_response({"error": {"message": "down"}}, status=503),
    ]
    async with front.running() as url:
        given = settings.model_copy(update={"vllm_base_url": url, "unknown_price": "0"})
        async with App(given) as app:
            app.content.pipeline.limits["vllm:sim:dev-hash"] = BatchLimit(inputs=4)
            app.content.collection("docs", embedder="vllm:sim:dev-hash")
            docs = app.content.named("docs")
            for n in range(20):
                await docs.put(str(n), {"text": f"page {n}"}, tenant=tenant)
            await settled(app.db, app.jobs, tenant)
            assert (await docs.coverage(tenant)).embedded == 20
            calls = await app.content.embed_calls(Principal.system(tenant, "test"), "docs")
            sent = [call for call in calls if call.inputs]
            assert len(sent) == front.requests + 2
            assert sorted(call.error for call in sent if call.state == "failed") == [
                "busy",
                "the provider answered with status 503",
            ]
            assert sum(call.inputs for call in sent if call.state == "written") == 20
