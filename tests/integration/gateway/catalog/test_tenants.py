"""Two tenants and one catalogue code: neither sees, changes or takes part in what the other has; and strange input."""

import json
from uuid import uuid4

import httpx
import pytest

from backstay.app import App
from backstay.gateway.catalog import NewAccount, NewPrice, Route
from backstay.kernel.errors import TenantMismatch
from backstay.kernel.principal import Principal

API = "/api/gateway"
TABLES = ["route", "provider_account", "provider_secret", "price_override", "required_tags", "catalog_revision"]


@pytest.fixture
async def ours(app: App, owner: Principal) -> dict[str, str]:
    """One of each, by the path that leads to it."""
    await app.catalog.routes.put(owner, Route(name="smart", targets=["mine:m"]))
    account = await app.catalog.providers.put(owner, "mine", NewAccount(kind="openai", secret="our-own-secret-0123"))
    price = await app.catalog.prices.add(owner, NewPrice(pattern="mine:*", input=7, output=7))
    await app.catalog.tags.require(owner, ["feature"])
    return {
        "route": "routes/smart",
        "account": "providers/mine",
        "secret": f"providers/mine/secrets/{account.secrets[0].id}",
        "price": f"prices/{price.id}",
    }


class TestTheNeighbour:
    async def test_sees_nothing(self, ours, other_client) -> None:
        for path in ("routes", "providers", "prices"):
            assert (await other_client.get(f"{API}/{path}")).json()["items"] == []
        for name in ("route", "account", "price"):
            assert (await other_client.get(f"{API}/{ours[name]}")).status_code == 404
        asked = {"body": {"model": "smart", "messages": []}}
        answer = await other_client.post(f"{API}/explain", json=asked)
        assert (answer.status_code, "mine" in answer.text) == (404, False)

    async def test_changes_nothing(self, ours, app: App, owner: Principal, client, other_client, rows) -> None:
        async def everything() -> list[object]:
            return [
                await rows(f"select * from backstay.{table} where tenant_id = %(id)s", {"id": owner.tenant})
                for table in TABLES
            ]

        before = await everything()
        new = {"secret": "theirs-0123456789"}
        price = {"pattern": "mine:*", "input": 0, "output": 0}
        for method, path, body, status in (
            ("DELETE", ours["route"], None, 404),
            ("DELETE", ours["secret"], None, 404),
            ("DELETE", ours["account"], None, 404),
            ("DELETE", ours["price"], None, 404),
            ("POST", f"{ours['account']}/rotate", new, 404),
            ("PUT", ours["price"], price, 404),
            # Names may be taken by both: these make the neighbour's own.
            ("PUT", ours["route"], {"targets": ["theirs:m"]}, 200),
            ("PUT", ours["account"], {"kind": "anthropic", **new}, 200),
            ("POST", "prices", price, 201),
            ("PUT", "tags", {"required": []}, 200),
        ):
            answer = await other_client.request(method, f"{API}/{path}", json=body)
            assert answer.status_code == status, (method, path, answer.text)
        assert await everything() == before
        snapshot = await app.catalog.of(owner.tenant)
        assert snapshot.route("smart").targets[0].model == "mine:m"
        assert snapshot.accounts["mine"].kind == "openai"
        assert snapshot.price("mine:m", app.clock.now()).rates.input == 7
        assert snapshot.tags.told() == ["feature"]

    async def test_gets_in_by_no_transaction_of_ours(self, ours, app: App, owner: Principal, other_owner) -> None:
        async with app.transaction(owner.tenant) as tx:
            with pytest.raises(TenantMismatch):
                await app.catalog.routes.put(other_owner, Route(name="smart", targets=["theirs:m"]), tx=tx)
            with pytest.raises(TenantMismatch):
                await app.catalog.tags.require(other_owner, [], tx=tx)

    @pytest.mark.parametrize("table", TABLES)
    async def test_is_shown_no_row_by_the_database(self, ours, app: App, owner, other_owner, table: str) -> None:
        async with app.transaction(owner.tenant) as tx:
            assert await (await tx.execute(f"select 1 from backstay.{table}")).fetchall()
        async with app.transaction(other_owner.tenant) as tx:
            assert await (await tx.execute(f"select 1 from backstay.{table}")).fetchall() == []
            assert (await tx.execute(f"delete from backstay.{table}")).rowcount == 0

    async def test_shares_no_snapshot_with_us(self, ours, app: App, owner, other_owner) -> None:
        one, other = await app.catalog.of(owner.tenant), await app.catalog.of(other_owner.tenant)
        assert (one.tenant, set(one.routes)) == (owner.tenant, {"smart"})
        assert (other.tenant, dict(other.routes), dict(other.accounts)) == (other_owner.tenant, {}, {})


