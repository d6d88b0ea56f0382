"""Attached tables in a program, over HTTP and at the command line; and the migration that takes them back."""

import json
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from typer.testing import CliRunner

from backstay.app import App
from backstay.commands import commands
from backstay.content.attached import AttachedDiffers
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.migrate import Migrations, history
from backstay.kernel.settings import Settings

from .conftest import Connection, until, working

TEXT = "title || ' ' || coalesce(description, '')"


async def _current(app: App, name: str) -> None:
    by = await app.auth.operator()

    async def done() -> bool:
        return (await app.attached.status(by, name)).current

    async with working(app.jobs):  # whose own loop finds what is to be done
        await until(done)


async def test_a_program_names_its_tables_and_they_are_attached_when_it_starts(
    settings: Settings, plain: Connection
) -> None:
    plain.execute("insert into products values (1, 'Kettle', 'boils water', 20)")
    for start in (1, 2):  # and again, which changes nothing
        app = App(settings)
        products = app.attach("public.products", key="id", text=TEXT, columns=["price"])
        async with app:
            await _current(app, "products")
            answer = await products.search("kettle", mode="text", tenant=app.default_tenant)
            assert [hit.body for hit in answer.hits] == [{"id": 1, "price": 20}], start
            assert (await products.coverage(app.default_tenant)).documents == 1
            assert (await products.status(await app.auth.operator())).current
    other = App(settings)
    other.attach("public.products", key="id", text="title")
    with pytest.raises(AttachedDiffers, match="backstay content detach products"):
        async with other:
            pass


def test_a_wrong_definition_is_told_before_anything_starts(settings: Settings) -> None:
    app = App(settings)
    app.attach("public.products", key="id", text=TEXT)
    for table, more in (
        ("public.products", {}),  # twice
        ('"a b"', {}),  # no name for a collection
        ("t", {"key": ()}),
        ("t", {"columns": ["id"]}),
        ("t", {"chunk_size": 1}),
        ("t", {"format": "pdf"}),
        ("t", {"tenant": "tenant_id", "owner": "01a20e3c-2e64-7353-8e2e-ba09acaa84b7"}),
        ("t", {"embedder": "nonsense"}),
    ):
        wrong: dict[str, Any] = {"key": "id", "text": TEXT, **more}
        with pytest.raises(ConfigurationError):
            app.attach(table, **wrong)


async def test_a_table_is_attached_followed_and_detached_over_http(
    app: App, client: httpx.AsyncClient, plain: Connection
) -> None:
    plain.execute("insert into products values (1, 'Kettle', 'boils water', 20)")
    definition = {"table": "public.products", "key": ["id"], "text": TEXT, "columns": ["price"]}
    path = "/api/attached/products"
    refused = await client.put(path, json=definition)  # of a tenant
    assert (refused.status_code, refused.json()["code"]) == (403, "not_the_operator")
    for method, to in (("GET", "/api/attached"), ("GET", path), ("DELETE", path), ("POST", f"{path}/resync")):
        assert (await client.request(method, to)).status_code == 403
    key = await app.auth.create_owner(app.default_tenant, "ops")
    client.headers["authorization"] = f"Bearer {key.secret}"
    assert (await client.get(path)).json()["code"] == "attached_not_found"
    wrong = (await client.put(path, json=definition | {"text": "titel"})).json()
    assert (wrong["code"], wrong["status"]) == ("text_expression_invalid", 422)
    assert (await client.put(path, json=definition | {"table": "nowhere"})).json()["code"] == "table_unfit"
    assert (await client.put(path, json=definition | {"key": []})).status_code == 422
    made = (await client.put(path, json=definition)).json()
    assert (made["state"], made["filling"], made["current"]) == ("attached", 1, False)
    await _current(app, "products")
    seen = (await client.get("/api/attached")).json()["items"]
    assert [(one["name"], one["seen"], one["current"]) for one in seen] == [("products", 1, True)]
    asked = {"query": "kettle", "mode": "text", "where": {"price": {"$lte": 20}}}
    hits = (await client.post("/api/collections/products/search", json=asked)).json()["hits"]
    assert [hit["body"] for hit in hits] == [{"id": 1, "price": 20}]
    written = await client.put("/api/collections/products/documents/1", json={"text": "mine"})
    assert (written.status_code, written.json()["code"]) == (409, "collection_attached")
    assert (await client.post(f"{path}/resync")).json()["filling"] == 1
    assert (await client.put(path, json=definition | {"text": "title"})).json()["code"] == "attached_differs"
    assert (await client.delete(path)).json()["state"] == "detached"
    assert (await client.delete(path, params={"purge": True})).json()["state"] == "purging"
    entries = (await client.get("/api/audit/entries", params={"action": "content.table.purged"})).json()["items"]
    assert [entry["resource"] for entry in entries] == ["content:products"]


def test_the_command_line_attaches_shows_and_detaches(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Connection
) -> None:
    for name, value in {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path), "MASTER_KEY": "m" * 40}.items():
        monkeypatch.setenv(f"BACKSTAY_{name}", value)

    def run(*arguments: str) -> str:
        return CliRunner().invoke(commands, ["content", *arguments], catch_exceptions=False).output

    assert "no table is attached" in run("attached")
    made = run("attach", "public.products", "--key", "id", "--text", TEXT, "--column", "price", "--embedder", "none")
    assert "filling" in made
    assert "0 of 0" in run("attached", "products")
    shown = json.loads(run("attached", "products", "--json"))
    assert shown["definition"]["columns"] == ["price"]
    assert "filling" in run("resync", "products")
    assert "detached" in run("detach", "products")
    assert "detached" in run("attached", "--watch", "products")
    assert "purging" in run("detach", "products", "--purge")


def test_the_migration_back_takes_the_triggers_and_leaves_the_table_writable(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Connection
) -> None:
    for name, value in {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path), "MASTER_KEY": "m" * 40}.items():
        monkeypatch.setenv(f"BACKSTAY_{name}", value)
    CliRunner().invoke(commands, ["content", "attach", "products", "--key", "id", "--text", TEXT])
    triggers = "select count(*) from pg_trigger where tgrelid = 'products'::regclass"
    assert plain.execute(triggers).fetchone() == (4,)
    numbers = [step.number for step in history()]
    before = numbers[next(place for place, step in enumerate(history()) if step.name.endswith("_attached")) - 1]
    Migrations(database_url).down(before)
    assert plain.execute(triggers).fetchone() == (0,)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("insert into products values (1, 'still', 'written', 1)")
