"""Text search by posting lists finds what looking at every chunk finds: after any history, beside any other work."""

import asyncio
import random
from collections import Counter
from typing import Any
from uuid import UUID

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from backstay.content import Collection, Content, bm25, store
from backstay.content.filters import Filter
from backstay.content.postings import leg
from backstay.content.postings import store as lists_store
from backstay.content.tokens import terms
from backstay.content.within import Given, Within
from backstay.kernel.db import Database

from .conftest import rows
from .test_search import VOCABULARY, library

COMMON = "common"
QUERIES = ["badat", "badat kefen limnim", COMMON, f"{COMMON} mogol", "absent", " ".join(VOCABULARY[:10]), "rare7 badat"]
SELECT = "select id from unnest(array['d3', 'd5', 'd7', 'gone']) as g (id)"


@pytest.fixture
def content(content: Content) -> Content:
    """Lists from thirty chunks on, in segments of 200."""
    content.statistics.postings.least, content.statistics.postings.most = 30, 200
    return content


def texts(count: int, seed: int) -> dict[str, str]:
    """Some words are in every chunk, some in one."""
    return {id: f"{COMMON} {text} rare{n}" for n, (id, text) in enumerate(library(count, seed).items())}


async def every(
    db: Database, tenant: UUID, query: str, limit: int, where: dict[str, Any] | None = None, within: Given | None = None
) -> list[float]:
    """The scores of the best chunks, by looking at every chunk."""
    async with db.tenant_tx(tenant) as tx:
        wanted = bm25.wanted(query)
        totals = await store.totals(tx, tenant, "notes", wanted)
        weights = bm25.literal(bm25.query_weights(wanted, totals.frequencies, totals.chunks))
        chosen = Filter.of(where, Within.of(within))
        return [one.score for one in await store.text_leg(tenant, "notes", weights, limit, chosen).found(tx)]


async def agrees(notes: Collection, db: Database, tenant: UUID) -> None:
    """Searches by lists give the scores that looking at every chunk gives."""
    assert await listed(db, tenant), "nothing is searched by lists"
    for query in QUERIES:
        for narrowed in ({}, {"where": {"even": True}}, {"where": {"lot": {"$lt": 2}}}, {"within": SELECT}):
            answer = await notes.search(query, mode="text", k=10, tenant=tenant, **narrowed)  # type: ignore[arg-type]
            expected = await every(db, tenant, query, 10, **narrowed)  # type: ignore[arg-type]
            assert [hit.score for hit in answer.hits] == pytest.approx(expected, rel=1e-5), (query, narrowed)


async def listed(db: Database, tenant: UUID) -> list[int]:
    """How many chunks each listed segment names."""
    found = await rows(db, tenant, "select chunks from backstay.bm_segment where listed order by chunks")
    return [int(chunks) for (chunks,) in found]  # type: ignore[call-overload]


async def put(notes: Collection, documents: dict[str, str], tenant: UUID) -> None:
    bodies = [
        (id, {"text": text, "even": int(id[1:]) % 2 == 0, "lot": int(id[1:]) % 50}) for id, text in documents.items()
    ]
    for at in range(0, len(bodies), 90):
        await notes.put_many(bodies[at : at + 90], tenant=tenant)


