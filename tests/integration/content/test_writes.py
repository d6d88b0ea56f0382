"""What a write does while the embedder is well, slow, down or refusing, and how the backlog of such a time drains."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import pytest

from backstay.content import BatchLimit, Collection, Content
from backstay.gateway import Embeddings, ProviderRefused, ProviderUnreachable
from backstay.jobs import Jobs
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal
from backstay.kernel.sql import Query

from .conftest import MODEL, Words, rows, settled, until, vector, working

_said: ContextVar[list[str] | None] = ContextVar("said", default=None)
FAULTS: dict[str, Callable[[], Exception]] = {
    "down": lambda: ProviderUnreachable("nobody is there"),
    "busy": lambda: ProviderRefused("slow down", 429, b"{}", {"Retry-After": "600"}),
    "refusing everything": lambda: ProviderRefused("unknown parameter", 400, b"{}", {}),
}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets `_said` has the names of its queries in it, and nobody else's."""
    usual = Query._execute

    async def execute(self: Query, cursor: Any, params: Mapping[str, Any]) -> None:
        if (said := _said.get()) is not None:
            said.append(f"{self.room}.{self.name}")
        await usual(self, cursor, params)

    monkeypatch.setattr(Query, "_execute", execute)


async def queries_of_a_write(notes: Collection, db: Database, tenant: UUID, id: str) -> list[str]:
    """What a put asks of the database. The embedder does not recover meanwhile: who waits for it, waits in vain."""
    said: list[str] = []
    async with db.tenant_tx(tenant) as tx:
        await tx.execute("set local lock_timeout = '10s'")
        token = _said.set(said)
        await notes.put(id, {"text": f"words of {id}"}, tx=tx)
        _said.reset(token)
    return said


@asynccontextmanager
async def trouble(name: str, notes: Collection, words: Words, jobs: Jobs, tenant: UUID) -> AsyncIterator[None]:
    """The embedder is in trouble, and a worker has met it."""
    if name == "slow":
        words.gate.clear()
    else:
        words.fault = lambda _: FAULTS[name]()
    words.asked.clear()
    async with working(jobs):
        await notes.put("waiting", {"text": f"waits while {name}"}, tenant=tenant)
        if name == "slow":
            await words.asked.wait()
        else:
            await until(lambda: _rests(notes, tenant))
        try:
            yield
        finally:
            words.gate.set()


@pytest.mark.parametrize("name", ["slow", *FAULTS])
async def test_a_write_does_the_same_and_waits_for_nobody_however_the_embedder_is(
    name: str, recorded: None, notes: Collection, words: Words, db: Database, jobs: Jobs, tenant: UUID
) -> None:
    await notes.put("first", {"text": "first"}, tenant=tenant)
    await settled(db, jobs, tenant)
    asked = len(words.calls)
    healthy = await queries_of_a_write(notes, db, tenant, "a")
    assert len(words.calls) == asked  # nobody works: a write by itself asks no embedder
    await settled(db, jobs, tenant)
    async with trouble(name, notes, words, jobs, tenant):
        meanwhile = await queries_of_a_write(notes, db, tenant, "b")
        changed = await queries_of_a_write(notes, db, tenant, "waiting")  # the very one that is on its way
    assert "content.add_pending" in healthy
    assert meanwhile == healthy
    replacing = {"change", "delete_chunks", "space", "delete_vectors"}
    assert set(changed) - set(healthy) <= {f"content.{query}" for query in replacing}


