"""Documents, their chunks and statistics: one commit, in the words of the docstrings."""

from contextlib import suppress
from uuid import UUID

import pytest
from pydantic import BaseModel

from backstay.content import (
    Collection,
    CollectionDiffers,
    CollectionNeedsCode,
    CollectionNotFound,
    Content,
    Definition,
    DocumentInvalid,
    DocumentNotFound,
)
from backstay.jobs import Jobs
from backstay.kernel.db import Database
from backstay.kernel.errors import ConfigurationError, Invalid
from backstay.kernel.principal import Principal

from .conftest import MODEL, Words, rows, settled


class Article(BaseModel):
    title: str
    body: str
    stars: int = 0


class Oops(Exception):
    pass


async def test_a_document_comes_back_as_it_was_put(notes: Collection, tenant: UUID) -> None:
    put = await notes.put("a", {"text": "héllo", "n": 1, "deep": {"x": [True, None]}}, tenant=tenant)
    document = await notes.get("a", tenant=tenant)
    assert (put.rev, put.created, put.changed) == (1, True, True)
    assert (document.id, document.rev, document.body) == (
        "a",
        1,
        {"text": "héllo", "n": 1, "deep": {"x": [True, None]}},
    )


async def test_a_document_is_found_as_text_in_the_commit_that_wrote_it(notes: Collection, tenant: UUID) -> None:
    await notes.put("a", {"text": "a ship in the harbour"}, tenant=tenant)
    answer = await notes.search("ships", tenant=tenant, mode="text")
    assert [hit.id for hit in answer.hits] == ["a"]
    assert answer.mode == "text"
    assert answer.hits[0].text == "a ship in the harbour"


async def test_nothing_of_a_document_stays_when_its_transaction_rolls_back(
    notes: Collection, db: Database, tenant: UUID
) -> None:
    with suppress(Oops):
        async with db.tenant_tx(tenant) as tx:
            await notes.put("a", {"text": "gone"}, tx=tx)
            raise Oops
    for table in ("content", "chunk", "bm_delta", "embed_pending", "collection", "job", "outbox"):
        assert await rows(db, tenant, f"select 1 from backstay.{table}") == [], table


async def test_document_chunks_statistics_job_and_event_commit_together(
    notes: Collection, db: Database, tenant: UUID
) -> None:
    async with db.tenant_tx(tenant) as tx:
        await notes.put("a", {"text": "here"}, tx=tx)
    for table in ("content", "chunk", "bm_delta", "embed_pending", "collection"):
        assert len(await rows(db, tenant, f"select 1 from backstay.{table}")) == 1, table
    assert {name for (name,) in await rows(db, tenant, "select name from backstay.job")} == {
        "content.embed",
        "content.fold",
    }
    assert await rows(db, tenant, "select type, payload from backstay.outbox") == [
        ("content.put", {"collection": "notes", "id": "a", "rev": 1})
    ]


async def test_the_same_body_again_writes_nothing(notes: Collection, db: Database, tenant: UUID) -> None:
    await notes.put("a", {"x": 1, "text": "same"}, tenant=tenant)
    before = await rows(db, tenant, "select count(*) from backstay.job")
    put = await notes.put("a", {"text": "same", "x": 1}, tenant=tenant)
    assert (put.rev, put.created, put.changed) == (1, False, False)
    assert await rows(db, tenant, "select count(*) from backstay.job") == before


