"""A search as SQL in the caller's own statement: the same hits as `search()`, in their transaction, fenced."""

import random
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from backstay.app import App
from backstay.content import Collection, Content, SearchAnswer
from backstay.content.indexes.advice import Thresholds
from backstay.content.statements import Statement
from backstay.content.statements.store import literal
from backstay.gateway import ProviderUnreachable
from backstay.jobs import Jobs
from backstay.kernel.db import APP, Database
from backstay.kernel.errors import Invalid

from .conftest import Words, settled
from .test_search import VOCABULARY, fill, library

QUERIES = ("badat kefen", "ruzor mogol limnim", "kehup", "nothing like it")
MODES = ("text", "semantic", "hybrid", "auto")


async def run(db: Database, tenant: UUID, found: Statement) -> list[dict[str, Any]]:
    async with db.tenant_tx(tenant) as tx:
        cursor = await tx.execute(f"select hit.* from {found} hit order by hit.rank")
        cursor.row_factory = dict_row
        return await cursor.fetchall()


def same(rows: list[dict[str, Any]], answer: SearchAnswer) -> bool:
    """Whether the rows are the answer's hits: which, in which order, with which scores, to the last bit."""
    listed = [
        (row["id"], row["chunk"], row["score"], row["text_score"], row["vector_score"], row["text"]) for row in rows
    ]
    hits = [
        (hit.id, hit.chunk, hit.score, hit.scores.get("text"), hit.scores.get("vector"), hit.text)
        for hit in answer.hits
    ]
    return listed == hits and [row["rank"] for row in rows] == list(range(1, len(rows) + 1))


@pytest.fixture
async def filled(notes: Collection, db: Database, jobs: Jobs, tenant: UUID, other_tenant: UUID) -> Collection:
    """Some documents have many chunks, and many have equal scores."""
    documents = library(60) | {f"twin{n}": "badat kefen twins" for n in range(10)}
    documents |= {"long": "\n\n".join(f"badat part {n} {'filling ' * 150}" for n in range(8))}
    await fill(notes, documents, tenant)
    await fill(notes, {f"theirs{n}": "badat kefen mogol kehup" for n in range(20)}, other_tenant)
    await settled(db, jobs, tenant, other_tenant)
    return notes


@pytest.mark.parametrize("mode", MODES)
async def test_it_finds_what_search_finds_in_the_same_order(
    filled: Collection, db: Database, tenant: UUID, mode: Any
) -> None:
    for query in QUERIES:
        for how in ({}, {"k": 3}, {"k": 70}, {"per_document": 1, "k": 20}, {"where": {"text": "badat kefen twins"}}):
            answer = await filled.search(query, mode=mode, tenant=tenant, **how)  # type: ignore[arg-type]
            found = await filled.search_sql(query, mode=mode, tenant=tenant, **how)  # type: ignore[arg-type]
            assert (found.mode, set(found.flags)) == (answer.mode, set(answer.flags) - {"short"})
            assert same(await run(db, tenant, found), answer), (query, how)


async def test_its_parameters_may_be_passed_beside_it(filled: Collection, db: Database, tenant: UUID) -> None:
    answer = await filled.search("badat kefen", k=5, where={"text": {"$ne": "50% off: %s"}}, tenant=tenant)
    found = await filled.search_sql("badat kefen", k=5, where={"text": {"$ne": "50% off: %s"}}, tenant=tenant)
    ids = [hit.id for hit in answer.hits]
    async with db.tenant_tx(tenant) as tx:
        beside = await tx.execute(f"select id, %(mine)s from {found.text} h order by rank", {"mine": 7, **found.params})
        assert await beside.fetchall() == [(id, 7) for id in ids]
        within = await tx.execute(f"select id, %s from {found} h where id <> %s order by rank", [7, "none"])
        assert await within.fetchall() == [(id, 7) for id in ids]
        composed = sql.SQL("select id, {mine} from {found} h order by rank").format(mine=7, found=found.composed)
        assert await (await tx.execute(composed)).fetchall() == [(id, 7) for id in ids]