class TestLists:
    @pytest.mark.parametrize("seed", [1, 2])
    async def test_find_what_looking_at_every_chunk_finds(
        self, content: Content, notes: Collection, db: Database, tenant: UUID, other_tenant: UUID, seed: int
    ) -> None:
        documents = texts(450, seed)
        await put(notes, documents, tenant)
        await put(notes, texts(100, seed + 50), other_tenant)
        for owner in (tenant, other_tenant):
            await content.statistics.fold(owner, "notes")
        assert sum(await listed(db, tenant)) > 400
        assert len(await listed(db, tenant)) > 1
        await agrees(notes, db, tenant)
        await agrees(notes, db, other_tenant)
        draw = random.Random(seed)
        changed = draw.sample(sorted(documents), 60)
        await put(notes, {id: documents[id] + " badat badat mogol" for id in changed[:40]}, tenant)
        for id in changed[20:]:
            await notes.delete(id, tenant=tenant)
        await agrees(notes, db, tenant)  # nothing of this is folded
        await content.statistics.fold(tenant, "notes")
        await agrees(notes, db, tenant)

    async def test_find_chunks_that_are_in_no_segment_yet(
        self, content: Content, notes: Collection, db: Database, tenant: UUID
    ) -> None:
        await put(notes, texts(60, 1), tenant)
        await content.statistics.fold(tenant, "notes")
        await notes.put("new", {"text": "zeppelin badat"}, tenant=tenant)
        assert [hit.id for hit in (await notes.search("zeppelin", mode="text", tenant=tenant)).hits] == ["new"]
        await content.statistics.fold(tenant, "notes")
        assert (await rows(db, tenant, "select count(*) from backstay.bm_delta"))[0] == (0,)
        assert [hit.id for hit in (await notes.search("zeppelin", mode="text", tenant=tenant)).hits] == ["new"]

    async def test_never_find_what_is_gone(
        self, content: Content, notes: Collection, db: Database, tenant: UUID
    ) -> None:
        documents = texts(60, 1)
        await put(notes, documents, tenant)
        await content.statistics.fold(tenant, "notes")
        await notes.put("d1", {"text": "another text"}, tenant=tenant)
        await notes.delete("d2", tenant=tenant)
        for word in ("rare1", "rare2"):
            assert (await notes.search(word, mode="text", tenant=tenant)).hits == []
        left = await notes.search(COMMON, mode="text", k=100, tenant=tenant)
        assert {hit.id for hit in left.hits} == set(documents) - {"d1", "d2"}

    async def test_say_often_where_a_byte_cannot_say_how_often(
        self, content: Content, notes: Collection, db: Database, tenant: UUID
    ) -> None:
        long = content.collection("long", embedder=None, chunk_size=8000, overlap=0)
        bodies = [(f"n{n}", {"text": "w " * (200 + 30 * n) + "other words " * n}) for n in range(40)]
        await long.put_many(bodies, tenant=tenant)
        await content.statistics.fold(tenant, "long")
        assert await listed(db, tenant) == [40]
        by_lists = await long.search("w words", mode="text", tenant=tenant)
        await rows(db, tenant, "update backstay.bm_segment set listed = false returning id")
        assert await long.search("w words", mode="text", tenant=tenant) == by_lists

    async def test_of_one_tenant_are_nothing_to_another(
        self, content: Content, notes: Collection, db: Database, tenant: UUID, other_tenant: UUID
    ) -> None:
        await put(notes, texts(60, 1), tenant)
        await content.statistics.fold(tenant, "notes")
        await notes.put("mine", {"text": f"{COMMON} mine"}, tenant=other_tenant)
        segments = [id for (id,) in await rows(db, tenant, "select id from backstay.bm_segment")]
        for table, column in (("bm_segment", "id"), ("bm_posting", "segment_id")):
            seen = await rows(db, other_tenant, f"select 1 from backstay.{table} where {column} = any(%s)", segments)
            assert seen == []
        found = await notes.search(f"{COMMON} rare1", mode="text", tenant=other_tenant)
        assert [hit.id for hit in found.hits] == ["mine"]

    async def test_are_read_again_when_a_job_replaces_them_meanwhile(
        self, content: Content, notes: Collection, db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await put(notes, texts(90, 1), tenant)
        await content.statistics.fold(tenant, "notes")
        await put(notes, {f"d{n + 500}": text for n, text in enumerate(texts(95, 2).values())}, tenant)
        expected = await every(db, tenant, QUERIES[1], 10)
        replaced = []
        for name in ("lists", "rank"):
            plain = getattr(lists_store, name)

            async def slow(*given: Any, plain: Any = plain, **named: Any) -> Any:
                if len(replaced) < 2:
                    replaced.append(await listed(db, tenant))
                    await content.statistics.fold(tenant, "notes")
                    await content.statistics.postings.build(tenant, "notes")
                    await notes.put("d1", {"text": "badat", "lot": 1, "even": len(replaced) == 1}, tenant=tenant)
                return await plain(*given, **named)

            monkeypatch.setattr(leg.store, name, slow)
        answer = await notes.search(QUERIES[1], mode="text", tenant=tenant)
        assert await listed(db, tenant) != replaced[0], "nothing was replaced"
        assert len(answer.hits) == 10
        assert answer.hits[0].score == pytest.approx((await every(db, tenant, QUERIES[1], 1))[0], rel=0.05)
        assert len(expected) == 10


class TestTheJob:
    async def test_makes_nobody_wait(self, content: Content, notes: Collection, db: Database, tenant: UUID) -> None:
        await put(notes, texts(60, 1), tenant)
        await content.statistics.fold(tenant, "notes")
        await put(notes, {f"d{n + 500}": text for n, text in enumerate(texts(80, 2).values())}, tenant)
        async with db.tenant_tx(tenant) as tx, asyncio.timeout(30):
            # In the middle of its work: the old segments are deleted, the new one is not committed.
            assert await lists_store.take_building(tx, tenant, "notes")
            segments = await lists_store.segments(tx, tenant, "notes")
            await lists_store.drop_segments(tx, tenant, [segment.id for segment in segments])
            await notes.put("d1", {"text": "badat zeppelin"}, tenant=tenant)
            await notes.delete("d3", tenant=tenant)
            assert [hit.id for hit in (await notes.search("zeppelin", mode="text", tenant=tenant)).hits] == ["d1"]
            await content.statistics.fold(tenant, "notes")  # does not build, and does not wait
            raise_nothing = await listed(db, tenant)
            assert raise_nothing == [60]
            await tx.execute("select 1")
            await tx.connection.execute("rollback; begin")
        await content.statistics.fold(tenant, "notes")
        await agrees(notes, db, tenant)

    async def test_gathers_what_an_older_release_wrote(
        self, content: Content, notes: Collection, db: Database, tenant: UUID
    ) -> None:
        await put(notes, texts(60, 1), tenant)
        await content.statistics.fold(tenant, "notes")
        await notes.put("old", {"text": "zeppelin"}, tenant=tenant)
        await rows(db, tenant, "update backstay.bm_delta set added = null returning 1")
        assert [hit.id for hit in (await notes.search("zeppelin", mode="text", tenant=tenant)).hits] == ["old"]
        await content.statistics.fold(tenant, "notes")
        assert not (await rows(db, tenant, "select from backstay.bm_delta"))
        assert [hit.id for hit in (await notes.search("zeppelin", mode="text", tenant=tenant)).hits] == ["old"]
        # And a whole collection from before there were segments.
        await rows(db, tenant, "delete from backstay.bm_segment returning 1")
        await rows(db, tenant, "delete from backstay.bm_posting returning 1")
        await rows(db, tenant, "update backstay.collection set gathered = false returning 1")
        assert [hit.id for hit in (await notes.search("zeppelin", mode="text", tenant=tenant)).hits] == ["old"]
        assert await content.statistics.sweep() == 1
        await content.statistics.fold(tenant, "notes")
        assert await content.statistics.sweep() == 0
        await agrees(notes, db, tenant)

    async def test_makes_a_segment_anew_when_most_of_it_is_gone(
        self, content: Content, notes: Collection, db: Database, tenant: UUID
    ) -> None:
        documents = texts(150, 1)
        await put(notes, documents, tenant)
        await content.statistics.fold(tenant, "notes")
        for id in list(documents)[:100]:
            await notes.delete(id, tenant=tenant)
        await content.statistics.fold(tenant, "notes")
        assert sum(await listed(db, tenant)) < 100
        await agrees(notes, db, tenant)

    async def test_leaves_nothing_of_what_shall_be_forgotten(
        self, content: Content, notes: Collection, db: Database, tenant: UUID
    ) -> None:
        await put(notes, texts(60, 1), tenant)
        await content.statistics.fold(tenant, "notes")
        number = bm25.wanted("rare7")
        postings = "select 1 from backstay.bm_posting where term = any(%s)"
        assert len(await rows(db, tenant, postings, list(number))) == 1
        await notes.delete("d7", tenant=tenant)
        await content.statistics.fold(tenant, "notes")
        await content.statistics.postings.forget(tenant, "notes")
        assert await rows(db, tenant, postings, list(number)) == []
        await agrees(notes, db, tenant)


words = st.lists(st.sampled_from([COMMON, "one", "two", "three", "four"]), max_size=6).map(" ".join)
steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 12), words),
    st.tuples(st.just("delete"), st.integers(0, 12), st.none()),
    st.tuples(st.just("fold"), st.none(), st.none()),
)