DEEP = "[" * 5_000 + "]" * 5_000
HOSTILE = [
    "",
    "{",
    "null",
    "[]",
    '"x"',
    DEEP,
    '{"targets": ' + DEEP + "}",
    '{"targets": ["a:\\u0000"]}',
    '{"targets": ["a:\\ud800"]}',
    '{"targets": ["a:m"], "budget": "\\ud800"}',
    '{"targets": [{"model": "a:m", "weight": 1e999}], "strategy": "weighted"}',
    '{"targets": [{"model": "a:m", "context_window": 99999999999999999999}]}',
    '{"targets": ["a:m"], "deadlines": {"total": NaN}}',
    '{"kind": "openai", "options": ' + '{"a":' * 400 + "1" + "}" * 400 + "}",
    '{"kind": "openai", "options": {"a": "\\u0000"}}',
    '{"kind": "openai", "options": {"\\ud800": 1}}',
    '{"kind": "openai", "options": {"a": 123456789012345678901234567890}}',
    '{"kind": "\\u0000"}',
    '{"kind": "openai", "base_url": "http://[::1"}',
    '{"kind": "openai", "base_url": "http://\\u0000"}',
    '{"kind": "openai", "secret": "\\ud800"}',
    '{"kind": "openai", "secret": {"a": 1}}',
    '{"secret": "s", "overlap_seconds": 1e308}',
    '{"secret": "s", "overlap_seconds": -1}',
    '{"secret": "s", "overlap_seconds": NaN}',
    '{"pattern": "a:\\u0000", "input": 1, "output": 1}',
    '{"pattern": "a:m", "input": 1e999, "output": 1}',
    '{"pattern": "a:m", "input": "1e-999999", "output": 1}',
    '{"pattern": "a:m", "input": 1, "output": 1, "starts_at": "9999-12-31T23:59:59-23:59"}',
    '{"pattern": "a:m", "input": 1, "output": 1, "starts_at": -99999999999999}',
    '{"required": ["feature", "user", "user"]}',
    '{"required": ["task"]}',
    '{"required": "user"}',
    '{"body": {"model": {"a": 1}}}',
    '{"body": {"model": "\\u0000"}}',
    '{"body": {"model": "\\ud800:\\ud800"}}',
    '{"body": {"model": "smart", "messages": ' + DEEP + "}}",
    '{"body": {"model": "smart"}, "headers": {"backstay-task": "\\u0000"}}',
    '{"body": {"model": "smart"}, "headers": {"backstay-user": ["a"]}}',
    '{"body": {"model": "smart", "n": 1e400, "tools": 7, "messages": {"a": 1}}}',
]
WRITES = [
    ("PUT", "routes/smart"),
    ("PUT", "providers/mine"),
    ("POST", "providers/mine/rotate"),
    ("POST", "prices"),
    ("PUT", "tags"),
    ("PUT", "prices/00000000-0000-4000-8000-000000000001"),
    ("POST", "explain"),
]


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_a_hostile_body_gets_a_problem_and_breaks_nothing(
    ours, app: App, owner: Principal, client: httpx.AsyncClient, method: str, path: str
) -> None:
    for body in HOSTILE:
        sent = client.build_request(
            method, f"{API}/{path}", content=body.encode(), headers={"content-type": "application/json"}
        )
        answer = await client.send(sent)
        if path == "explain" and answer.status_code == 200:
            assert json.loads(body)["body"]["model"] == "smart", body
            continue
        assert 400 <= answer.status_code < 500, (path, body[:80], answer.status_code, answer.text[:200])
        assert answer.headers["content-type"] == "application/problem+json", body[:80]
        assert {"type", "title", "status", "detail", "code"} <= set(answer.json()), body[:80]
    assert (await client.get(f"{API}/routes/smart")).status_code == 200
    assert (await app.catalog.of(owner.tenant)).routes.keys() == {"smart"}


@pytest.mark.parametrize("name", ["a%00b", "a:b", "%F0%9F%8D%B0", "..%2F..", "a" * 200, "%20", "a%0Ab"])
async def test_a_hostile_name_gets_a_problem(client: httpx.AsyncClient, name: str) -> None:
    for method, path, body in (
        ("GET", f"routes/{name}", None),
        ("PUT", f"routes/{name}", {"targets": ["a:m"]}),
        ("DELETE", f"routes/{name}", None),
        ("PUT", f"providers/{name}", {"kind": "openai"}),
        ("POST", f"providers/{name}/rotate", {"secret": "s"}),
        ("DELETE", f"providers/{name}/secrets/{uuid4()}", None),
        ("DELETE", f"providers/mine/secrets/{name}", None),
        ("GET", f"prices/{name}", None),
    ):
        answer = await client.request(method, f"{API}/{path}", json=body)
        assert answer.status_code in (404, 405, 422), (method, path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["routes", "providers", "prices"])
async def test_a_cursor_of_another_list_is_refused(client: httpx.AsyncClient, path: str) -> None:
    for name in ("a", "b"):
        await client.put(f"{API}/routes/{name}", json={"targets": ["a:m"]})
    cursor = (await client.get(f"{API}/routes", params={"limit": 1})).json()["next_cursor"]
    answer = await client.get(f"{API}/{path}", params={"cursor": cursor})
    assert answer.status_code == (200 if path == "routes" else 422)
