"""Search: BM25 against its formula, vectors exactly and by index, both together, and never across tenants."""

import math
import random
from collections import Counter
from uuid import UUID

import pytest

from backstay.content import Collection, CollectionNotFound, Content, NoEmbedder, vectors_store
from backstay.content.filters import Filter
from backstay.content.indexes.advice import Thresholds
from backstay.content.tokens import query_terms, terms
from backstay.gateway import ProviderUnreachable
from backstay.jobs import Jobs
from backstay.kernel.db import APP, Database
from backstay.kernel.errors import Invalid, TimedOut
from backstay.kernel.halfvec import Halfvec
from backstay.kernel.principal import Principal

from .conftest import Words, rows, settled, vector

VOCABULARY = [f"{a}{b}" for a in ("ba", "ke", "li", "mo", "ru") for b in ("dat", "fen", "gol", "hup", "nim", "zor")]


def bm25(query: str, documents: dict[str, str], k1: float = 1.5, b: float = 0.75) -> dict[str, float]:
    """The formula of the textbook, over whole documents."""
    bags = {id: Counter(terms(text)) for id, text in documents.items()}
    lengths = {id: sum(bag.values()) for id, bag in bags.items()}
    mean = sum(lengths.values()) / len(lengths)
    scores: dict[str, float] = {}
    for term in query_terms(query):
        having = [id for id, bag in bags.items() if term in bag]
        idf = math.log(1 + (len(bags) - len(having) + 0.5) / (len(having) + 0.5))
        for id in having:
            tf = bags[id][term]
            scores[id] = scores.get(id, 0) + idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * lengths[id] / mean))
    return scores


def library(count: int, seed: int = 7) -> dict[str, str]:
    draw = random.Random(seed)
    return {f"d{n}": " ".join(draw.choices(VOCABULARY, k=draw.randint(3, 60))) for n in range(count)}


async def fill(notes: Collection, documents: dict[str, str], tenant: UUID) -> None:
    await notes.put_many([(id, {"text": text}) for id, text in documents.items()], tenant=tenant)


class TestText:
    @pytest.mark.parametrize("folded", [False, True])
    async def test_scores_are_those_of_the_formula(
        self, content: Content, notes: Collection, db: Database, tenant: UUID, folded: bool
    ) -> None:
        documents = library(40)
        await fill(notes, documents, tenant)
        await content.statistics.fold(tenant, "notes")  # moves the pivot to the mean length
        if not folded:
            # A second round of writes whose statistics are deltas still, and that moves no mean.
            more = {f"e{id}": text for id, text in documents.items()}
            await fill(notes, more, tenant)
            documents |= more
        for query in ("badat kefen", "limnim ruzor ruzor", "mogol"):
            expected = bm25(query, documents)
            answer = await notes.search(query, tenant=tenant, mode="text", k=100)
            assert {hit.id for hit in answer.hits} <= set(expected)
            for hit in answer.hits:
                assert hit.score == pytest.approx(expected[hit.id], rel=1e-4)
            best = sorted(expected.values(), reverse=True)[: len(answer.hits)]
            assert [hit.score for hit in answer.hits] == pytest.approx(best, rel=1e-4)

    async def test_statistics_follow_updates_and_deletes(
        self, content: Content, notes: Collection, tenant: UUID
    ) -> None:
        documents = library(30)
        await fill(notes, documents, tenant)
        changes = {id: text + " badat extra" for id, text in list(documents.items())[:10]}
        await fill(notes, changes, tenant)
        documents |= changes
        for id in list(documents)[15:20]:
            await notes.delete(id, tenant=tenant)
            del documents[id]
        await content.statistics.fold(tenant, "notes")
        expected = bm25("badat extra", documents)
        answer = await notes.search("badat extra", tenant=tenant, mode="text", k=100)
        # The pivot moves in steps of a tenth, so the norm may be off by that.
        for hit in answer.hits:
            assert hit.score == pytest.approx(expected[hit.id], rel=0.06)

    async def test_chunks_are_weighed_anew_when_the_mean_length_moves(
        self, content: Content, db: Database, tenant: UUID
    ) -> None:
        short = {f"s{n}": f"badat short {n}" for n in range(5)}
        long = {f"l{n}": " ".join(["badat", *["filler"] * 600, str(n)]) for n in range(5)}
        wide = content.collection("wide", embedder=None, chunk_size=8000, overlap=0)
        await fill(wide, short, tenant)
        await content.statistics.fold(tenant, "wide")
        await fill(wide, long, tenant)
        await content.statistics.fold(tenant, "wide")
        expected = bm25("badat", short | long)
        for hit in (await wide.search("badat", tenant=tenant, k=100)).hits:
            assert hit.score == pytest.approx(expected[hit.id], rel=1e-4)
        assert len(await rows(db, tenant, "select distinct pivot from backstay.chunk where collection = 'wide'")) == 1

    async def test_a_word_in_every_chunk_still_finds(self, notes: Collection, tenant: UUID) -> None:
        await fill(notes, {"a": "ship", "b": "ship ship boat"}, tenant)
        assert {hit.id for hit in (await notes.search("ship", tenant=tenant)).hits} == {"a", "b"}

    async def test_a_query_of_unknown_words_finds_nothing(self, notes: Collection, tenant: UUID) -> None:
        await fill(notes, {"a": "ship"}, tenant)
        answer = await notes.search("zeppelin", tenant=tenant, mode="text")
        assert (answer.hits, answer.flags) == ([], ("short",))

    @pytest.mark.parametrize("query", ["東京", "cafe", "CAFÉ", "don’t"])
    async def test_words_are_found_however_they_are_written(self, notes: Collection, tenant: UUID, query: str) -> None:
        await fill(notes, {"a": "Das Café in 東京都 — don't ask", "b": "something else"}, tenant)
        assert [hit.id for hit in (await notes.search(query, tenant=tenant, mode="text")).hits] == ["a"]


