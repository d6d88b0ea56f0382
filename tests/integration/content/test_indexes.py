"""Kinds of indexes: what each finds, how one takes another's place, and what a crash in a build leaves behind."""

import asyncio
import math
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest
from typer.testing import CliRunner

from backstay.app import App
from backstay.audit import Audit
from backstay.auth import Auth
from backstay.content import Collection, CollectionNotFound, Content, NoEmbedder, vectors_store
from backstay.content.indexes import Indexes, IndexImpossible, IndexKind, store
from backstay.content.indexes.advice import Thresholds
from backstay.content.models import Space
from backstay.content.search import indexed_leg
from backstay.events import Events
from backstay.jobs import Jobs, NotTheOperator
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import APP, Database
from backstay.kernel.errors import Invalid
from backstay.kernel.halfvec import Halfvec
from backstay.kernel.principal import Principal
from conftest import MASTER_KEY

from .conftest import MODEL, Words, idle, rows, settled, until, working

WORDS = [
    f"{a}{b}" for a in ("ba", "ke", "li", "mo", "ru", "ta", "so", "fi") for b in ("dat", "fen", "gol", "hup", "nim")
]
QUERIES = ("badat kefen limnim", "rugol mogol", "kehup ligol badat runim", "tadat sofen")
COUNT, RARE = 1_600, 200
LARGE = 2**30


@cache
def direction(word: str, dimensions: int) -> list[float]:
    draw = random.Random(word)
    return [draw.gauss(0, 1) for _ in range(dimensions)]


def signed(text: str, dimensions: int) -> list[float]:
    """Each word has a direction of its own: unlike counts, they have signs, which the binary index lives on."""
    sums = [sum(parts) for parts in zip(*(direction(word, dimensions) for word in text.split()), strict=True)]
    length = math.sqrt(sum(value * value for value in sums))
    return [value / length for value in sums]


@pytest.fixture
def indexes(db: Database, clock: SystemClock, vault: Vault, auth: Auth, content: Content) -> Indexes:
    audit = Audit(db, clock, vault)
    return Indexes(db, audit, auth, Events(db, clock), content.indexer)


@pytest.fixture
async def operator(auth: Auth) -> Principal:
    return Principal.system((await auth.ensure_default_tenant()).id, "test")


@pytest.fixture
def eager(content: Content, words: Words) -> Content:
    """Thresholds that a test can reach."""
    words.vector = signed
    content.indexer.thresholds, content.indexer.look_every = Thresholds(300, 100), 0.02
    content.searcher.exact_rows = 50
    return content


def library(count: int, seed: int) -> list[tuple[str, dict[str, str]]]:
    draw = random.Random(seed)
    return [
        (
            f"d{n}",
            {"text": " ".join(draw.choices(WORDS, k=draw.randint(3, 12))), "kind": "rare" if n % 8 == 0 else "usual"},
        )
        for n in range(count)
    ]


async def fill(notes: Collection, count: int, seed: int, tenant: UUID) -> None:
    documents = library(count, seed)
    for at in range(0, count, 500):
        await notes.put_many(documents[at : at + 500], tenant=tenant)


async def space_of(db: Database, tenant: UUID) -> int:
    return int((await rows(db, tenant, "select id from backstay.space"))[0][0])  # type: ignore[call-overload]


async def standing(db: Database, space: int) -> list[tuple[str, bool]]:
    """Kinds of the indexes of the space's table, and whether they are valid."""
    async with store.builder(db, space) as builder:
        assert builder is not None
        return [(index.kind.value, index.valid) for index in await builder.standing()]


async def recall(content: Content, notes: Collection, tenant: UUID, where: dict[str, str] | None) -> float:
    """What part of the best ten is found, over some queries, each asked by index and exactly."""
    shares = []
    for query in QUERIES:
        scores = []
        for exact_rows in (50, LARGE):
            content.searcher.exact_rows = exact_rows
            answer = await notes.search(query, mode="semantic", k=10, where=where, tenant=tenant)
            scores.append([hit.score for hit in answer.hits])
        content.searcher.exact_rows = 50
        found, best = scores
        assert len(found) == 10
        shares.append(sum(score >= min(best) - 1e-3 for score in found) / 10)
    return sum(shares) / len(shares)


