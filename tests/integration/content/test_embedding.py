"""The embedding pipeline against everything that may happen while a request is on its way."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from backstay.app import App
from backstay.content import BatchLimit, Collection, Content, store
from backstay.gateway import Embeddings, ProviderRefused, ProviderUnreachable
from backstay.jobs import Jobs
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal
from conftest import MASTER_KEY

from .conftest import MODEL, Words, idle, rows, settled, until, vector, working

HELD = "select c.text, v.e::text from backstay.vec_{0} v join backstay.chunk c on c.id = v.chunk_id order by 1"


async def vectors(db: Database, tenant: UUID) -> list[tuple[object, ...]]:
    """Text and vector of every chunk that has one, over all spaces."""
    found = []
    for (space,) in await rows(db, tenant, "select id from backstay.space where dimensions is not null"):
        found += await rows(db, tenant, HELD.format(space))
    return found


async def calls(db: Database, tenant: UUID) -> list[tuple[object, ...]]:
    return await rows(db, tenant, "select state, inputs from backstay.embed_call order by id")


def refuses(word: str) -> object:
    def fault(inputs: Sequence[str]) -> Exception | None:
        if any(word in text for text in inputs):
            return ProviderRefused("a text is not to its liking", 400, b"{}", {})
        return None

    return fault


async def test_every_chunk_gets_its_own_vector(notes: Collection, db: Database, jobs: Jobs, tenant: UUID) -> None:
    await notes.put_many([(str(n), {"text": f"word{n}"}) for n in range(30)], tenant=tenant)
    await settled(db, jobs, tenant)
    found = dict(await vectors(db, tenant))
    assert len(found) == 30
    for text, literal in found.items():
        given = [float(part) for part in str(literal).strip("[]").split(",")]
        assert given == pytest.approx(vector(str(text)), abs=1e-3)
    coverage = await notes.coverage(tenant)
    assert (coverage.embedded, coverage.pending, coverage.parked, coverage.lag) == (30, 0, 0, 0)


async def test_one_request_carries_chunks_of_many_documents(
    notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    for n in range(20):
        await notes.put(str(n), {"text": f"word{n}"}, tenant=tenant)
    async with working(jobs, concurrency=1):
        await idle(db, tenant)
    assert [len(call) for call in words.calls] == [20]


async def test_requests_stay_within_their_limits(
    content: Content, db: Database, jobs: Jobs, words: Words, notes: Collection, tenant: UUID
) -> None:
    content.pipeline.limits[MODEL] = BatchLimit(7, 20)
    await notes.put_many([(str(n), {"text": f"abc {n:02}"}) for n in range(20)], tenant=tenant)  # 2 tokens each
    await notes.put("long", {"text": "x" * 100}, tenant=tenant)  # more than a request may have: it goes alone
    await settled(db, jobs, tenant)
    assert len(words.texts) == 21
    assert max(map(len, words.calls)) == 7
    assert ["x" * 100] in words.calls


async def test_an_event_names_the_documents_that_were_embedded(
    notes: Collection, db: Database, jobs: Jobs, tenant: UUID
) -> None:
    await notes.put_many([("b", {"text": "b"}), ("a", {"text": "a"})], tenant=tenant)
    await settled(db, jobs, tenant)
    assert await rows(db, tenant, "select payload from backstay.outbox where type = 'content.embedded'") == [
        ({"collection": "notes", "chunks": 2, "documents": ["a", "b"]},)
    ]


async def test_no_connection_is_held_while_the_embedder_works(
    notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    words.gate.clear()
    await notes.put("a", {"text": "a"}, tenant=tenant)
    async with working(jobs):
        await words.asked.wait()
        open_since = (
            "select count(*) from pg_stat_activity where state = 'idle in transaction' and datname = current_database()"
        )
        await until(lambda: _is_zero(db, tenant, open_since))
        words.gate.set()
        await idle(db, tenant)


async def _is_zero(db: Database, tenant: UUID, query: str) -> bool:
    return await rows(db, tenant, query) == [(0,)]


async def test_a_late_answer_never_overwrites_a_newer_text(
    notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    words.gate.clear()
    await notes.put("a", {"text": "old text"}, tenant=tenant)
    async with working(jobs):
        await words.asked.wait()
        await notes.put("a", {"text": "new text"}, tenant=tenant)
        words.gate.set()
        await idle(db, tenant)
    assert [text for text, _ in await vectors(db, tenant)] == ["new text"]
    assert await rows(db, tenant, "select 1 from backstay.embed_pending") == []
    (space,) = (await rows(db, tenant, "select id from backstay.space"))[0]
    assert len(await rows(db, tenant, f"select 1 from backstay.vec_{space}")) == 1


async def test_a_document_deleted_while_it_is_embedded_leaves_nothing(
    notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    words.gate.clear()
    await notes.put_many([("a", {"text": "a"}), ("b", {"text": "b"})], tenant=tenant)
    async with working(jobs):
        await words.asked.wait()
        await notes.delete("a", tenant=tenant)
        words.gate.set()
        await idle(db, tenant)
    assert [text for text, _ in await vectors(db, tenant)] == ["b"]
    assert (await notes.coverage(tenant)).embedded == 1


async def test_a_change_that_is_open_when_the_answer_comes_is_not_waited_for(
    notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    words.gate.clear()
    await notes.put_many([("a", {"text": "a"}), ("b", {"text": "b"})], tenant=tenant)
    async with working(jobs):
        await words.asked.wait()
        async with db.tenant_tx(tenant) as tx:
            await notes.put("a", {"text": "changed"}, tx=tx)
            words.gate.set()
            await until(lambda: _embedded(notes, tenant, 1))  # b's vector is committed though a is locked
        await idle(db, tenant)
    assert [text for text, _ in await vectors(db, tenant)] == ["b", "changed"]


async def test_a_change_that_rolls_back_after_the_answer_is_embedded_again(
    notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    words.gate.clear()
    await notes.put_many([("a", {"text": "a"}), ("b", {"text": "b"})], tenant=tenant)
    async with working(jobs):
        await words.asked.wait()
        with suppress(ZeroDivisionError):
            async with db.tenant_tx(tenant) as tx:
                await notes.put("a", {"text": "changed"}, tx=tx)
                words.gate.set()
                await until(lambda: _embedded(notes, tenant, 1))
                raise ZeroDivisionError
        await notes.put("c", {"text": "c"}, tenant=tenant)
        await until(lambda: _embedded(notes, tenant, 2))
    assert "a" in {hit.id for hit in (await notes.search("a", tenant=tenant)).hits}


async def test_a_chunk_that_is_weighed_anew_when_the_answer_comes_gets_its_vector(
    notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    words.gate.clear()
    await notes.put("a", {"text": "a"}, tenant=tenant)
    async with working(jobs):
        await words.asked.wait()
        await until(lambda: _is_zero(db, tenant, "select count(*) from backstay.job where name = 'content.fold'"))
        async with db.tenant_tx(tenant) as tx:
            assert len(await store.outweighed(tx, tenant, "notes", 2.0, 10)) == 1
            words.gate.set()
            await until(lambda: _embedded(notes, tenant, 1))
        await idle(db, tenant)
    assert words.texts == ["a"]


async def test_a_chunk_that_stands_in_an_open_change_gets_its_vector(
    content: Content, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    pages = content.collection("pages", embedder=MODEL, chunk_size=200, overlap=0)
    first, second = (f"# Part {name}\n\n" + f"{name} words go here. " * 8 for name in ("alpha", "beta"))
    words.gate.clear()
    await pages.put("p", {"text": first}, tenant=tenant)
    async with working(jobs):
        await words.asked.wait()
        async with db.tenant_tx(tenant) as tx:
            await pages.put("p", {"text": f"{first}\n\n{second}"}, tx=tx)
            words.gate.set()
            await until(lambda: _embedded(pages, tenant, 1))
        await idle(db, tenant)
    assert len(words.texts) == 2


async def _embedded(notes: Collection, tenant: UUID, count: int) -> bool:
    return (await notes.coverage(tenant)).embedded >= count


class TestFailures:
    async def test_text_search_works_while_the_embedder_is_down(
        self, notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
    ) -> None:
        words.fault = lambda _: ProviderUnreachable("nobody is there")
        await notes.put("a", {"text": "a lighthouse"}, tenant=tenant)
        async with working(jobs):
            await until(lambda: _rests(notes, tenant))
            answer = await notes.search("lighthouse", tenant=tenant)
            assert (answer.mode, [hit.id for hit in answer.hits]) == ("text", ["a"])
            assert "text_only" in answer.flags
            words.fault = lambda _: None
            await until(lambda: _embedded(notes, tenant, 1))
        assert [state for state, _ in await calls(db, tenant)][-1] == "written"

    async def test_a_chunk_that_is_refused_is_parked_and_stops_no_other(
        self,
        content: Content,
        notes: Collection,
        db: Database,
        jobs: Jobs,
        words: Words,
        tenant: UUID,
        owner: Principal,
    ) -> None:
        words.fault = refuses("poison")  # type: ignore[assignment]
        documents = [(f"{n:02}", {"text": "poison apple" if n in (3, 17) else f"apple {n}"}) for n in range(20)]
        await notes.put_many(documents, tenant=tenant)
        await settled(db, jobs, tenant)
        coverage = await notes.coverage(tenant)
        assert (coverage.embedded, coverage.pending, coverage.parked) == (18, 0, 2)
        parked = await rows(db, tenant, "select error from backstay.embed_pending")
        assert parked == [("a text is not to its liking",)] * 2
        assert "03" in {hit.id for hit in (await notes.search("poison", tenant=tenant, mode="text")).hits}
        words.fault = lambda _: None
        assert await content.retry_parked(owner, "notes") == 2
        await settled(db, jobs, tenant)
        assert (await notes.coverage(tenant)).embedded == 20

    async def test_a_single_refused_chunk_is_parked(
        self, notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
    ) -> None:
        words.fault = refuses("poison")  # type: ignore[assignment]
        await notes.put("a", {"text": "poison"}, tenant=tenant)
        await settled(db, jobs, tenant)
        assert (await notes.coverage(tenant)).parked == 1

    async def test_an_embedder_that_refuses_everything_parks_nothing(
        self, notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
    ) -> None:
        words.fault = lambda _: ProviderRefused("unknown parameter", 400, b"{}", {})
        await notes.put_many([(str(n), {"text": f"text {n}"}) for n in range(8)], tenant=tenant)
        async with working(jobs):
            await until(lambda: _rests(notes, tenant))
            assert (await notes.coverage(tenant)).parked == 0
            words.fault = lambda _: None
            await until(lambda: _embedded(notes, tenant, 8))

    async def test_a_model_that_changes_its_dimensions_parks_what_waits_and_is_paid_once(
        self, notes: Collection, content: Content, db: Database, jobs: Jobs, words: Words, owner: Principal
    ) -> None:
        tenant = owner.tenant
        await notes.put("a", {"text": "a"}, tenant=tenant)
        await settled(db, jobs, tenant)
        words.dimensions = 32
        content.pipeline.limits[MODEL] = BatchLimit(inputs=2)
        await notes.put_many([(str(n), {"text": f"b{n}"}) for n in range(7)], tenant=tenant)
        await settled(db, jobs, tenant)
        coverage = await notes.coverage(tenant)
        assert (coverage.embedded, coverage.pending, coverage.parked) == (1, 0, 7)
        assert len(words.calls) == 2
        parked = await content.parked(owner, "notes")
        assert {chunk.id for chunk in parked} == {str(n) for n in range(7)}
        assert all("32 dimensions, 64 stand" in chunk.error for chunk in parked)
        refused = (await content.embed_calls(owner, "notes"))[0]
        assert (refused.state, refused.cost) == ("failed", Decimal("0.001"))
        words.dimensions = 64
        assert await content.retry_parked(owner, "notes") == 7
        await settled(db, jobs, tenant)
        assert (await notes.coverage(tenant)).embedded == 8

    async def test_vectors_of_more_dimensions_than_postgres_stores_are_parked(
        self, notes: Collection, content: Content, db: Database, jobs: Jobs, words: Words, owner: Principal
    ) -> None:
        words.dimensions = 16_001
        await notes.put("a", {"text": "a"}, by=owner)
        await settled(db, jobs, owner.tenant)
        (chunk,) = await content.parked(owner, "notes")
        assert "16001 dimensions" in chunk.error

    @pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 1e6])
    async def test_a_vector_that_nothing_can_be_near_to_is_parked_alone(
        self,
        notes: Collection,
        content: Content,
        db: Database,
        jobs: Jobs,
        words: Words,
        owner: Principal,
        value: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        usual = words.embed

        async def embed(by: Principal, model: str, inputs: Sequence[str], **rest: Any) -> Embeddings:
            answer = await usual(by, model, inputs, **rest)
            given = [
                [value] * 64 if text == "odd" else vector for text, vector in zip(inputs, answer.vectors, strict=True)
            ]
            return replace(answer, vectors=given)

        monkeypatch.setattr(words, "embed", embed)
        await notes.put_many([("a", {"text": "even"}), ("b", {"text": "odd"})], by=owner)
        await settled(db, jobs, owner.tenant)
        assert [chunk.id for chunk in await content.parked(owner, "notes")] == ["b"]
        assert (await notes.coverage(owner.tenant)).embedded == 1

    async def test_another_tenant_sees_neither_what_is_parked_nor_what_was_paid(
        self,
        notes: Collection,
        content: Content,
        db: Database,
        jobs: Jobs,
        words: Words,
        owner: Principal,
        other_owner: Principal,
    ) -> None:
        words.fault = refuses("poison")  # type: ignore[assignment]
        await notes.put("a", {"text": "poison"}, by=owner)
        await notes.put("b", {"text": "bread"}, by=other_owner)
        await settled(db, jobs, owner.tenant, other_owner.tenant)
        assert [chunk.id for chunk in await content.parked(owner, "notes")] == ["a"]
        assert await content.parked(other_owner, "notes") == []
        assert [call.state for call in await content.embed_calls(other_owner, "notes")] == ["written"]

    async def test_what_a_discarded_job_left_is_swept_up(
        self, content: Content, notes: Collection, db: Database, jobs: Jobs, tenant: UUID
    ) -> None:
        await notes.put("a", {"text": "a"}, tenant=tenant)
        await rows(db, tenant, "delete from backstay.job returning 1")
        assert await content.sweep(timedelta(0)) == 1
        await settled(db, jobs, tenant)
        assert (await notes.coverage(tenant)).embedded == 1
        assert await content.sweep(timedelta(0)) == 0


async def _rests(notes: Collection, tenant: UUID) -> bool:
    return (await notes.coverage(tenant)).rests_until is not None


async def test_a_worker_killed_between_answer_and_write_costs_one_request_again(
    content: Content,
    notes: Collection,
    db: Database,
    jobs: Jobs,
    words: Words,
    tenant: UUID,
    database_url: str,
) -> None:
    await notes.put_many([(str(n), {"text": f"word{n}"}) for n in range(5)], tenant=tenant)
    program = Path(__file__).with_name("dying_embedder.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(program), database_url), stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"answered\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert await calls(db, tenant) == [("asked", 5)]
    await settled(db, jobs, tenant)  # another worker rescues the job
    assert await calls(db, tenant) == [("lost", 5), ("written", 5)]
    assert len(words.calls) == 1
    assert (await notes.coverage(tenant)).embedded == 5


async def test_the_ledger_shows_what_was_paid_though_the_worker_died_before_the_vectors_were_written(
    app: App, db: Database, tenant: UUID, database_url: str
) -> None:
    docs = app.collection("docs", embedder="sim:dev-hash?price=0.10")
    await docs.put_many([(str(n), {"text": f"word{n}"}) for n in range(3)], tenant=tenant)
    program = Path(__file__).with_name("dying_writer.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(program), database_url, MASTER_KEY), stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"answered\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert [state for state, _ in await calls(db, tenant)] == ["answered"]
    await settled(db, app.jobs, tenant)
    by = Principal.system(tenant, "test")
    made = [(call.state, call.cost) for call in await app.content.embed_calls(by, "docs")]
    assert made == [("written", Decimal("0.10")), ("lost", Decimal("0.10"))]
    spent = {row.name: row.cost for row in await app.gateway.spend(by, "feature")}
    assert spent == {"content.embed": Decimal("0.20")}
    assert (await docs.coverage(tenant)).embedded == 3


async def test_texts_that_change_around_a_killed_worker_have_their_own_vectors_and_its_request_stays_paid(
    app: App, db: Database, tenant: UUID, database_url: str
) -> None:
    docs = app.collection("docs", embedder="sim:dev-hash?price=0.10")
    await docs.put_many([(str(n), {"text": f"word{n}"}) for n in range(3)], tenant=tenant)
    program = Path(__file__).with_name("dying_writer.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(program), database_url, MASTER_KEY), stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"answered\n"
    await docs.put("0", {"text": "another"}, tenant=tenant)
    await docs.delete("1", tenant=tenant)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await docs.put("3", {"text": "later"}, tenant=tenant)
    await settled(db, app.jobs, tenant)
    assert [text for text, _ in await vectors(db, tenant)] == ["another", "later", "word2"]
    made = [(call.state, call.cost) for call in await app.content.embed_calls(Principal.system(tenant, "test"), "docs")]
    assert made.count(("lost", Decimal("0.10"))) == 1
    assert {state for state, _ in made} == {"lost", "written"}


async def test_many_workers_and_writers_end_with_every_text_embedded_once_and_right(
    content: Content, notes: Collection, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    content.pipeline.limits[MODEL] = BatchLimit(inputs=5)
    async with working(jobs, concurrency=8), asyncio.TaskGroup() as group:

        async def write(writer: int) -> None:
            for turn in range(12):
                batch = [(str(n), {"text": f"doc {n} writer {writer} turn {turn}"}) for n in range(writer % 3, 9, 2)]
                if turn % 5 == 4:
                    await notes.delete(batch[0][0], tenant=tenant)
                else:
                    await notes.put_many(batch[::-1] if writer % 2 else batch, tenant=tenant)

        for writer in range(6):
            group.create_task(write(writer))
    await settled(db, jobs, tenant)
    chunks = await rows(db, tenant, "select text from backstay.chunk order by 1")
    found = await vectors(db, tenant)
    assert [text for text, _ in found] == [text for (text,) in chunks]
    for text, literal in found:
        given = [float(part) for part in str(literal).strip("[]").split(",")]
        assert given == pytest.approx(vector(str(text)), abs=1e-3)
    await content.statistics.fold(tenant, "notes")
    assert await rows(db, tenant, "select chunks from backstay.collection") == [(len(chunks),)]
    expected = sum(len(set(str(text).split())) for (text,) in chunks)
    assert await rows(db, tenant, "select coalesce(sum(chunks), 0) from backstay.bm_term") == [(expected,)]


async def test_the_gateway_bills_and_audits_what_is_embedded(app: App, db: Database, tenant: UUID) -> None:
    docs = app.collection("docs")
    await docs.put("a", {"text": "a boat in the harbour"}, tenant=tenant)
    await settled(db, app.jobs, tenant)
    assert (await docs.coverage(tenant)).embedded == 1
    answer = await docs.search("boats", tenant=tenant)
    assert (answer.mode, answer.flags) == ("text", ("text_only", "short"))
    hybrid = await docs.search("boats", tenant=tenant, mode="hybrid")
    assert (hybrid.mode, hybrid.hits[0].id, set(hybrid.hits[0].scores)) == ("hybrid", "a", {"text", "vector"})
    spend = {row.name for row in await app.gateway.spend(Principal.system(tenant, "test"), "feature")}
    assert spend == {"content.embed", "content.search"}