async def test_it_joins_the_callers_tables_and_sees_what_their_transaction_wrote(
    filled: Collection, db: Database, tenant: UUID, database_url: str
) -> None:
    found = await filled.search_sql("zeppelin badat", mode="text", k=5, tenant=tenant)
    async with await psycopg.AsyncConnection.connect(db.url_for(APP)) as connection:
        async with db.adopt(connection, tenant) as tx:
            await filled.put("new", {"text": "badat badat badat"}, tx=tx)
            await tx.execute("create temporary table price (id text, euros int) on commit drop")
            await tx.execute("insert into price values ('new', 5), ('twin1', 7), ('elsewhere', 1)")
            cursor = await tx.execute(
                f"select p.id, p.euros, hit.score > 0 from {found} hit join price p using (id) "
                "where p.euros < %s order by hit.rank",
                [6],
            )
            assert await cursor.fetchall() == [("new", 5, True)]
        await connection.rollback()


async def test_it_runs_in_a_session_of_sqlalchemy(filled: Collection, db: Database, tenant: UUID) -> None:
    answer = await filled.search("badat: kefen", where={"text": {"$ne": ":a %s {b} $1 ?"}}, tenant=tenant)
    found = await filled.search_sql("badat: kefen", where={"text": {"$ne": ":a %s {b} $1 ?"}}, tenant=tenant)
    engine = create_async_engine(db.url_for(APP).replace("postgresql:", "postgresql+psycopg:"))
    async with AsyncSession(engine) as session, db.adopt(session, tenant):
        rows = await session.execute(text(f"select id from {found} hit where id <> :no order by rank"), {"no": "x"})
        assert [id for (id,) in rows] == [hit.id for hit in answer.hits]
    await engine.dispose()


async def test_it_finds_nothing_for_another_tenant(
    filled: Collection, db: Database, tenant: UUID, other_tenant: UUID
) -> None:
    for mode in MODES:
        found = await filled.search_sql("badat kefen", mode=mode, k=100, tenant=tenant)  # type: ignore[arg-type]
        assert len(await run(db, tenant, found)) > 10
        assert await run(db, other_tenant, found) == []
        forged = found.sql.replace(tenant.hex, other_tenant.hex)
        assert other_tenant.hex in forged
        async with db.tenant_tx(tenant) as tx:
            assert await (await tx.execute(f"select * from {forged} hit")).fetchall() == []
        async with await psycopg.AsyncConnection.connect(db.url_for(APP)) as connection:
            assert await (await connection.execute(f"select * from {found} hit".encode())).fetchall() == []