async def plan(db: Database, space: int, kind: IndexKind, tenant: UUID) -> str:
    """The plan of the search, as it is sent by the role that sends it."""
    async with db.tenant_tx(tenant) as tx:
        assert (await (await tx.execute("select current_user")).fetchone()) == (APP,)
        place = Space(space, MODEL, 64, index=kind)
        leg = indexed_leg(place, tenant, Halfvec.of(signed("badat", 64)), 50, None)
        await vectors_store.tune(tx, leg)
        cursor = await tx.execute(f"explain {leg.query.text}", leg.values)
        return "\n".join(str(line) for (line,) in await cursor.fetchall())


async def test_each_kind_finds_what_is_near_and_takes_the_place_of_another_while_searches_and_writes_go_on(
    eager: Content,
    notes: Collection,
    indexes: Indexes,
    db: Database,
    jobs: Jobs,
    operator: Principal,
    other_tenant: UUID,
) -> None:
    tenant = operator.tenant
    await fill(notes, COUNT, 1, tenant)
    await fill(notes, RARE, 2, other_tenant)
    await settled(db, jobs, tenant, other_tenant)
    space = await space_of(db, tenant)
    assert await standing(db, space) == [("hnsw", True)]
    for kind in (IndexKind.HNSW, IndexKind.IVFFLAT, IndexKind.BINARY):
        if kind is not IndexKind.HNSW:
            done = asyncio.Event()

            async def go_on(done: asyncio.Event = done) -> int:
                turns = 0
                while not done.is_set():
                    turns += 1
                    await notes.put(f"new{turns % 5}", {"text": f"badat kefen {turns}"}, tenant=tenant)
                    answer = await notes.search("badat kefen limnim", mode="semantic", k=10, tenant=tenant)
                    assert len(answer.hits) == 10
                return turns

            going = asyncio.create_task(go_on())
            await indexes.choose(operator, "notes", kind)

            async def built() -> bool:
                return not await rows(db, tenant, "select 1 from backstay.job where name = 'content.index'")

            async with working(jobs):  # writes go on meanwhile, so there is always another job
                await until(built)
                done.set()
                assert await going > 0
                await idle(db, tenant)
        assert await standing(db, space) == [(kind.value, True)]
        assert (await indexes.advise(operator, "notes")).state.kind is kind
        assert f"Index Scan using vec_{space}_{kind}" in await plan(db, space, kind, tenant)
        # One vector in nine is the other tenant's, one in eight passes the filter: without the iterative scan a search
        # would find but a few of them.
        for owner in (tenant, other_tenant):
            assert await recall(eager, notes, owner, None) >= 0.95, (kind, owner)
        assert await recall(eager, notes, tenant, {"kind": "rare"}) >= 0.95, kind
    await indexes.choose(operator, "notes", "none")
    await settled(db, jobs, tenant)
    assert await standing(db, space) == []
    assert await recall(eager, notes, tenant, None) == 1.0


async def test_an_ivfflat_index_is_not_trained_on_an_empty_table_and_is_trained_anew_when_asked(
    eager: Content, notes: Collection, indexes: Indexes, db: Database, jobs: Jobs, operator: Principal
) -> None:
    await eager.declare(operator, "notes", eager._registered["notes"].definition)
    await indexes.choose(operator, "notes", "ivfflat")
    await fill(notes, 60, 1, operator.tenant)
    await settled(db, jobs, operator.tenant)
    space = await space_of(db, operator.tenant)
    assert await standing(db, space) == []
    await fill(notes, 200, 2, operator.tenant)
    await settled(db, jobs, operator.tenant)
    assert await standing(db, space) == [("ivfflat", True)]
    oid = "select 'backstay.vec_%s_ivfflat'::regclass::oid::int"
    (before,) = await rows(db, operator.tenant, oid % space)
    await indexes.choose(operator, "notes", "ivfflat")  # stands already
    await settled(db, jobs, operator.tenant)
    assert await rows(db, operator.tenant, oid % space) == [before]
    await indexes.choose(operator, "notes", "ivfflat", rebuild=True)
    await settled(db, jobs, operator.tenant)
    assert await standing(db, space) == [("ivfflat", True)]
    assert await rows(db, operator.tenant, f"select to_regclass('backstay.vec_{space}_ivfflat') is null") == [(True,)]
    assert (await indexes.advise(operator, "notes")).state.lists == 10


