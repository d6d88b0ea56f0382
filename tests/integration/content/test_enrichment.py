"""Models fill fields of documents: about the text that stands, once, and never over what a caller wrote."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from backstay.app import App
from backstay.audit import Audit
from backstay.content import Content
from backstay.content.enrichment import Enrichment, EnrichmentNotFound, Enrichments
from backstay.content.enrichment.cli import commands
from backstay.gateway import Answer, ContentFiltered, ProviderFailed, Usage
from backstay.jobs import Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.errors import ConfigurationError, Invalid
from backstay.kernel.principal import Principal

from .conftest import MODEL, idle, rows, settled, working

SUMMARY = Enrichment(model="test:model", prompt="Sum up: {text}")


class Model:
    """A model that repeats the question in capitals, waits at `gate` if that is closed, and fails as `faults` says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate, self.called = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.faults: dict[str, Exception] = {}
        self.finish = "stop"

    async def complete(self, by: Principal, request: Mapping[str, Any], **about: Any) -> Answer:
        question = request["messages"][0]["content"]
        assert about["feature"] == "content.enrich"
        self.asked.append(question)
        self.called.set()
        await self.gate.wait()
        for part, fault in self.faults.items():
            if part in question:
                raise fault
        body = {"choices": [{"message": {"content": question.upper()}, "finish_reason": self.finish}]}
        return Answer.of(body, b"", uuid4(), Usage(1, 1), Decimal("0.01"))


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def enrichments(
    db: Database, clock: SystemClock, jobs: Jobs, vault: Vault, content: Content, model: Model
) -> Enrichments:
    return Enrichments(db, clock, jobs, model, Audit(db, clock, vault), content)


@pytest.fixture
def by(tenant: UUID) -> Principal:
    return Principal.system(tenant, "test")


async def state(db: Database, tenant: UUID) -> list[tuple[object, ...]]:
    return await rows(db, tenant, "select content_id, state from backstay.enriched order by content_id")


async def test_a_document_gets_its_field_and_is_searched_by_it(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}")
    put = await notes.put("a", {"text": "the moon"}, tenant=tenant)
    assert (await notes.get("a", tenant=tenant)).body == {"text": "the moon"}
    await settled(db, jobs, tenant)
    stands = await notes.get("a", tenant=tenant)
    assert stands.body == {"text": "the moon", "summary": "SUM UP: THE MOON"}
    assert (put.rev, stands.rev) == (1, 2)
    assert [hit.id for hit in (await notes.search("sum", mode="text", tenant=tenant)).hits] == ["a"]
    assert model.asked == ["Sum up: the moon"]


async def test_the_same_document_again_asks_nothing_and_changes_nothing(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}")
    await notes.put("a", {"text": "the moon"}, tenant=tenant)
    await settled(db, jobs, tenant)
    again = await notes.put("a", {"text": "the moon"}, tenant=tenant)
    read_and_written = await notes.put("a", (await notes.get("a", tenant=tenant)).body, tenant=tenant)
    aside = await notes.put("a", {"text": "the moon", "tags": ["sky"]}, tenant=tenant)
    await settled(db, jobs, tenant)
    assert (again.changed, read_and_written.changed, aside.changed) == (False, False, True)
    assert len(model.asked) == 1
    assert (await notes.get("a", tenant=tenant)).body["summary"] == "SUM UP: THE MOON"


async def test_another_text_takes_the_old_answer_out_and_asks_anew(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}")
    await notes.put("a", {"text": "the moon"}, tenant=tenant)
    await settled(db, jobs, tenant)
    body = (await notes.get("a", tenant=tenant)).body
    await notes.put("a", body | {"text": "the sea"}, tenant=tenant)
    assert "summary" not in (await notes.get("a", tenant=tenant)).body
    await settled(db, jobs, tenant)
    assert (await notes.get("a", tenant=tenant)).body["summary"] == "SUM UP: THE SEA"


