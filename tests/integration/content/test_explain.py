"""Why a search found what it found: mode, words, legs, filter, advice; and nothing of another tenant in it."""

import math
from uuid import UUID

import httpx
import psycopg
import pytest

from backstay.content import Collection, Content, NoEmbedder
from backstay.content.explanations import Explainer, store
from backstay.content.filters import Filter
from backstay.gateway import ProviderUnreachable
from backstay.jobs import Jobs
from backstay.kernel.db import Database
from backstay.kernel.errors import Invalid

from .conftest import Words, settled
from .test_search import fill


@pytest.fixture
async def filled(notes: Collection, db: Database, jobs: Jobs, tenant: UUID) -> Collection:
    await fill(notes, {f"d{n}": "badat kefen" if n < 2 else "badat" for n in range(8)}, tenant)
    await settled(db, jobs, tenant)
    return notes


async def test_it_tells_the_weight_of_each_word(filled: Collection, tenant: UUID) -> None:
    told = await filled.explain("Badat, kefen and zeppelins", tenant=tenant)
    idf = {n: math.log(1 + (8 - n + 0.5) / (n + 0.5)) for n in (2, 8)}
    assert [(term.term, term.chunks, pytest.approx(term.idf)) for term in told.terms] == [
        ("kefen", 2, idf[2]),
        ("badat", 8, idf[8]),
        ("zeppelin", 0, 0),
    ]
    assert (told.chunks, told.mean_length) == (8, 1.25)
    assert any("zeppelin" in advice.text for advice in told.advice)


async def test_it_tells_which_legs_ran_and_how(
    filled: Collection, content: Content, tenant: UUID, database_url: str
) -> None:
    answer = await filled.search("kefen", k=3, tenant=tenant)
    told = await filled.explain("kefen", k=3, tenant=tenant)
    assert (told.mode, told.flags, told.hits) == (answer.mode, list(answer.flags), 3)
    assert (told.asked, told.why, told.filter) == ("auto", "the embedder answered", None)
    assert [(leg.leg, leg.how, leg.candidates) for leg in told.legs] == [("text", "bm25", 2), ("vector", "exact", 8)]
    assert told.legs[1].why == "8 vectors are searched, and up to 5000 are looked at one by one"
    assert told.legs[0].best == answer.hits[0].scores["text"]
    assert 0 <= told.vector_seconds <= told.seconds
    content.searcher.exact_rows = 4
    told = await filled.explain("kefen", mode="semantic", tenant=tenant)
    assert [leg.why for leg in told.legs] == ["more than 4 vectors are searched, and they have no index"]


async def test_it_tells_why_vectors_are_not_used(
    filled: Collection, content: Content, tenant: UUID, words: Words
) -> None:
    plain = content.collection("plain", embedder=None)
    await plain.put("a", {"text": "badat"}, tenant=tenant)
    assert (await plain.explain("badat", tenant=tenant)).why == "the collection has no embedder"
    assert (await filled.explain("badat", mode="text", tenant=tenant)).why == "it was asked for"
    words.fault = lambda _: ProviderUnreachable("nobody is there")
    told = await filled.explain("badat", k=5, tenant=tenant)
    assert (told.mode, told.why) == ("text", "test:words gave no vector for the query")
    assert told.flags == ["text_only"]
    with pytest.raises(NoEmbedder):
        await plain.explain("badat", mode="semantic", tenant=tenant)
    with pytest.raises(Invalid, match="mode"):
        await plain.explain("badat", mode="psychic", tenant=tenant)  # type: ignore[arg-type]


async def test_nothing_of_another_tenant_is_in_it(
    filled: Collection, db: Database, jobs: Jobs, tenant: UUID, other_tenant: UUID
) -> None:
    where = {"text": {"$exists": True}}

    async def told() -> dict[str, object]:
        found = await filled.explain("badat secret", where=where, within="select 'd1' union select 'x1'", tenant=tenant)
        return found.model_dump(exclude={"legs": {"__all__": {"seconds"}}, "vector_seconds": True, "seconds": True})

    before = await told()
    await fill(filled, {f"x{n}": "badat secret" for n in range(30)}, other_tenant)
    await settled(db, jobs, other_tenant)
    assert await told() == before
    assert before["filter"] == {"documents": 8, "passing": 1, "share": 0.125}


@pytest.mark.parametrize(
    "where",
    [{"n": 7}, {"price": {"$lt": 60}, "lang": "it's 100%"}, {"$or": [{"lang": "'; drop table x"}, {"n": 7}]}],
)
async def test_the_index_it_proposes_is_the_one_that_serves_the_filter(
    content: Content, db: Database, tenant: UUID, database_url: str, where: dict[str, object]
) -> None:
    """Under row-level security: an index on all bodies would not be used there."""
    shelf = content.collection("shelf", embedder=None, fields=["text"])
    await shelf.put("a", {"text": "badat"}, tenant=tenant)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(
            "insert into backstay.content (tenant_id, collection, id, rev, body, body_hash, text_hash, created_at, "
            "updated_at) select %s, 'shelf', 'n' || n, 1, "
            "jsonb_build_object('n', n, 'lang', %s::text, 'price', n + 50, "
            "'long', repeat('x', 300)), '', '', now(), now() from generate_series(1, 3000) n",
            [tenant, "it's 100%"],
        )
        content.explainer.documents = 1_000
        told = await shelf.explain("badat", where=where, tenant=tenant)
        (ddl,) = [advice.ddl for advice in told.advice if advice.ddl]
        await connection.execute(ddl.encode())
        await connection.execute("analyze backstay.content")
    given = Filter.of(where)
    assert given is not None
    assert ddl.split()[3].strip('"') in await plan(db, tenant, given)


async def plan(db: Database, tenant: UUID, where: Filter) -> str:
    values = {"tenant": tenant, "collection": "shelf", **where.parameters()}
    async with db.tenant_tx(tenant) as tx:
        cursor = await tx.execute(f"explain {where.on(store._queries.passing).text}", values)
        return "\n".join(str(line) for (line,) in await cursor.fetchall())


async def test_no_index_is_proposed_where_none_would_help(filled: Collection, content: Content, tenant: UUID) -> None:
    assert isinstance(content.explainer, Explainer)
    rare = {"text": "badat kefen"}
    assert all(advice.ddl is None for advice in (await filled.explain("badat", where=rare, tenant=tenant)).advice)
    content.explainer.documents = 1
    common = {"text": {"$exists": True}}
    assert all(advice.ddl is None for advice in (await filled.explain("badat", where=common, tenant=tenant)).advice)


async def test_over_http_it_says_the_same(client: httpx.AsyncClient) -> None:
    await client.put("/api/collections/papers", json={"embedder": None})
    await client.put("/api/collections/papers/documents/a", json={"text": "a ship", "lang": "en"})
    query = {"query": "ships", "where": {"lang": "en"}}
    answer = await client.post("/api/collections/papers/search/explain", json=query)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["mode"], told["why"], told["flags"]) == ("text", "the collection has no embedder", ["short"])
    assert told["terms"][0]["term"] == "ship"
    assert told["filter"] == {"documents": 1, "passing": 1, "share": 1.0}
    gone = await client.post("/api/collections/other/search/explain", json=query)
    assert (gone.status_code, gone.json()["code"]) == (404, "collection_not_found")
