"""Changing the embedding model of a collection that is written, searched and interrupted meanwhile."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from decimal import Decimal
from math import log2
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from typer.testing import CliRunner

from backstay.app import App
from backstay.audit import Audit
from backstay.content import BatchLimit, Collection, CollectionNotFound, Content
from backstay.content.search import Nearest
from backstay.content.spaces import (
    Judgement,
    MigrationRunning,
    SpaceBusy,
    SpaceNotFound,
    SpaceNotReady,
    Spaces,
    SpaceState,
)
from backstay.content.spaces.cli import commands
from backstay.content.spaces.judgements import gain
from backstay.events import Events
from backstay.gateway import ProviderRefused
from backstay.jobs import Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.errors import Invalid
from backstay.kernel.principal import Principal
from conftest import MASTER_KEY

from .conftest import MODEL, Words, rows, settled, until, vector, working

NEW = "test:new"


@pytest.fixture
def spaces(db: Database, clock: SystemClock, jobs: Jobs, vault: Vault, words: Words, content: Content) -> Spaces:
    words.sizes[NEW] = 32
    audit, events = Audit(db, clock, vault), Events(db, clock)
    return Spaces(db, clock, jobs, words, audit, events, content.pipeline, content.searcher)


@pytest.fixture
async def filled(notes: Collection, db: Database, jobs: Jobs, owner: Principal) -> Collection:
    await notes.put_many([(str(n), {"text": f"word{n}"}) for n in range(12)], by=owner)
    await settled(db, jobs, owner.tenant)
    return notes


async def held(db: Database, tenant: UUID, space: int) -> dict[str, str]:
    """Text and vector of every chunk that has one in the space."""
    query = f"select c.text, v.e::text from backstay.vec_{space} v join backstay.chunk c on c.id = v.chunk_id"
    return {str(text): str(literal) for text, literal in await rows(db, tenant, query)}


async def assert_right(db: Database, tenant: UUID, space: int, dimensions: int) -> None:
    """Every chunk has the vector of its present text, and nothing else has one."""
    found = await held(db, tenant, space)
    texts = {str(text) for (text,) in await rows(db, tenant, "select text from backstay.chunk")}
    assert set(found) == texts
    assert await rows(db, tenant, f"select count(*) from backstay.vec_{space}") == [(len(texts),)]
    for text, literal in found.items():
        given = [float(part) for part in literal.strip("[]").split(",")]
        assert given == pytest.approx(vector(text, dimensions), abs=1e-3)


async def test_the_price_is_shown_before_anything_is_written_or_sent(
    spaces: Spaces, filled: Collection, words: Words, db: Database, owner: Principal, content: Content
) -> None:
    content.pipeline.limits[NEW] = BatchLimit(inputs=5)
    sent = len(words.calls)
    preview = await spaces.preview(owner, "notes", NEW)
    assert (preview.chunks, preview.cost) == (12, Decimal("0.03"))
    assert preview.tokens >= 12
    assert len(words.calls) == sent
    assert await rows(db, owner.tenant, "select 1 from backstay.collection_space") == []


async def test_searches_go_on_with_the_old_model_until_the_switch_and_then_use_the_new(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, words: Words, owner: Principal
) -> None:
    new = await spaces.migrate(owner, "notes", NEW)
    assert (new.state, new.embedded) == (SpaceState.BUILDING, 0)
    assert (await filled.search("word3", mode="semantic", by=owner)).hits[0].text == "word3"
    assert words.models[-1] == MODEL
    await settled(db, jobs, owner.tenant)
    assert (await filled.search("word3", mode="semantic", by=owner)).hits[0].text == "word3"
    assert words.models[-1] == MODEL
    switched = await spaces.switch(owner, "notes", new.id)
    assert (switched.state, switched.embedded) == (SpaceState.ACTIVE, 12)
    assert (await filled.search("word3", mode="semantic", by=owner)).hits[0].text == "word3"
    assert words.models[-1] == NEW
    assert [space.state for space in await spaces.list(owner, "notes")] == [SpaceState.ACTIVE, SpaceState.STANDBY]
    await assert_right(db, owner.tenant, new.id, 32)


async def test_writes_of_before_during_and_after_reach_both_spaces(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, owner: Principal
) -> None:
    (old,) = await spaces.list(owner, "notes")
    new = await spaces.migrate(owner, "notes", NEW)
    await filled.put("0", {"text": "changed"}, by=owner)
    await filled.delete("1", by=owner)
    await filled.put("added", {"text": "added"}, by=owner)
    await settled(db, jobs, owner.tenant)
    await spaces.switch(owner, "notes", new.id)
    await filled.put("2", {"text": "changed after"}, by=owner)
    await filled.delete("3", by=owner)
    await settled(db, jobs, owner.tenant)
    await assert_right(db, owner.tenant, old.id, 64)
    await assert_right(db, owner.tenant, new.id, 32)
    back = await spaces.rollback(owner, "notes")
    assert (back.id, back.embedded) == (old.id, 11)
    assert (await filled.search("changed after", mode="semantic", by=owner)).hits[0].text == "changed after"


async def test_a_write_that_is_open_when_the_migration_begins_is_waited_for_and_not_missed(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, owner: Principal
) -> None:
    async with db.tenant_tx(owner.tenant) as tx:
        await filled.put("early", {"text": "early"}, tx=tx)
        begun = asyncio.create_task(spaces.migrate(owner, "notes", NEW))
        waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted"

        async def it_waits() -> bool:
            return await rows(db, owner.tenant, waits) == [(1,)]

        await until(it_waits)
    new = await begun
    await settled(db, jobs, owner.tenant)
    assert "early" in await held(db, owner.tenant, new.id)


async def test_a_transaction_that_stays_open_makes_the_change_give_up_and_not_the_writers(
    spaces: Spaces, filled: Collection, db: Database, owner: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backstay.content.spaces.store._PATIENCE", "50ms")
    async with db.tenant_tx(owner.tenant) as tx:
        await filled.put("early", {"text": "early"}, tx=tx)
        with pytest.raises(SpaceBusy):
            await spaces.migrate(owner, "notes", NEW)
    assert (await filled.get("early", by=owner)).body == {"text": "early"}
    assert len(await spaces.list(owner, "notes")) == 1


async def test_the_gate_is_closed_while_a_chunk_lacks_its_vector_and_says_how_many(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, words: Words, owner: Principal
) -> None:
    new = await spaces.migrate(owner, "notes", NEW)
    with pytest.raises(SpaceNotReady, match="has not answered yet"):
        await spaces.switch(owner, "notes", new.id)

    def fault(inputs: Sequence[str]) -> Exception | None:
        refused = words.models[-1] == NEW and "word7" in inputs
        return ProviderRefused("not this one", 400, b"{}", {}) if refused else None

    words.fault = fault
    await settled(db, jobs, owner.tenant)
    with pytest.raises(SpaceNotReady, match="1 chunks that can be found by vector now have none"):
        await spaces.switch(owner, "notes", new.id)
    assert "word7" in {hit.text for hit in (await filled.search("word7", mode="semantic", k=2, by=owner)).hits}


async def test_chunks_that_the_backfill_has_not_come_to_close_the_gate_and_are_taken_up(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, owner: Principal
) -> None:
    new = await spaces.migrate(owner, "notes", NEW)
    await settled(db, jobs, owner.tenant)
    await rows(db, owner.tenant, f"delete from backstay.vec_{new.id} where chunk_id = any(array("
               f"select chunk_id from backstay.vec_{new.id} limit 2)) returning 1")  # fmt: skip
    with pytest.raises(SpaceNotReady, match="2 chunks have not been taken up"):
        await spaces.switch(owner, "notes", new.id)
    await settled(db, jobs, owner.tenant)
    assert (await spaces.switch(owner, "notes", new.id)).embedded == 12


async def test_the_gate_is_closed_while_the_index_finds_too_little(
    spaces: Spaces,
    filled: Collection,
    content: Content,
    db: Database,
    jobs: Jobs,
    owner: Principal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = await spaces.migrate(owner, "notes", NEW)
    await settled(db, jobs, owner.tenant)
    usual = content.searcher.nearest

    async def losing(*args: object) -> object:
        near = await usual(*args)  # type: ignore[arg-type]
        return Nearest(near.found[: len(near.found) // 2], by_index=True)

    with monkeypatch.context() as patch:
        patch.setattr(content.searcher, "nearest", losing)
        with pytest.raises(SpaceNotReady, match=r"finds 0\.500 of the nearest 10"):
            await spaces.switch(owner, "notes", new.id)
        measured = await spaces.check_recall(owner, "notes")
        assert (measured.recall, measured.exact) == (0.5, False)
    measured = await spaces.check_recall(owner, "notes")
    assert (measured.recall, measured.queries, measured.exact) == (1.0, 12, True)


async def test_the_gate_is_closed_while_judged_queries_find_less_and_a_forced_switch_is_kept_in_the_audit(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, words: Words, owner: Principal
) -> None:
    judged = [Judgement(f"word{n}", {str(n): 1}) for n in range(4)]
    await spaces.judgements.put(owner, "notes", judged)
    assert await spaces.judgements.stated(owner, "notes") == judged
    words.vector = lambda text, size: vector("all the same" if size == 32 else text, size)
    new = await spaces.migrate(owner, "notes", NEW)
    await settled(db, jobs, owner.tenant)
    with pytest.raises(SpaceNotReady, match=r"by 4 judged queries nDCG@10 is 0\.\d+ and was 1\.000"):
        await spaces.switch(owner, "notes", new.id)
    assert (await spaces.switch(owner, "notes", new.id, force=True)).state is SpaceState.ACTIVE
    entry = "select metadata from backstay.audit_entry where action = 'content.space.switch'"
    ((kept,),) = await rows(db, owner.tenant, entry)
    assert kept["ndcg_before"] == 1.0  # type: ignore[index]
    assert "judged queries" in kept["forced"][0]  # type: ignore[index]


async def test_judged_queries_that_find_as_much_as_before_open_the_gate(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, owner: Principal, other_owner: Principal
) -> None:
    await spaces.judgements.put(owner, "notes", [Judgement("word3", {"3": 2, "gone": 1})])
    new = await spaces.migrate(owner, "notes", NEW)
    await settled(db, jobs, owner.tenant)
    assert (await spaces.switch(owner, "notes", new.id)).state is SpaceState.ACTIVE
    with pytest.raises(CollectionNotFound):
        await spaces.judgements.stated(other_owner, "notes")
    twice, graded, unstorable = [Judgement("a", {"b": 1})] * 2, [Judgement("a", {"b": 11})], [Judgement("\0", {"b": 1})]
    for judgements in (twice, graded, unstorable, [Judgement("a", {})]):
        with pytest.raises(Invalid):
            await spaces.judgements.put(owner, "notes", judgements)


def test_gain_is_that_of_the_textbook() -> None:
    relevant = {"a": 3, "b": 1}
    assert gain(["a", "b"], relevant) == 1.0
    assert gain(["x", "y"], relevant) == 0.0
    assert gain(["b", "a"], relevant) == pytest.approx((1 + 7 / log2(3)) / (7 + 1 / log2(3)))
    assert gain([*"cdefghijkl", "a"], relevant) == 0.0  # the eleventh does not count


async def test_a_switch_between_writers_loses_no_text_that_could_be_found(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, owner: Principal
) -> None:
    new = await spaces.migrate(owner, "notes", NEW)
    done = asyncio.Event()

    async def write(writer: int) -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            await filled.put(f"{writer}:{turn % 4}", {"text": f"writer {writer} turn {turn}"}, by=owner)
            if turn % 5 == 0:
                await filled.delete(f"{writer}:{turn % 4}", by=owner)

    async def switched() -> bool:
        try:
            await spaces.switch(owner, "notes", new.id)
        except SpaceNotReady:
            return False
        return True

    async with working(jobs, concurrency=4), asyncio.TaskGroup() as group:
        for writer in range(3):
            group.create_task(write(writer))
        try:
            await until(switched)
            found = await filled.search("word3", mode="semantic", by=owner)
            assert found.hits[0].text == "word3"
        finally:
            done.set()
    await settled(db, jobs, owner.tenant)
    old = next(space for space in await spaces.list(owner, "notes") if space.state is SpaceState.STANDBY)
    await assert_right(db, owner.tenant, old.id, 64)
    await assert_right(db, owner.tenant, new.id, 32)


async def test_a_retired_space_gets_no_more_vectors_and_keeps_none_though_an_answer_comes_late(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, words: Words, owner: Principal
) -> None:
    new = await spaces.migrate(owner, "notes", NEW)
    await settled(db, jobs, owner.tenant)
    words.gate.clear()
    words.asked.clear()
    await filled.put("late", {"text": "late"}, by=owner)
    async with working(jobs):
        await words.asked.wait()
        assert (await spaces.retire(owner, "notes", new.id)).state is SpaceState.RETIRED
        words.gate.set()
    await settled(db, jobs, owner.tenant)
    await filled.put("later", {"text": "later"}, by=owner)
    await settled(db, jobs, owner.tenant)
    assert await held(db, owner.tenant, new.id) == {}
    (old, _) = await spaces.list(owner, "notes")
    await assert_right(db, owner.tenant, old.id, 64)
    again = await spaces.migrate(owner, "notes", NEW)
    await settled(db, jobs, owner.tenant)
    assert (await spaces.switch(owner, "notes", again.id)).embedded == 14


async def test_a_change_that_cannot_be_is_refused_by_name(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, owner: Principal, other_owner: Principal
) -> None:
    with pytest.raises(MigrationRunning, match="already"):
        await spaces.migrate(owner, "notes", MODEL)
    with pytest.raises(Invalid, match="provider:model"):
        await spaces.migrate(owner, "notes", "nonsense")
    new = await spaces.migrate(owner, "notes", NEW)
    with pytest.raises(MigrationRunning, match="changes its model already"):
        await spaces.migrate(owner, "notes", "test:third")
    with pytest.raises(SpaceNotFound):
        await spaces.rollback(owner, "notes")
    with pytest.raises(CollectionNotFound):
        await spaces.switch(other_owner, "notes", new.id)
    (old, _) = await spaces.list(owner, "notes")
    with pytest.raises(SpaceNotReady, match="is searched now"):
        await spaces.retire(owner, "notes", old.id)
    with pytest.raises(SpaceNotReady, match="not building"):
        await spaces.switch(owner, "notes", old.id)


async def test_another_tenants_collection_of_the_same_name_keeps_its_model(
    spaces: Spaces, filled: Collection, db: Database, jobs: Jobs, words: Words, owner: Principal, other_owner: Principal
) -> None:
    await filled.put("theirs", {"text": "theirs"}, by=other_owner)
    new = await spaces.migrate(owner, "notes", NEW)
    await settled(db, jobs, owner.tenant, other_owner.tenant)
    await spaces.switch(owner, "notes", new.id)
    await filled.put("theirs", {"text": "theirs changed"}, by=other_owner)
    await settled(db, jobs, other_owner.tenant)
    assert [space.model for space in await spaces.list(other_owner, "notes")] == [MODEL]
    await filled.search("theirs", mode="semantic", by=other_owner)
    assert words.models[-1] == MODEL
    assert await rows(db, other_owner.tenant, f"select 1 from backstay.vec_{new.id}") == []


async def test_a_text_collection_gets_an_embedder(
    spaces: Spaces, content: Content, db: Database, jobs: Jobs, owner: Principal
) -> None:
    plain = content.collection("plain", embedder=None)
    await plain.put("a", {"text": "a word"}, by=owner)
    new = await spaces.migrate(owner, "plain", NEW)
    await settled(db, jobs, owner.tenant)
    await spaces.switch(owner, "plain", new.id)
    assert (await plain.search("a word", mode="semantic", by=owner)).hits[0].id == "a"


@pytest.mark.parametrize("place", ["fill", "embed", "switch", "clear"])
async def test_a_process_killed_in_any_phase_leaves_a_change_that_goes_on(
    app: App, db: Database, tenant: UUID, database_url: str, place: str
) -> None:
    by = Principal.system(tenant, "test")
    docs = app.collection("docs", embedder="sim:dev-hash?dims=64")
    await docs.put_many([(str(n), {"text": f"word{n}"}) for n in range(5)], by=by)
    await settled(db, app.jobs, tenant)
    new = await app.spaces.migrate(by, "docs", "sim:dev-hash?dims=32")
    if place in ("switch", "clear"):
        await settled(db, app.jobs, tenant)
    if place == "clear":
        await app.spaces.retire(by, "docs", new.id)
    program = Path(__file__).with_name("dying_migration.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(program), database_url, MASTER_KEY, place, str(tenant), str(new.id)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ,
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"here\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await settled(db, app.jobs, tenant)
    if place == "clear":
        assert await held(db, tenant, new.id) == {}
        return
    assert [one.state for one in await app.spaces.list(by, "docs")] == [SpaceState.ACTIVE, SpaceState.BUILDING]
    switched = await app.spaces.switch(by, "docs", new.id)
    assert (switched.embedded, switched.pending) == (5, 0)


class TestOverHttp:
    async def test_a_model_is_changed_and_changed_back(self, app: App, client: httpx.AsyncClient, tenant: UUID) -> None:
        base = "/api/collections/docs"
        await client.put(base, json={"embedder": "sim:dev-hash?price=0.10"})
        await client.put(f"{base}/documents/a", json={"text": "a ship"})
        await app.jobs.worker().run_until_idle()
        model = {"model": "sim:dev-hash?dims=32&price=0.25"}
        judged = {"judgements": [{"query": "a ship", "relevant": {"a": 1}}]}
        assert (await client.put(f"{base}/spaces/judgements", json=judged)).json() == judged
        assert (await client.get(f"{base}/spaces/judgements")).json() == judged
        seen = (await client.post(f"{base}/spaces/preview", json=model)).json()
        assert (seen["chunks"], seen["cost"]) == (1, "0.25")
        begun = await client.post(f"{base}/spaces", json=model)
        assert (begun.status_code, begun.json()["state"]) == (202, "building")
        id = begun.json()["id"]
        early = await client.post(f"{base}/spaces/{id}/switch", json={})
        assert (early.status_code, early.json()["code"]) == (409, "space_not_ready")
        await app.jobs.worker().run_until_idle()
        assert (await client.post(f"{base}/spaces/{id}/switch", json={})).json()["state"] == "active"
        assert (await client.get(base)).json()["definition"]["embedder"] == model["model"]
        recall = (await client.post(f"{base}/spaces/check-recall", json={})).json()
        assert (recall["space"], recall["recall"], recall["exact"]) == (id, 1.0, True)
        old = (await client.post(f"{base}/spaces/rollback")).json()
        assert old["model"] == "sim:dev-hash?price=0.10"
        gone = (await client.delete(f"{base}/spaces/{id}")).json()
        assert gone["state"] == "retired"
        assert [one["state"] for one in (await client.get(f"{base}/spaces")).json()["spaces"]] == ["active", "retired"]
        entries = (await client.get("/api/audit/entries?limit=200")).json()["items"]
        actions = [entry["action"] for entry in entries if entry["action"].startswith("content.space")]
        assert actions == [f"content.space.{what}" for what in ("retire", "rollback", "switch", "migrate")]

    async def test_another_tenant_and_a_viewer_change_nothing(
        self, client: httpx.AsyncClient, other_client: httpx.AsyncClient
    ) -> None:
        base = "/api/collections/docs"
        await client.put(base, json={})
        model = {"model": "sim:dev-hash?dims=32"}
        assert (await other_client.post(f"{base}/spaces", json=model)).status_code == 404
        assert (await other_client.get(f"{base}/spaces")).status_code == 404
        assert (await client.post(f"{base}/spaces", json={"model": "nobody:x"})).status_code == 404
        key = (await client.post("/api/keys", json={"name": "reader", "role": "viewer"})).json()["secret"]
        viewer = {"authorization": f"Bearer {key}"}
        assert (await client.post(f"{base}/spaces", json=model, headers=viewer)).status_code == 403
        assert (await client.get(f"{base}/spaces", headers=viewer)).status_code == 200


def test_the_command_line_shows_the_price_and_asks(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backstay.content.cli import commands as content_commands

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("A ship sails.", encoding="utf-8")
    for name, value in {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path), "MASTER_KEY": "m" * 40}.items():
        monkeypatch.setenv(f"BACKSTAY_{name}", value)
    run = CliRunner().invoke
    assert run(content_commands, ["ingest", str(tmp_path / "docs")]).exit_code == 0
    model = "sim:dev-hash?dims=32&price=0.25"
    refused = run(commands, ["migrate", "docs", model], input="n\n")
    assert "1 chunks" in refused.output
    assert "0.25 USD" in refused.output
    assert refused.exit_code == 1
    assert "building" in run(commands, ["migrate", "docs", model], input="y\n").output
    listed = run(commands, ["list", "docs"]).output
    assert "active" in listed
    assert "0 of 1" in listed
    assert "retired" in run(commands, ["retire", "docs", "2"]).output
    (tmp_path / "judged.jsonl").write_text('{"query": "ship", "relevant": {"a.md": 1}}\n', encoding="utf-8")
    assert "1 judged queries" in run(commands, ["judge", "docs", str(tmp_path / "judged.jsonl")]).output