async def test_what_the_caller_writes_into_the_field_stays(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}")
    await notes.put("a", {"text": "the moon", "summary": "mine"}, tenant=tenant)
    await notes.put("b", {"text": "the sea"}, tenant=tenant)
    await settled(db, jobs, tenant)
    await notes.put("b", {"text": "the sea", "summary": "mine too"}, tenant=tenant)
    await settled(db, jobs, tenant)
    assert model.asked == ["Sum up: the sea"]
    assert (await notes.get("a", tenant=tenant)).body["summary"] == "mine"
    assert (await notes.get("b", tenant=tenant)).body["summary"] == "mine too"


async def test_an_answer_about_an_older_text_is_paid_and_not_written(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID, by: Principal
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}")
    await notes.put("a", {"text": "the moon"}, tenant=tenant)
    model.gate.clear()
    async with working(jobs):
        await model.called.wait()
        await notes.put("a", {"text": "the sea"}, tenant=tenant)
        model.gate.set()
        await idle(db, tenant)
    assert (await notes.get("a", tenant=tenant)).body["summary"] == "SUM UP: THE SEA"
    assert sorted(model.asked) == ["Sum up: the moon", "Sum up: the sea"]
    (standing,) = await enrichments.standings(by, "notes")
    assert (standing.done, standing.waiting, standing.cost) == (1, 0, Decimal("0.02"))


async def test_a_document_that_is_deleted_meanwhile_stays_deleted(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}")
    await notes.put("a", {"text": "the moon"}, tenant=tenant)
    model.gate.clear()
    async with working(jobs):
        await model.called.wait()
        assert await notes.delete("a", tenant=tenant)
        model.gate.set()
        await idle(db, tenant)
    assert await rows(db, tenant, "select id from backstay.content") == []
    assert await state(db, tenant) == []


async def test_a_write_that_is_rolled_back_asks_nothing(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}")
    with pytest.raises(ZeroDivisionError):
        async with db.tenant_tx(tenant) as tx:
            await notes.put("a", {"text": "the moon"}, tx=tx)
            raise ZeroDivisionError
    await settled(db, jobs, tenant)
    assert model.asked == []


async def test_one_that_the_model_refuses_fails_with_the_reason_and_stops_no_other(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID, by: Principal
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}")
    model.faults["poison"] = ContentFiltered("the provider will not answer this", 400, b"", {})
    await notes.put_many([(name, {"text": name}) for name in ("good", "poison", "well")], tenant=tenant)
    await settled(db, jobs, tenant)
    assert await state(db, tenant) == [("good", "done"), ("poison", "failed"), ("well", "done")]
    (failed,) = await enrichments.failed(by, "notes", "summary")
    assert (failed.id, failed.error) == ("poison", "the provider will not answer this")
    model.faults.clear()
    assert await enrichments.retry(by, "notes", "summary") == 1
    await settled(db, jobs, tenant)
    assert (await notes.get("poison", tenant=tenant)).body["summary"] == "SUM UP: POISON"


async def test_an_answer_that_was_cut_off_is_not_kept(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID, by: Principal
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}", max_tokens=7)
    model.finish = "length"
    await notes.put("a", {"text": "the moon"}, tenant=tenant)
    await settled(db, jobs, tenant)
    (failed,) = await enrichments.failed(by, "notes", "summary")
    assert failed.error == "the answer was cut off at max_tokens=7; allow more"
    assert "summary" not in (await notes.get("a", tenant=tenant)).body