async def test_after_any_history_statistics_and_lists_are_those_of_what_stands(
    content: Content, db: Database, tenant: UUID, other_tenant: UUID
) -> None:
    """Another tenant does the same to a collection of the same name, one step behind, and weighs in nothing."""
    content.statistics.postings.least, content.statistics.postings.most = 3, 8
    loop, made = asyncio.get_running_loop(), 0

    async def live(history: list[tuple[str, int | None, str | None]]) -> None:
        nonlocal made
        made += 1
        name = f"c{made}"
        collection = content.collection(name, embedder=None)
        standing: dict[str, str] = {}
        await collection.put("0", {"text": "one"}, tenant=tenant)
        standing["0"] = "one"
        for what, number, text in history:
            if what == "put":
                await collection.put(str(number), {"text": text}, tenant=tenant)
                await collection.put(f"x{number}", {"text": f"{text} other"}, tenant=other_tenant)
                standing[str(number)] = text or ""
            elif what == "delete":
                await collection.delete(str(number), tenant=tenant)
                standing.pop(str(number), None)
            else:
                await content.statistics.fold(tenant, name)
        await check(collection, name, standing)
        await content.statistics.fold(tenant, name)
        assert await rows(db, tenant, "select from backstay.bm_delta where collection = %s", name) == []
        found = await rows(db, tenant, "select term, chunks from backstay.bm_term where collection = %s", name)
        assert dict(found) == frequencies(standing)
        await check(collection, name, standing)

    async def check(collection: Collection, name: str, standing: dict[str, str]) -> None:
        bags = [terms(text) for text in standing.values() if text]
        async with db.tenant_tx(tenant) as tx:
            totals = await store.totals(tx, tenant, name, bm25.wanted("one two three four common other"))
        assert {term: count for term, count in totals.frequencies.items() if count} == frequencies(standing)
        assert (totals.chunks, totals.length) == (len(bags), sum(map(len, bags)))
        for word in (COMMON, "one", "two"):
            answer = await collection.search(word, mode="text", k=50, tenant=tenant)
            assert {hit.id for hit in answer.hits} == {id for id, text in standing.items() if word in text}

    @hypothesis.settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(steps, max_size=16))
    def any_history(history: list[tuple[str, int | None, str | None]]) -> None:
        asyncio.run_coroutine_threadsafe(live(history), loop).result()

    await asyncio.to_thread(any_history)


def frequencies(standing: dict[str, str]) -> dict[int, int]:
    found: Counter[int] = Counter()
    for text in standing.values():
        found.update(set(bm25.wanted(text)) if text else ())
    return dict(found)