async def test_only_one_process_builds(
    eager: Content, notes: Collection, indexes: Indexes, db: Database, jobs: Jobs, operator: Principal
) -> None:
    eager.indexer.thresholds = Thresholds(LARGE, 100)
    await fill(notes, 200, 1, operator.tenant)
    await settled(db, jobs, operator.tenant)
    space = await space_of(db, operator.tenant)
    async with store.builder(db, space) as first:
        assert first is not None
        async with store.builder(db, space) as second:
            assert second is None
        await indexes.choose(operator, "notes", "hnsw")
        async with working(jobs):

            async def snoozed() -> bool:
                jobs_left = "select 1 from backstay.job where name = 'content.index' and state = 'scheduled'"
                return bool(await rows(db, operator.tenant, jobs_left))

            await until(snoozed)
        assert await first.standing() == []
    await settled(db, jobs, operator.tenant)
    assert await standing(db, space) == [("hnsw", True)]


@asynccontextmanager
async def writing(database_url: str, space: int) -> AsyncIterator[None]:
    """A transaction that has written to the space's table: an index build waits for its end."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute(f"lock table backstay.vec_{space} in row exclusive mode")
        yield


@pytest.mark.parametrize("server_goes_on", [True, False])
async def test_a_worker_killed_in_the_middle_of_a_build_leaves_an_index_that_is_finished_or_built_anew(
    app: App, db: Database, database_url: str, server_goes_on: bool
) -> None:
    by = Principal.system(app.default_tenant, "test")
    docs = app.collection("docs", embedder="sim:dev-hash?dims=32")
    await docs.put_many([(str(n), {"text": f"word{n}"}) for n in range(20)], by=by)
    await settled(db, app.jobs, by.tenant)
    space = await space_of(db, by.tenant)
    app.content.indexer.thresholds = Thresholds(1, 1)
    await app.indexes.choose(by, "docs", "hnsw")
    program = Path(__file__).with_name("dying_indexer.py")
    index = f"select indexrelid::int, indisvalid from pg_index where indrelid = 'backstay.vec_{space}'::regclass"
    of_vectors = f"{index} and not indisprimary"
    async with writing(database_url, space):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(program), database_url, MASTER_KEY), env=os.environ
        )

        async def in_the_middle() -> bool:
            (one,) = await app.spaces.list(by, "docs")
            return one.build == "hnsw" and str(one.build_phase).startswith("waiting for writers")

        await until(in_the_middle)
        assert (await app.indexes.advise(by, "docs")).build is not None
        process.send_signal(signal.SIGKILL)
        await process.wait()
        ((left, valid),) = await rows(db, by.tenant, of_vectors)
        assert not valid
        if not server_goes_on:
            async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
                await connection.execute("select pg_terminate_backend(pid, 10000) from pg_stat_progress_create_index")
    await settled(db, app.jobs, by.tenant)
    ((stands, valid),) = await rows(db, by.tenant, of_vectors)
    assert valid
    assert (stands == left) is server_goes_on
    (one,) = await app.spaces.list(by, "docs")
    assert (one.index, one.build) == ("hnsw", None)


async def test_a_build_that_fails_says_why_and_is_tried_again(
    eager: Content,
    notes: Collection,
    indexes: Indexes,
    db: Database,
    jobs: Jobs,
    operator: Principal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await fill(notes, 120, 1, operator.tenant)
    await settled(db, jobs, operator.tenant)
    usual, tried = store.Builder.create, asyncio.Event()

    async def failing(self: store.Builder, kind: IndexKind, **rest: int) -> str:
        if tried.is_set():
            return await usual(self, kind, **rest)
        tried.set()
        raise OSError("the disk is full")

    monkeypatch.setattr(store.Builder, "create", failing)
    await indexes.choose(operator, "notes", "hnsw")
    async with working(jobs):

        async def told() -> bool:
            build = (await indexes.advise(operator, "notes")).build
            return build is not None and build.error == "the disk is full"

        await until(told)
    await settled(db, jobs, operator.tenant)
    advice = await indexes.advise(operator, "notes")
    assert (advice.state.kind, advice.build) == (IndexKind.HNSW, None)


async def test_a_backfill_gets_its_index_when_it_is_complete(
    eager: Content, notes: Collection, db: Database, jobs: Jobs, operator: Principal
) -> None:
    await fill(notes, 400, 1, operator.tenant)
    space = (await rows(db, operator.tenant, "select id from backstay.space"))[0][0]
    filling = "insert into backstay.collection_space values (%s, 'notes', %s, 'building', now()) returning 1"
    await rows(db, operator.tenant, filling, operator.tenant, space)
    await settled(db, jobs, operator.tenant)
    assert await standing(db, int(str(space))) == []
    await rows(db, operator.tenant, "update backstay.collection_space set filled_at = now() returning 1")
    await notes.put("last", {"text": "badat"}, tenant=operator.tenant)
    await settled(db, jobs, operator.tenant)
    assert await standing(db, int(str(space))) == [("hnsw", True)]


async def test_a_search_that_looks_at_very_many_vectors_without_an_index_says_so(
    eager: Content,
    notes: Collection,
    indexes: Indexes,
    db: Database,
    jobs: Jobs,
    operator: Principal,
    other_tenant: UUID,
) -> None:
    eager.indexer.thresholds = Thresholds(LARGE, LARGE)
    eager.searcher.large_scan = 100
    await fill(notes, 120, 1, operator.tenant)
    await fill(notes, 20, 1, other_tenant)
    await settled(db, jobs, operator.tenant, other_tenant)
    assert (await notes.search("badat", mode="semantic", tenant=operator.tenant)).flags == ("unindexed",)
    assert (await notes.search("badat", mode="semantic", tenant=other_tenant)).flags == ()
    assert (await notes.search("badat", mode="text", tenant=operator.tenant)).flags == ()


async def test_what_cannot_be_is_refused_by_name(
    eager: Content,
    notes: Collection,
    indexes: Indexes,
    db: Database,
    jobs: Jobs,
    words: Words,
    operator: Principal,
    owner: Principal,
) -> None:
    with pytest.raises(CollectionNotFound):
        await indexes.choose(operator, "notes", "hnsw")
    words.dimensions = 4_001
    await notes.put("a", {"text": "badat"}, by=operator)
    await settled(db, jobs, operator.tenant)
    with pytest.raises(IndexImpossible, match="4001 dimensions"):
        await indexes.choose(operator, "notes", "hnsw")
    with pytest.raises(Invalid, match="auto, none, hnsw, ivfflat, binary"):
        await indexes.choose(operator, "notes", "tree")
    with pytest.raises(NoEmbedder, match="no vectors to a space 99"):
        await indexes.choose(operator, "notes", "binary", space=99)
    await notes.put("a", {"text": "badat"}, by=owner)
    for refused in (indexes.choose(owner, "notes", "binary"), indexes.advise(owner, "notes")):
        with pytest.raises(NotTheOperator):
            await refused


class TestOverHttp:
    async def test_an_index_is_chosen_and_seen(self, app: App, db: Database) -> None:
        key = (await app.auth.create_owner(app.default_tenant, "operator")).secret
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {key}"}
        app.content.indexer.thresholds = Thresholds(1, 1)
        async with httpx.AsyncClient(transport=transport, base_url="http://backstay", headers=headers) as client:
            base = "/api/collections/docs"
            await client.put(base, json={})
            await client.put(f"{base}/documents/a", json={"text": "a ship"})
            chosen = await client.put(f"{base}/index", json={"kind": "binary"})
            assert (chosen.status_code, chosen.json()["wish"], chosen.json()["index"]) == (202, "binary", None)
            await app.jobs.worker().run_until_idle()
            seen = (await client.get(f"{base}/index")).json()
            assert (seen["index"], seen["vectors"], seen["build"], seen["findings"]) == ("binary", 1, None, [])
            (space,) = (await client.get(f"{base}/spaces")).json()["spaces"]
            assert (space["index"], space["index_wish"], space["build"]) == ("binary", "binary", None)
            entries = (await client.get("/api/audit/entries", params={"action": "content.space.index"})).json()["items"]
            assert [entry["metadata"]["kind"] for entry in entries] == ["binary"]
            assert (await client.put(f"{base}/index", json={"kind": "tree"})).status_code == 422

    async def test_a_tenant_does_not_choose_for_all(self, client: httpx.AsyncClient) -> None:
        await client.put("/api/collections/docs", json={})
        for answer in (
            await client.put("/api/collections/docs/index", json={"kind": "none"}),
            await client.get("/api/collections/docs/index"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "not_the_operator")


def test_the_command_line_chooses_and_advises(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backstay.content.cli import commands as content_commands
    from backstay.content.spaces.cli import commands

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("A ship sails.", encoding="utf-8")
    for name, value in {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path), "MASTER_KEY": "m" * 40}.items():
        monkeypatch.setenv(f"BACKSTAY_{name}", value)
    run = CliRunner().invoke
    assert run(content_commands, ["ingest", str(tmp_path / "docs")]).exit_code == 0
    chosen = run(commands, ["index", "docs", "--kind", "ivfflat"])
    assert chosen.exit_code == 0, chosen.output
    assert "index none; asked for: ivfflat; suits: none" in run(commands, ["index", "docs"]).output
    assert "none" in run(commands, ["list", "docs"]).output