class TestModes:
    @pytest.fixture
    async def filled(self, notes: Collection, db: Database, jobs: Jobs, tenant: UUID) -> dict[str, str]:
        documents = library(60)
        await fill(notes, documents, tenant)
        await settled(db, jobs, tenant)
        return documents

    async def test_semantic_orders_by_cosine(self, notes: Collection, tenant: UUID, filled: dict[str, str]) -> None:
        answer = await notes.search("badat kefen", tenant=tenant, mode="semantic", k=20)
        assert answer.mode == "semantic"
        assert [hit.id for hit in answer.hits] == nearest("badat kefen", filled)[:20]
        assert all(set(hit.scores) == {"vector"} for hit in answer.hits)

    async def test_hybrid_fuses_both_legs_by_reciprocal_rank(
        self, notes: Collection, tenant: UUID, filled: dict[str, str]
    ) -> None:
        text = [hit.id for hit in (await notes.search("badat kefen", tenant=tenant, mode="text", k=50)).hits]
        near = [hit.id for hit in (await notes.search("badat kefen", tenant=tenant, mode="semantic", k=50)).hits]
        answer = await notes.search("badat kefen", tenant=tenant, mode="hybrid", k=10)
        scores: dict[str, float] = {}
        for leg in (text, near):
            for rank, id in enumerate(leg, 1):
                scores[id] = scores.get(id, 0) + 1 / (60 + rank)
        assert [hit.score for hit in answer.hits] == pytest.approx(sorted(scores.values(), reverse=True)[:10])
        assert all(hit.score == pytest.approx(scores[hit.id]) for hit in answer.hits)

    async def test_auto_is_hybrid_when_vectors_stand(
        self, notes: Collection, tenant: UUID, filled: dict[str, str]
    ) -> None:
        answer = await notes.search("badat", tenant=tenant)
        assert (answer.mode, answer.flags) == ("hybrid", ())

    async def test_auto_falls_back_to_text_when_the_embedder_is_down(
        self, content: Content, notes: Collection, tenant: UUID, words: Words, filled: dict[str, str]
    ) -> None:
        words.fault = lambda _: ProviderUnreachable("nobody is there")
        for mode in ("auto", "hybrid"):
            answer = await notes.search("badat", tenant=tenant, mode=mode)  # type: ignore[arg-type]
            assert (answer.mode, answer.flags) == ("text", ("text_only",))
        with pytest.raises(ProviderUnreachable):
            await notes.search("badat", tenant=tenant, mode="semantic")

    async def test_an_embedder_that_hangs_costs_its_patience_only(
        self, content: Content, notes: Collection, tenant: UUID, words: Words, filled: dict[str, str]
    ) -> None:
        content.searcher.patience = 0.05
        words.gate.clear()
        assert (await notes.search("badat", tenant=tenant)).mode == "text"
        with pytest.raises(TimedOut):
            await notes.search("badat", tenant=tenant, mode="semantic")

    async def test_chunks_that_wait_are_told_of(self, notes: Collection, tenant: UUID, filled: dict[str, str]) -> None:
        await notes.put("new", {"text": "badat"}, tenant=tenant)
        answer = await notes.search("badat", tenant=tenant)
        assert (answer.mode, answer.flags) == ("hybrid", ("stale",))

    async def test_where_filters_both_legs(self, notes: Collection, db: Database, jobs: Jobs, tenant: UUID) -> None:
        documents = [(f"{n}", {"text": "badat kefen", "kind": {"even": n % 2 == 0}}) for n in range(20)]
        await notes.put_many(documents, tenant=tenant)
        await settled(db, jobs, tenant)
        for mode in ("text", "semantic", "hybrid"):
            answer = await notes.search("badat", tenant=tenant, mode=mode, k=20, where={"kind": {"even": True}})  # type: ignore[arg-type]
            assert sorted(int(hit.id) for hit in answer.hits) == list(range(0, 20, 2)), mode

    async def test_per_document_caps_the_hits_of_one(self, content: Content, tenant: UUID) -> None:
        pages = content.collection("pages", embedder=None, chunk_size=100, overlap=0)
        await pages.put("long", {"text": "badat lines are long enough to be cut into pieces. " * 20}, tenant=tenant)
        await pages.put("short", {"text": "badat " + "other words " * 6}, tenant=tenant)
        every = await pages.search("badat", tenant=tenant, k=10)
        assert [hit.id for hit in every.hits].count("long") > 5
        capped = await pages.search("badat", tenant=tenant, k=10, per_document=1)
        assert sorted(hit.id for hit in capped.hits) == ["long", "short"]

    async def test_vectors_of_a_collection_without_an_embedder_cannot_be_had(
        self, content: Content, tenant: UUID
    ) -> None:
        plain = content.collection("plain", embedder=None)
        await plain.put("a", {"text": "badat"}, tenant=tenant)
        answer = await plain.search("badat", tenant=tenant)
        assert (answer.mode, answer.flags) == ("text", ("short",))
        for mode in ("semantic", "hybrid"):
            with pytest.raises(NoEmbedder):
                await plain.search("badat", tenant=tenant, mode=mode)  # type: ignore[arg-type]

    @pytest.mark.parametrize("query", ["", "  ", "\0", "x" * 20_001])
    async def test_a_query_must_say_something(self, notes: Collection, tenant: UUID, query: str) -> None:
        with pytest.raises(Invalid, match="query"):
            await notes.search(query, tenant=tenant)

    async def test_odd_characters_break_nothing(self, notes: Collection, tenant: UUID, filled: object) -> None:
        await notes.search("\ud800 \0 ' % $1 {} \\ badat", tenant=tenant)
        with pytest.raises(Invalid, match="where"):
            await notes.search("badat", tenant=tenant, where={"a": 2**80})