async def test_a_provider_that_is_down_loses_nothing(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}")
    model.faults["moon"] = ProviderFailed("down")
    await notes.put("a", {"text": "the moon"}, tenant=tenant)
    async with working(jobs):
        await model.called.wait()
        while await rows(db, tenant, "select 1 from backstay.job where state <> 'retryable'"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await state(db, tenant) == [("a", "waiting")]
    model.faults.clear()
    async with db.system_tx() as tx:
        await tx.execute("update backstay.job set run_at = now() - interval '1 hour' where state = 'retryable'")
    await settled(db, jobs, tenant)
    assert await state(db, tenant) == [("a", "done")]


async def test_documents_that_stand_are_filled_when_a_field_is_declared_and_again_with_another_prompt(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID, by: Principal
) -> None:
    notes = content.collection("notes", embedder=None)
    await notes.put_many([(f"{n:03}", {"text": f"number {n}"}) for n in range(220)], tenant=tenant)
    assert await enrichments.declare(by, "notes", "summary", SUMMARY)
    assert not await enrichments.declare(by, "notes", "summary", SUMMARY)
    await settled(db, jobs, tenant)
    assert (await notes.get("219", tenant=tenant)).body["summary"] == "SUM UP: NUMBER 219"
    assert len(model.asked) == 220
    assert await enrichments.declare(by, "notes", "summary", Enrichment(model="test:model", prompt="Name: {text}"))
    await settled(db, jobs, tenant)
    assert (await notes.get("000", tenant=tenant)).body["summary"] == "NAME: NUMBER 0"
    (standing,) = await enrichments.standings(by, "notes")
    assert (standing.done, standing.cost) == (220, Decimal("4.40"))


async def test_a_field_that_is_filled_no_longer_keeps_what_it_has(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID, by: Principal
) -> None:
    notes = content.collection("notes", embedder=None)
    await notes.put("a", {"text": "the moon"}, tenant=tenant)
    await enrichments.declare(by, "notes", "summary", SUMMARY)
    await settled(db, jobs, tenant)
    await enrichments.remove(by, "notes", "summary")
    await notes.put("b", {"text": "the sea"}, tenant=tenant)
    await settled(db, jobs, tenant)
    assert (await notes.get("a", tenant=tenant)).body["summary"] == "SUM UP: THE MOON"
    assert "summary" not in (await notes.get("b", tenant=tenant)).body
    with pytest.raises(EnrichmentNotFound):
        await enrichments.remove(by, "notes", "summary")


async def test_a_prompt_without_places_is_followed_by_every_text_but_the_filled_ones(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up:")
    notes.enrich("mood", model="test:model", prompt="{author.name} and {summary}: {missing}{count}")
    await notes.put("a", {"text": "moon", "author": {"name": "Ada"}, "count": 3}, tenant=tenant)
    await settled(db, jobs, tenant)
    body = (await notes.get("a", tenant=tenant)).body
    assert body["summary"] == "SUM UP:\n\nMOON\n\nADA"
    # It names the summary, so it is asked again once that is there.
    assert body["mood"] == "ADA AND SUM UP:\n\nMOON\n\nADA: 3"
    assert len([question for question in model.asked if question.startswith("Sum")]) == 1


async def test_a_place_in_a_prompt_reaches_into_bodies_and_nowhere_else() -> None:
    asked = Enrichment(model="m:m", prompt="{text.__class__} {0} {text!r} {{text}}").asks({"text": "moon"}, frozenset())
    assert asked == " {0} {text!r} {moon}"


async def test_bodies_of_a_model_are_filled_too(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID
) -> None:
    class Article(BaseModel):
        title: str
        summary: str = ""

    articles = content.collection(
        "articles", Article, embed=lambda article: f"{article.title}\n{article.summary}", embedder=MODEL
    )
    articles.enrich("summary", model="test:model", prompt="Sum up: {title}")
    await articles.put("a", Article(title="tides"), tenant=tenant)
    await settled(db, jobs, tenant)
    assert (await articles.get("a", tenant=tenant)).body == {"title": "tides", "summary": "SUM UP: TIDES"}
    coverage = await articles.coverage(tenant=tenant)
    assert (coverage.embedded, coverage.pending) == (1, 0)


async def test_two_writers_of_one_document_leave_the_answer_to_the_last(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID
) -> None:
    notes = content.collection("notes", embedder=None)
    notes.enrich("summary", model="test:model", prompt="Sum up: {text}")
    await notes.put("a", {"text": "start"}, tenant=tenant)
    async with working(jobs):
        await asyncio.gather(*(notes.put("a", {"text": f"text {n}"}, tenant=tenant) for n in range(20)))
        await idle(db, tenant)
    body = (await notes.get("a", tenant=tenant)).body
    assert body["summary"] == f"SUM UP: {body['text'].upper()}"
    assert await state(db, tenant) == [("a", "done")]


async def test_tenants_do_not_see_each_others(
    db: Database, jobs: Jobs, content: Content, enrichments: Enrichments, model: Model, tenant: UUID, other_tenant: UUID
) -> None:
    notes = content.collection("notes", embedder=None)
    for one in (tenant, other_tenant):
        await notes.put("a", {"text": f"of {one}"}, tenant=one)
    await enrichments.declare(Principal.system(tenant, "test"), "notes", "summary", SUMMARY)
    await settled(db, jobs, tenant, other_tenant)
    assert "summary" in (await notes.get("a", tenant=tenant)).body
    assert "summary" not in (await notes.get("a", tenant=other_tenant)).body
    theirs = Principal.system(other_tenant, "test")
    assert await enrichments.standings(theirs, "notes") == []
    with pytest.raises(EnrichmentNotFound):
        await enrichments.failed(theirs, "notes", "summary")


@pytest.mark.parametrize("name", ["", "a b", "a'b", "1a", "x" * 101, "a.b", "{x}"])
async def test_a_field_that_cannot_be_is_refused(
    content: Content, enrichments: Enrichments, by: Principal, name: str
) -> None:
    with pytest.raises(ConfigurationError):
        content.collection("notes", embedder=None).enrich(name, model="test:model", prompt="x")
    with pytest.raises(Invalid):
        await enrichments.declare(by, "notes", name, SUMMARY)


async def test_over_http_and_through_the_gateway(app: App, client: httpx.AsyncClient) -> None:
    await client.put("/api/collections/papers", json={"embedder": None})
    at = "/api/collections/papers/enrichments"
    told = {"model": "sim:echo?price=0.10", "prompt": "Say: {text}"}
    assert (await client.put(f"{at}/gist", json=told)).json() == {"field": "gist", "new": True}
    assert (await client.put(f"{at}/gist", json=told)).json()["new"] is False
    await client.put("/api/collections/papers/documents/a", json={"text": "the tide turns"})
    await client.put(f"{at}/bad", json={"model": "nobody:nothing", "prompt": "Say: {text}"})
    await app.jobs.worker().run_until_idle()
    body = (await client.get("/api/collections/papers/documents/a")).json()["body"]
    assert body == {"text": "the tide turns", "gist": "Say: the tide turns"}
    bad, gist = (await client.get(at)).json()["items"]
    assert (gist["done"], Decimal(gist["cost"])) == (1, Decimal("0.10"))
    assert bad["failed"] == 1
    (failed,) = (await client.get(f"{at}/bad/failed")).json()["items"]
    assert failed["id"] == "a"
    assert "nobody" in failed["error"]
    assert (await client.post(f"{at}/bad/retry")).json() == {"documents": 1}
    assert (await client.delete(f"{at}/bad")).status_code == 204
    assert (await client.delete(f"{at}/bad")).json()["code"] == "enrichment_not_found"
    spend = (await client.get("/api/gateway/spend")).json()
    assert "content.enrich" in str(spend)


def test_the_command_line_declares_lists_and_ends(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backstay.content.cli import commands as content_commands

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ship.md").write_text("A ship sails.", encoding="utf-8")
    for name, value in {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path), "MASTER_KEY": "m" * 40}.items():
        monkeypatch.setenv(f"BACKSTAY_{name}", value)
    run = CliRunner().invoke
    assert run(content_commands, ["ingest", str(tmp_path / "docs")]).exit_code == 0
    setting = ["set", "docs", "gist", "--model", "sim:echo", "--prompt", "Say: {text}"]
    assert "gone through" in run(commands, setting).output
    assert "it stands so already" in run(commands, setting).output
    (tmp_path / "docs" / "boat.md").write_text("A boat is rowed.", encoding="utf-8")
    assert run(content_commands, ["ingest", str(tmp_path / "docs")]).exit_code == 0
    assert '"waiting": 2' in run(commands, ["list", "docs", "--json"]).output
    assert "none has failed" in run(commands, ["failed", "docs", "gist"]).output
    assert "0 documents wait" in run(commands, ["retry", "docs", "gist"]).output
    assert "no model fills gist any more" in run(commands, ["rm", "docs", "gist"]).output
    assert run(commands, ["rm", "docs", "gist"]).exit_code != 0