class Counting(Words):
    """Counts how many requests are on their way, and demands that there are never more than twice as many at once for
    each answer."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = self.answers = 0
        self.most: list[tuple[int, int]] = []

    async def embed(self, by: Principal, model: str, inputs: Sequence[str], **rest: Any) -> Embeddings:
        self.under_way += 1
        self.most.append((self.under_way, 2**self.answers))
        try:
            answer = await super().embed(by, model, inputs, **rest)
            await asyncio.sleep(0.05)  # as an embedder takes: time for others to come
            self.answers += 1
        finally:
            self.under_way -= 1
        return answer


class TestAfterwards:
    @pytest.fixture
    def words(self) -> Counting:
        return Counting()

    async def test_the_backlog_drains_without_a_stampede(
        self, content: Content, notes: Collection, words: Counting, db: Database, jobs: Jobs, owner: Principal
    ) -> None:
        tenant = owner.tenant
        content.pipeline.limits[MODEL] = BatchLimit(inputs=2)
        words.fault = lambda _: FAULTS["busy"]()
        await notes.put("first", {"text": "first"}, by=owner)
        async with working(jobs, concurrency=1):
            await until(lambda: _rests(notes, tenant))
        for n in range(59):  # each of these writes leaves a job
            await notes.put(str(n), {"text": f"word{n}"}, by=owner)
        words.fault, words.calls, words.most = lambda _: None, [], []
        async with working(jobs, concurrency=16), working(jobs, concurrency=16):
            await content.retry_parked(owner, "notes")  # the rest is over
            await until(lambda: _embedded(notes, tenant, 60))
        assert len(words.calls) == 30  # in sum: nothing was sent twice, and batches are full
        assert sorted(words.texts) == sorted(["first", *(f"word{n}" for n in range(59))])
        assert all(at_once <= allowed for at_once, allowed in words.most)

    async def test_a_storm_of_429_stops_no_other_tenant_and_no_other_model(
        self,
        content: Content,
        notes: Collection,
        words: Counting,
        db: Database,
        jobs: Jobs,
        tenant: UUID,
        other_tenant: UUID,
    ) -> None:
        calm = content.collection("calm", embedder="test:calm")
        words.fault = lambda inputs: FAULTS["busy"]() if any("storm" in text for text in inputs) else None
        for n in range(20):
            await notes.put(str(n), {"text": f"storm {n}"}, tenant=tenant)
        await calm.put("a", {"text": "calm"}, tenant=tenant)
        await notes.put("a", {"text": "theirs"}, tenant=other_tenant)
        async with working(jobs, concurrency=8):
            await until(lambda: _embedded(calm, tenant, 1))
            await until(lambda: _embedded(notes, other_tenant, 1))
            await until(lambda: _rests(notes, tenant))
        coverage = await notes.coverage(tenant)
        assert (coverage.pending, coverage.parked) == (20, 0)
        assert "slow down" in str(coverage.trouble)
        assert (await calm.coverage(tenant)).trouble is None
        states = await rows(db, tenant, "select distinct state from backstay.job where name = 'content.embed'")
        assert states == [("scheduled",)]


async def test_what_is_changed_deleted_and_put_back_in_one_request_leaves_vectors_of_present_texts_only(
    content: Content, notes: Collection, words: Words, db: Database, jobs: Jobs, owner: Principal
) -> None:
    """One request carries four chunks; while it is on its way one is changed, one deleted, one put back as it was."""
    tenant = owner.tenant
    words.gate.clear()
    await notes.put_many([(id, {"text": f"old {id}"}) for id in "abcd"], by=owner)
    async with working(jobs):
        await words.asked.wait()
        await notes.put("a", {"text": "new a"}, by=owner)
        await notes.delete("b", by=owner)
        await notes.put("c", {"text": "new c"}, by=owner)
        await notes.put("c", {"text": "old c"}, by=owner)
        words.gate.set()
        await until(lambda: _embedded(notes, tenant, 3))
    await settled(db, jobs, tenant)
    ((space,),) = await rows(db, tenant, "select id from backstay.space")
    held = await rows(
        db,
        tenant,
        f"select c.text, v.e::text from backstay.vec_{space} v left join backstay.chunk c on c.id = v.chunk_id",
    )
    assert {text for text, _ in held} == {"new a", "old c", "old d"}
    for text, written in held:
        assert [float(part) for part in str(written).strip("[]").split(",")] == pytest.approx(
            vector(str(text)), abs=1e-3
        )
    paid = await content.embed_calls(owner, "notes")
    assert sum(call.inputs for call in paid) == len(words.texts)
    assert {call.state for call in paid} == {"written"}


async def _rests(notes: Collection, tenant: UUID) -> bool:
    return (await notes.coverage(tenant)).rests_until is not None


async def _embedded(notes: Collection, tenant: UUID, count: int) -> bool:
    return (await notes.coverage(tenant)).embedded >= count