class TestTenants:
    async def test_never_see_each_other(
        self, notes: Collection, db: Database, jobs: Jobs, tenant: UUID, other_tenant: UUID
    ) -> None:
        await fill(notes, {"mine": "badat kefen secret"}, tenant)
        await fill(notes, {f"theirs{n}": "badat kefen public" for n in range(30)}, other_tenant)
        await settled(db, jobs, tenant, other_tenant)
        for mode in ("text", "semantic", "hybrid"):
            mine = await notes.search("badat kefen", tenant=tenant, mode=mode, k=50)  # type: ignore[arg-type]
            assert [hit.id for hit in mine.hits] == ["mine"], mode
            theirs = await notes.search("secret", tenant=other_tenant, mode=mode, k=50)  # type: ignore[arg-type]
            assert "mine" not in {hit.id for hit in theirs.hits}, mode
        assert (await notes.coverage(tenant)).chunks == 1

    async def test_do_not_weigh_in_each_others_ranking(
        self, content: Content, notes: Collection, tenant: UUID, other_tenant: UUID
    ) -> None:
        documents = library(20)
        await fill(notes, documents, tenant)
        await content.statistics.fold(tenant, "notes")
        alone = await notes.search("badat kefen", tenant=tenant, mode="text")
        await fill(notes, {f"x{n}": "badat " * 50 for n in range(100)}, other_tenant)
        await content.statistics.fold(other_tenant, "notes")
        await content.statistics.fold(tenant, "notes")
        assert await notes.search("badat kefen", tenant=tenant, mode="text") == alone

    async def test_share_a_space_and_see_their_own_vectors_in_it(
        self, notes: Collection, db: Database, jobs: Jobs, tenant: UUID, other_tenant: UUID
    ) -> None:
        await fill(notes, {"a": "one"}, tenant)
        await fill(notes, {"b": "two", "c": "three"}, other_tenant)
        await settled(db, jobs, tenant, other_tenant)
        mine = await rows(db, tenant, "select id from backstay.space")
        assert await rows(db, other_tenant, "select id from backstay.space") == mine
        assert len(await rows(db, tenant, f"select 1 from backstay.vec_{mine[0][0]}")) == 1
        assert len(await rows(db, other_tenant, f"select 1 from backstay.vec_{mine[0][0]}")) == 2

    async def test_do_not_learn_each_others_collections(
        self, notes: Collection, content: Content, db: Database, owner: Principal, tenant: UUID, other_tenant: UUID
    ) -> None:
        await fill(notes, {"a": "one"}, tenant)
        assert await rows(db, other_tenant, "select * from backstay.space") == []
        with pytest.raises(CollectionNotFound):
            await notes.search("one", tenant=other_tenant)