class TestTheIndex:
    """1,200 vectors; few are looked at one by one. One document in a hundred is on sale."""

    COUNT, RARE = 1_200, 12

    @pytest.fixture
    async def indexed(
        self, content: Content, notes: Collection, db: Database, jobs: Jobs, tenant: UUID, database_url: str
    ) -> Collection:
        content.indexer.thresholds, content.searcher.exact_rows = Thresholds(1_000, 100), 100
        documents = list(library(self.COUNT, 3).items())
        for at in range(0, self.COUNT, 400):
            await fill(notes, dict(documents[at : at + 400]), tenant)
        await settled(db, jobs, tenant)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            await connection.execute("create table sale (id text primary key, percent int not null)")
            await connection.execute(
                "insert into sale select 'd' || n, case when n %% %s = 0 then 50 else 5 end "
                "from generate_series(0, %s) n",
                [self.COUNT // self.RARE, self.COUNT - 1],
            )
        return notes

    @pytest.mark.parametrize("exact_rows", [5, 100])
    async def test_a_filter_of_one_percent_on_a_joined_column_loses_nothing(
        self, indexed: Collection, content: Content, db: Database, tenant: UUID, exact_rows: int
    ) -> None:
        """By the index, which has to pass over 99 of 100, and by looking at those that pass."""
        content.searcher.exact_rows = exact_rows
        sale = ("select id from sale where percent >= %s", [50])
        hits = wanted = 0
        draw = random.Random(11)
        for query in (" ".join(draw.choices(VOCABULARY, k=3)) for _ in range(10)):
            found = await indexed.search_sql(query, mode="semantic", within=sale, tenant=tenant)
            rows = await run(db, tenant, found)
            content.searcher.exact_rows = 10**6
            best = (await indexed.search(query, mode="semantic", within=sale, tenant=tenant)).hits
            content.searcher.exact_rows = exact_rows
            assert len(best) == 10
            hits += sum(row["score"] >= best[-1].score - 1e-3 for row in rows)
            wanted += len(best)
        assert hits / wanted >= 0.97

    async def test_it_decides_when_it_runs_and_leaves_the_callers_plans_alone(
        self, indexed: Collection, db: Database, tenant: UUID
    ) -> None:
        names = ("enable_seqscan", "enable_sort", "hnsw.ef_search", "hnsw.iterative_scan")
        settings = f"select {', '.join(f'current_setting({name!r})' for name in names)}"
        found = await indexed.search_sql("badat kefen", mode="semantic", tenant=tenant)
        few = await indexed.search_sql(
            "badat kefen", mode="semantic", within="select id from sale where percent = 50", tenant=tenant
        )
        async with db.tenant_tx(tenant) as tx:
            await tx.execute("select '[1]'::halfvec")
            before = await (await tx.execute(settings)).fetchone()
            assert await asks_the_index(tx, found)
            assert not await asks_the_index(tx, few)
            assert await (await tx.execute(settings)).fetchone() == before
        assert same(await run(db, tenant, found), await indexed.search("badat kefen", mode="semantic", tenant=tenant))


async def asks_the_index(tx: Any, found: Statement) -> bool:
    """By the plan that was executed."""
    cursor = await tx.execute(f"explain (analyze, timing off, buffers off) select * from {found} hit")
    (line,) = [line for (line,) in await cursor.fetchall() if "Function Scan on tuned" in line]
    return "never executed" not in line


async def test_a_setting_is_put_back_after_an_error(db: Database, tenant: UUID) -> None:
    async with db.tenant_tx(tenant) as tx:
        with pytest.raises(psycopg.errors.UndefinedTable):
            async with tx.connection.transaction():
                await tx.execute("""select * from backstay.tuned('table nowhere', '{"enable_sort": "off"}')""")
        assert await (await tx.execute("show enable_sort")).fetchone() == ("on",)


async def test_the_embedder_that_is_down_is_told_of(
    filled: Collection, db: Database, tenant: UUID, words: Words
) -> None:
    words.fault = lambda _: ProviderUnreachable("nobody is there")
    found = await filled.search_sql("badat", tenant=tenant)
    assert (found.mode, found.flags) == ("text", ("text_only",))
    assert same(await run(db, tenant, found), await filled.search("badat", tenant=tenant))


@pytest.mark.parametrize(
    "value",
    [
        "it's",
        '"',
        "\\",
        "\\'; drop table x; --",
        "50%",
        "%s",
        "%(a)s",
        ":a",
        "$1",
        "?",
        "{}",
        "é東\U0001f600",
        "a\nb",
        "",
    ],
)
async def test_a_literal_is_the_value_and_nothing_else(db: Database, tenant: UUID, value: str) -> None:
    written = literal(value)
    assert not set(written[1:]) & set('"%:${}?;')
    assert written.count("'") == 2
    async with db.tenant_tx(tenant) as tx:
        assert await (await tx.execute(f"select {written}::text, %s", [1])).fetchone() == (value, 1)


@pytest.mark.parametrize("value", [object(), "\0", {"a": 1}])
def test_a_value_that_postgres_does_not_know_is_refused(value: Any) -> None:
    with pytest.raises(Invalid, match="value"):
        literal(value)


async def test_over_http_it_is_written_and_not_run(app: App, client: httpx.AsyncClient, tenant: UUID) -> None:
    await client.put("/api/collections/papers", json={"embedder": None})
    await client.put("/api/collections/papers/documents/a", json={"text": "a ship"})
    answer = await client.post("/api/collections/papers/search/sql", json={"query": "ship", "k": 3})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["mode"], body["flags"]) == ("text", [])
    async with app.transaction(tenant) as tx:
        cursor = await tx.execute(f"select {', '.join(body['columns'])} from {body['sql']} hit")
        assert [row[0] for row in await cursor.fetchall()] == ["a"]
    gone = await client.post("/api/collections/papers/search/sql", json={"query": "ship", "within": "select 1"})
    assert gone.status_code == 422
    unknown = await client.post("/api/collections/other/search/sql", json={"query": "ship"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "collection_not_found")