async def test_a_change_outside_the_searched_text_embeds_nothing(
    content: Content, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    articles = content.collection("articles", Article, embed=lambda article: article.title, embedder=MODEL)
    await articles.put("a", Article(title="Sails", body="one"), tenant=tenant)
    await settled(db, jobs, tenant)
    put = await articles.put("a", Article(title="Sails", body="two", stars=5), tenant=tenant)
    assert (put.rev, put.changed) == (2, True)
    assert await rows(db, tenant, "select 1 from backstay.job") == []
    await settled(db, jobs, tenant)
    assert words.texts == ["Sails"]


async def test_chunks_that_did_not_change_keep_their_vectors(
    content: Content, db: Database, jobs: Jobs, words: Words, tenant: UUID
) -> None:
    pages = content.collection("pages", embedder=MODEL, chunk_size=200, overlap=0)
    sections = [f"# Part {name}\n\n" + f"{name} words go here. " * 8 for name in ("alpha", "beta", "gamma")]
    await pages.put("p", {"text": "\n\n".join(sections)}, tenant=tenant)
    await settled(db, jobs, tenant)
    first = dict(await rows(db, tenant, "select text, id from backstay.chunk"))
    assert len(words.texts) == len(first) == 3
    sections[1] = sections[1].replace("beta", "delta")
    await pages.put("p", {"text": "\n\n".join([sections[2], *sections[:2]])}, tenant=tenant)
    await settled(db, jobs, tenant)
    second = dict(await rows(db, tenant, "select text, id from backstay.chunk"))
    assert len(words.texts) == 4
    assert "delta" in words.texts[-1]
    assert len(set(first.values()) & set(second.values())) == 2
    order = await rows(db, tenant, "select ord, text from backstay.chunk order by ord")
    assert [text.split()[2] for _, text in order] == ["gamma", "alpha", "delta"]


async def test_put_many_is_all_or_nothing(notes: Collection, tenant: UUID) -> None:
    with pytest.raises(DocumentInvalid, match="twice"):
        await notes.put_many([("a", {"text": "1"}), ("b", {"text": "2"}), ("a", {"text": "3"})], tenant=tenant)
    with pytest.raises(DocumentInvalid, match="NUL"):
        await notes.put_many([("a", {"text": "1"}), ("b", {"text": "\0"})], tenant=tenant)
    with pytest.raises(CollectionNotFound):
        await notes.search("1", tenant=tenant)


async def test_put_many_answers_in_the_order_given(notes: Collection, tenant: UUID) -> None:
    await notes.put("b", {"text": "b"}, tenant=tenant)
    puts = await notes.put_many([(id, {"text": id}) for id in ("c", "b", "a")], tenant=tenant)
    assert [(put.id, put.created, put.changed) for put in puts] == [
        ("c", True, True),
        ("b", False, False),
        ("a", True, True),
    ]


@pytest.mark.parametrize("body", [{"text": "\0"}, {"\0": 1}, {"n": 2**70}, {"text": "\ud800"}, {"x": object()}])
async def test_a_body_that_cannot_be_stored_is_refused_by_name(
    notes: Collection, tenant: UUID, body: dict[str, object]
) -> None:
    with pytest.raises(DocumentInvalid, match="'odd'"):
        await notes.put("odd", body, tenant=tenant)


@pytest.mark.parametrize("id", ["", "x" * 501, "a\0b", "\ud800"])
async def test_an_id_that_cannot_be_stored_is_refused(notes: Collection, tenant: UUID, id: str) -> None:
    with pytest.raises(DocumentInvalid, match="id"):
        await notes.put(id, {"text": "x"}, tenant=tenant)


async def test_a_body_must_fit_the_model(content: Content, tenant: UUID) -> None:
    articles = content.collection("articles", Article)
    with pytest.raises(DocumentInvalid, match="title"):
        await articles.put("a", {"body": "no title"}, tenant=tenant)
    await articles.put("a", {"title": "t", "body": "b"}, tenant=tenant)
    assert (await articles.get("a", tenant=tenant)).body == {"title": "t", "body": "b", "stars": 0}


async def test_fields_say_what_is_searched(content: Content, tenant: UUID) -> None:
    things = content.collection("things", fields=("name", "tags"))
    await things.put("a", {"name": "anchor", "tags": ["iron", "heavy"], "secret": "swordfish"}, tenant=tenant)
    assert [hit.id for hit in (await things.search("iron", tenant=tenant)).hits] == ["a"]
    assert (await things.search("swordfish", tenant=tenant)).hits == []


async def test_a_document_without_text_is_kept_and_not_found(notes: Collection, tenant: UUID) -> None:
    await notes.put("n", {"n": 1}, tenant=tenant)
    assert (await notes.get("n", tenant=tenant)).body == {"n": 1}
    assert (await notes.coverage(tenant)).chunks == 0


async def test_delete_takes_chunks_vectors_and_statistics_along(
    notes: Collection, content: Content, db: Database, jobs: Jobs, tenant: UUID, owner: Principal
) -> None:
    await notes.put_many([("a", {"text": "anchor"}), ("b", {"text": "boat"})], by=owner)
    await settled(db, jobs, tenant)
    assert await notes.delete("a", by=owner)
    assert not await notes.delete("a", by=owner)
    await content.statistics.fold(tenant, "notes")
    with pytest.raises(DocumentNotFound):
        await notes.get("a", by=owner)
    assert (await notes.search("anchor", by=owner, mode="hybrid")).hits[0].id == "b"
    assert await rows(db, tenant, "select chunks, length from backstay.collection") == [(1, 1)]
    assert await rows(db, tenant, "select chunks from backstay.bm_term") == [(1,)]
    coverage = await notes.coverage(tenant)
    assert (coverage.documents, coverage.chunks, coverage.embedded) == (1, 1, 1)
    deleted = await rows(db, tenant, "select payload from backstay.outbox where type = 'content.deleted'")
    assert deleted == [({"collection": "notes", "id": "a", "rev": 1},)]
    audited = await rows(db, tenant, "select actor, resource from backstay.audit_entry where action = 'content.delete'")
    assert audited == [(owner.name, "content:notes/a")]


async def test_the_caller_says_for_whom(notes: Collection) -> None:
    with pytest.raises(Invalid, match="for whom"):
        await notes.put("a", {"text": "x"})


class TestDefinitions:
    async def test_a_collection_that_nobody_declared_is_not_found(self, content: Content, owner: Principal) -> None:
        with pytest.raises(CollectionNotFound, match="PUT /api/collections/ghost"):
            await content.named("ghost").put("a", {"text": "x"}, by=owner)

    async def test_declaring_again_changes_nothing(self, content: Content, owner: Principal) -> None:
        definition = Definition(embedder=None, fields=("title",))
        first, created = await content.declare(owner, "papers", definition)
        second, created_again = await content.declare(owner, "papers", definition)
        assert (created, created_again) == (True, False)
        assert first == second

    async def test_a_definition_may_change_while_there_are_no_documents(
        self, content: Content, owner: Principal
    ) -> None:
        await content.declare(owner, "papers", Definition(embedder=None))
        standing, _ = await content.declare(owner, "papers", Definition(embedder=MODEL))
        assert standing.definition.embedder == MODEL
        await content.named("papers").put("a", {"text": "x"}, by=owner)
        with pytest.raises(CollectionDiffers, match=r"embedder: 'test:words' stands, not None"):
            await content.declare(owner, "papers", Definition(embedder=None))

    async def test_text_made_by_code_is_written_by_code_only(
        self, content: Content, db: Database, jobs: Jobs, owner: Principal
    ) -> None:
        coded = content.collection("coded", embed=lambda body: body["a"])
        await coded.put("1", {"a": "apple"}, by=owner)
        content._registered.clear()  # as in another process, which does not have the function
        with pytest.raises(CollectionNeedsCode):
            await coded.put("2", {"a": "pear"}, by=owner)

    @pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 101, "../x"])
    def test_a_name_is_plain(self, content: Content, name: str) -> None:
        with pytest.raises(ConfigurationError):
            content.collection(name)

    def test_options_must_go_together(self, content: Content) -> None:
        with pytest.raises(ConfigurationError, match="overlap"):
            content.collection("x", chunk_size=200, overlap=150)
        with pytest.raises(ConfigurationError, match="provider:model"):
            content.collection("x", embedder="nonsense")
