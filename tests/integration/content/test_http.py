"""The room over HTTP."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from backstay.app import App
from backstay.content.cli import commands
from backstay.gateway import Embeddings, ProviderRefused
from backstay.kernel.principal import Principal

DOCUMENTS = {"documents": [{"id": "a/b c", "body": {"text": "a ship"}}, {"id": "d", "body": {"text": "a boat"}}]}


@pytest.fixture
async def papers(client: httpx.AsyncClient) -> str:
    answer = await client.put("/api/collections/papers", json={"embedder": None})
    assert answer.status_code == 200, answer.text
    return "/api/collections/papers"


async def test_a_collection_is_declared_shown_and_listed(client: httpx.AsyncClient, papers: str) -> None:
    await client.put("/api/collections/second", json={})
    shown = (await client.get(papers)).json()
    assert (shown["name"], shown["definition"]["embedder"], shown["by_code"]) == ("papers", None, False)
    first = (await client.get("/api/collections", params={"limit": 1})).json()
    rest = (await client.get("/api/collections", params={"cursor": first["next_cursor"]})).json()
    assert [item["name"] for item in first["items"] + rest["items"]] == ["papers", "second"]
    assert rest["items"][0]["definition"]["embedder"] == "sim:dev-hash"


async def test_documents_are_written_read_and_deleted(client: httpx.AsyncClient, papers: str) -> None:
    put = await client.put(f"{papers}/documents/a/b%20c", json={"text": "a ship"})
    assert (put.status_code, put.json()) == (200, {"id": "a/b c", "rev": 1, "created": True, "changed": True})
    batch = (await client.post(f"{papers}/documents", json=DOCUMENTS)).json()
    assert [(row["id"], row["changed"]) for row in batch["documents"]] == [("a/b c", False), ("d", True)]
    assert (await client.get(f"{papers}/documents/a/b c")).json()["body"] == {"text": "a ship"}
    listed = (await client.get(f"{papers}/documents")).json()
    assert [item["id"] for item in listed["items"]] == ["a/b c", "d"]
    assert (await client.delete(f"{papers}/documents/d")).json() == {"id": "d", "deleted": True}
    assert (await client.delete(f"{papers}/documents/d")).json() == {"id": "d", "deleted": False}
    gone = await client.get(f"{papers}/documents/d")
    assert (gone.status_code, gone.json()["code"]) == (404, "document_not_found")


async def test_a_file_becomes_a_document_by_its_type_or_its_name(client: httpx.AsyncClient, papers: str) -> None:
    page = b"<title>Tides</title><h1>The moon</h1><p>pulls the sea"
    put = await client.put(f"{papers}/files/sea/tides", content=page, headers={"content-type": "text/html"})
    assert (put.status_code, put.json()["created"]) == (200, True)
    again = await client.put(f"{papers}/files/sea/tides.html", content=page)
    assert again.status_code == 200
    body = (await client.get(f"{papers}/documents/sea/tides.html")).json()["body"]
    assert body == {"title": "Tides", "text": "# The moon\n\npulls the sea"}
    found = await client.post(f"{papers}/search", json={"query": "moon"})
    assert {hit["id"] for hit in found.json()["hits"]} == {"sea/tides", "sea/tides.html"}


@pytest.mark.parametrize(
    ("id", "type", "data", "says"),
    [
        ("cat.png", "image/png", b"\x89PNG", "no kind of file that can be read"),
        ("book", "application/pdf", b"no pdf at all", "the pdf file cannot be read"),
        ("letter.docx", None, b"PK\x03\x04", "the docx file cannot be read"),
        ("empty.txt", "text/plain", b"  ", "it has no text"),
    ],
)
async def test_a_file_that_cannot_be_read_is_refused_with_the_reason(
    client: httpx.AsyncClient, papers: str, id: str, type: str | None, data: bytes, says: str
) -> None:
    answer = await client.put(f"{papers}/files/{id}", content=data, headers={"content-type": type} if type else {})
    assert (answer.status_code, answer.json()["code"]) == (422, "file_unreadable")
    assert says in answer.json()["detail"]
    assert (await client.get(f"{papers}/documents")).json()["items"] == []


async def test_an_idempotency_key_repeats_the_answer(client: httpx.AsyncClient, papers: str) -> None:
    first, second = [
        await client.post(f"{papers}/documents", json=DOCUMENTS, headers={"idempotency-key": "k1"}) for _ in range(2)
    ]
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"


async def test_search_says_how_it_searched(client: httpx.AsyncClient, papers: str) -> None:
    await client.post(f"{papers}/documents", json=DOCUMENTS)
    answer = (await client.post(f"{papers}/search", json={"query": "ships", "k": 5})).json()
    assert (answer["mode"], answer["flags"]) == ("text", ["short"])
    (hit,) = answer["hits"]
    assert (hit["id"], hit["text"], hit["body"], hit["heading"]) == ("a/b c", "a ship", {"text": "a ship"}, [])
    assert hit["scores"] == {"text": hit["score"]}
    refused = await client.post(f"{papers}/search", json={"query": "ships", "mode": "semantic"})
    assert (refused.status_code, refused.json()["code"]) == (409, "no_embedder")


async def test_coverage_counts(client: httpx.AsyncClient) -> None:
    await client.put("/api/collections/notes", json={})
    await client.post("/api/collections/notes/documents", json=DOCUMENTS)
    coverage = (await client.get("/api/collections/notes/coverage")).json()
    assert coverage.pop("lag") >= 0
    assert coverage == {"documents": 2, "chunks": 2, "embedded": 0, "pending": 2, "parked": 0} | dict.fromkeys(
        ["rests_until", "trouble"]
    )
    assert (await client.post("/api/collections/notes/retry-parked")).json() == {"chunks": 0}


async def test_what_the_embedder_refuses_is_seen_paid_and_tried_again(
    app: App, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = app.gateway.embed

    async def refusing(by: Principal, model: str, inputs: Sequence[str], **rest: Any) -> Embeddings:
        if "a boat" in inputs:
            raise ProviderRefused("not to its liking", 400, b"{}", {})
        return await usual(by, model, inputs, **rest)

    await client.put("/api/collections/notes", json={"embedder": "sim:dev-hash?price=0.10"})
    await client.post("/api/collections/notes/documents", json=DOCUMENTS)
    with monkeypatch.context() as patch:
        patch.setattr(app.gateway, "embed", refusing)
        await app.jobs.worker().run_until_idle()
    parked = (await client.get("/api/collections/notes/parked")).json()["items"]
    seen = [(chunk["id"], chunk["text"], chunk["error"]) for chunk in parked]
    assert seen == [("d", "a boat", "not to its liking")]
    calls = (await client.get("/api/collections/notes/embed-calls")).json()["items"]
    assert [call["state"] for call in calls if call["inputs"] == 2] == ["failed"]
    assert {call["cost"] for call in calls if call["state"] == "written"} == {"0.10"}
    assert (await client.post("/api/collections/notes/retry-parked")).json() == {"chunks": 1}
    await app.jobs.worker().run_until_idle()
    coverage = (await client.get("/api/collections/notes/coverage")).json()
    assert (coverage["embedded"], coverage["parked"]) == (2, 0)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "ghost", None, 404, "collection_not_found"),
        ("POST", "ghost/search", {"query": "x"}, 404, "collection_not_found"),
        ("PUT", "ghost/documents/a", {"text": "x"}, 404, "collection_not_found"),
        ("PUT", "papers", {"embedder": "nonsense"}, 422, "invalid"),
        ("PUT", "a b", {}, 422, "invalid"),
        ("PUT", "papers/documents/a", {"text": "\0"}, 422, "document_invalid"),
        ("PUT", "papers/documents/%00", {"text": "x"}, 422, "document_invalid"),
        ("GET", "papers/documents/%00", None, 422, "invalid"),
        ("POST", "papers/documents", {"documents": []}, 422, "invalid"),
        ("POST", "papers/documents", {"documents": [{"id": "a", "body": {}}] * 2}, 422, "document_invalid"),
        ("POST", "papers/search", {"query": " "}, 422, "invalid"),
        ("POST", "papers/search", {"query": "x", "k": 0}, 422, "invalid"),
        ("POST", "papers/search", {"query": "x", "mode": "magic"}, 422, "invalid"),
        ("POST", "papers/search", {"query": "x", "where": {"a": "\0"}}, 422, "invalid"),
        ("POST", "papers/search", {"query": "\ud800 x"}, 422, "invalid"),
        ("PUT", "papers/documents/a", {"text": "\ud800"}, 422, "document_invalid"),
    ],
)
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, papers: str, method: str, path: str, body: object, status: int, code: str
) -> None:
    sent = None if body is None else json.dumps(body)  # escapes what UTF-8 has no place for
    answer = await client.request(
        method, f"/api/collections/{path}", content=sent, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text


async def test_another_tenant_finds_no_such_collection(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, papers: str
) -> None:
    await client.post(f"{papers}/documents", json=DOCUMENTS)
    assert (await other_client.get(papers)).status_code == 404
    assert (await other_client.get(f"{papers}/documents/d")).status_code == 404
    assert (await other_client.get("/api/collections")).json()["items"] == []


async def test_a_viewer_reads_and_does_not_write(app: App, client: httpx.AsyncClient, papers: str) -> None:
    key = (await client.post("/api/keys", json={"name": "reader", "role": "viewer"})).json()["secret"]
    viewer = {"authorization": f"Bearer {key}"}
    assert (await client.post(f"{papers}/search", json={"query": "x"}, headers=viewer)).status_code == 200
    assert (await client.put(f"{papers}/documents/a", json={}, headers=viewer)).status_code == 403
    assert (await client.get(papers, headers={"authorization": ""})).status_code == 401


def test_the_command_line_ingests_and_finds(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "ship.md").write_text("# Ships\n\nA ship sails.", encoding="utf-8")
    (docs / "deep" / "boat.txt").write_text("A boat is rowed.", encoding="utf-8")
    (docs / "odd.txt").write_bytes(b"\xff\xfe\x00")
    (docs / "picture.png").write_bytes(b"\x89PNG")
    (docs / "page.html").write_text("<title>Rafts</title><p>A raft drifts.", encoding="utf-8")
    (docs / "broken.pdf").write_bytes(b"no pdf at all")
    for name, value in {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path), "MASTER_KEY": "m" * 40}.items():
        monkeypatch.setenv(f"BACKSTAY_{name}", value)
    run = CliRunner().invoke
    first = run(commands, ["ingest", str(docs)])
    assert first.exit_code == 0, first.output
    assert "5 documents read, 3 changed; 3 chunks, 3 to embed" in first.output
    assert "odd.txt: not UTF-8 text" in first.output
    assert "broken.pdf: the pdf file cannot be read" in first.output.replace("\n", " ")
    assert "5 documents read, 0 changed" in run(commands, ["ingest", str(docs)]).output
    found = run(commands, ["search", "sailing ships"])
    assert "mode text" in found.output
    assert "ship.md" in found.output
    assert "page.html" in run(commands, ["search", "raft"]).output
    assert '"documents": 3' in run(commands, ["coverage", "--json"]).output
    assert "nothing is parked" in run(commands, ["parked"]).output
    assert "no requests" in run(commands, ["embed-calls"]).output
    assert "0 chunks wait for the embedder again" in run(commands, ["retry-parked"]).output