class TestTheIndex:
    """2,200 vectors of two tenants, with thresholds small enough to matter."""

    COUNT, RARE = 2_000, 200

    @pytest.fixture
    async def indexed(
        self, content: Content, notes: Collection, db: Database, jobs: Jobs, tenant: UUID, other_tenant: UUID
    ) -> int:
        """The space, with an index that the pipeline itself has built."""
        content.indexer.thresholds = Thresholds(1_000, 100)
        content.searcher.exact_rows = 100
        for owner, count, seed in ((tenant, self.COUNT, 1), (other_tenant, self.RARE, 2)):
            documents = list(library(count, seed).items())
            for at in range(0, count, 500):
                await fill(notes, dict(documents[at : at + 500]), owner)
        await settled(db, jobs, tenant, other_tenant)
        ((space, indexed_at),) = await rows(db, tenant, "select id, indexed_at from backstay.space")
        assert indexed_at is not None
        return int(space)  # type: ignore[call-overload]

    async def test_is_used_when_it_pays_and_loses_nothing_under_row_level_security(
        self,
        indexed: int,
        notes: Collection,
        content: Content,
        db: Database,
        jobs: Jobs,
        tenant: UUID,
        other_tenant: UUID,
    ) -> None:
        assert f"Index Scan using vec_{indexed}_hnsw" in await explained(db, indexed, "search_indexed", tenant)
        for query in ("search_exact", "search_exact_where"):
            assert "hnsw" not in await explained(db, indexed, query, tenant)
        # One in eleven vectors is the other tenant's: without the iterative scan most of its hits would be lost.
        for owner in (tenant, other_tenant):
            recall = []
            for query in ("badat kefen limnim", "ruzor mogol", "kehup ligol badat ruzor"):
                content.searcher.exact_rows = 100
                by_index = await found(notes, query, owner)
                content.searcher.exact_rows = 10**6
                exact = await found(notes, query, owner)
                assert len(by_index) == 10
                recall.append(sum(score >= min(exact.values()) - 1e-3 for score in by_index.values()) / 10)
            assert sum(recall) / len(recall) >= 0.95
        # A filter that leaves few is searched exactly, so nothing is missing.
        content.searcher.exact_rows = 100
        special = [(f"special{n}", {"text": f"badat {n}", "kind": "special"}) for n in range(15)]
        await notes.put_many(special, tenant=tenant)
        await settled(db, jobs, tenant)
        answer = await notes.search("kefen", tenant=tenant, mode="semantic", k=15, where={"kind": "special"})
        assert len(answer.hits) == 15

    async def test_a_tenant_that_has_deleted_most_of_its_documents_finds_every_other(
        self, indexed: int, notes: Collection, content: Content, db: Database, jobs: Jobs, other_tenant: UUID
    ) -> None:
        assert len(await found(notes, "badat", other_tenant)) == 10  # so that it is known to have many
        left = list(library(self.RARE, 2))[:4]
        for id in list(library(self.RARE, 2))[4:]:
            await notes.delete(id, tenant=other_tenant)
        assert set(await found(notes, "badat", other_tenant)) == set(left)


async def found(notes: Collection, query: str, tenant: UUID) -> dict[str, float]:
    answer = await notes.search(query, tenant=tenant, mode="semantic", k=10)
    return {hit.id: hit.score for hit in answer.hits}


async def explained(db: Database, space: int, query: str, tenant: UUID) -> str:
    """The plan of a query as it is sent, by the role that sends it."""
    async with db.tenant_tx(tenant) as tx:
        assert (await (await tx.execute("select current_user")).fetchone()) == (APP,)
        if query.startswith("search_indexed"):
            leg = vectors_store.indexed_leg(space, tenant, "[]", 50, None, ef=100, tuples=20_000)
            await vectors_store.tune(tx, leg)
        text = vectors_store._of(space, query).text
        sought = Filter({"a": 1}).parameters()
        values = {"tenant": tenant, "query": Halfvec.of(vector("badat")), "limit": 50, "most": 100, **sought}
        cursor = await tx.execute(f"explain {text}", values)
        return "\n".join(str(line) for (line,) in await cursor.fetchall())


def nearest(query: str, documents: dict[str, str]) -> list[str]:
    wanted = vector(query)

    def distance(text: str) -> float:
        return -sum(a * b for a, b in zip(wanted, vector(text), strict=True))

    return sorted(documents, key=lambda id: distance(documents[id]))
