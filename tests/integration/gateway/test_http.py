"""Budgets, limits, spend and calls over HTTP."""

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

ASK = {"model": "sim:echo?price=0.5", "messages": [{"role": "user", "content": "hello"}]}


async def test_budgets_are_made_listed_and_lifted(client, other_client):
    made = await client.post("/api/gateway/budgets", json={"scope": "tenant", "limit": "1.00", "window": "day"})
    assert made.status_code == 201, made.text
    id = made.json()["id"]
    again = await client.post("/api/gateway/budgets", json={"scope": "tenant", "limit": "2", "window": "day"})
    assert (again.status_code, again.json()["code"]) == (409, "budget_exists")
    wrong = await client.post("/api/gateway/budgets", json={"scope": "user", "limit": "2"})
    assert wrong.status_code == 422
    for _ in range(2):
        assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
    assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 402
    (shown,) = (await client.get("/api/gateway/budgets")).json()["items"]
    assert (shown["id"], float(shown["spent"]), float(shown["held"])) == (id, 1.0, 0.0)
    assert (await other_client.get(f"/api/gateway/budgets/{id}")).status_code == 404
    assert (await other_client.delete(f"/api/gateway/budgets/{id}")).status_code == 404
    assert (await other_client.patch(f"/api/gateway/budgets/{id}", json={"limit": "9"})).status_code == 404
    changed = await client.patch(f"/api/gateway/budgets/{id}", json={"limit": "1.50"})
    assert (changed.status_code, changed.json()["limit"]) == (200, "1.50")
    assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
    assert (await client.patch(f"/api/gateway/budgets/{id}", json={"limit": "-1"})).status_code == 422
    assert (await client.delete(f"/api/gateway/budgets/{id}")).status_code == 204
    assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200


async def test_spend_and_calls_are_shown_to_their_tenant(client, other_client):
    headers = {"backstay-feature": "greeting", "backstay-user": "ada"}
    for _ in range(3):
        await client.post("/v1/chat/completions", json=ASK, headers=headers)
    for group, name in {"feature": "greeting", "user": "ada", "model": "sim:echo"}.items():
        (row,) = (await client.get("/api/gateway/spend", params={"group": group})).json()
        assert (row["name"], row["calls"], float(row["cost"])) == (name, 3, 1.5)
    (row,) = (await client.get("/api/gateway/spend", params={"group": "key"})).json()
    assert UUID(row["name"])
    first = (await client.get("/api/gateway/calls", params={"limit": 2})).json()
    rest = (await client.get("/api/gateway/calls", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [len(first["items"]), len(rest["items"]), rest["next_cursor"]] == [2, 1, None]
    assert (await other_client.get("/api/gateway/spend")).json() == []
    assert (await other_client.get("/api/gateway/calls")).json()["items"] == []


async def test_limits_are_made_listed_changed_and_lifted(client, other_client):
    terms = {"scope": "feature", "subject": "chat", "unit": "requests", "limit": 2, "window": "day"}
    made = await client.post("/api/gateway/limits", json=terms)
    assert made.status_code == 201, made.text
    id = made.json()["id"]
    assert made.json() == {**terms, "id": id, "created_at": made.json()["created_at"], "used": 0, "held": 0}
    again = await client.post("/api/gateway/limits", json=terms | {"limit": 3})
    assert (again.status_code, again.json()["code"]) == (409, "limit_exists")
    wrong = await client.post("/api/gateway/limits", json=terms | {"unit": "usd"})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "body.unit")
    chat = {"backstay-feature": "chat"}
    for _ in range(2):
        assert (await client.post("/v1/chat/completions", json=ASK, headers=chat)).status_code == 200
    assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
    refused = await client.post("/v1/chat/completions", json=ASK, headers=chat)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert (await other_client.post("/v1/chat/completions", json=ASK, headers=chat)).status_code == 200
    (shown,) = (await client.get("/api/gateway/limits")).json()["items"]
    assert (shown["id"], shown["used"], shown["held"]) == (id, 2, 0)
    assert (await client.get(f"/api/gateway/limits/{id}")).json() == shown
    assert (await client.get(f"/api/gateway/budgets/{id}")).status_code == 404
    path = f"/api/gateway/limits/{id}"
    for answer in (await other_client.get(path), await other_client.delete(path)):
        assert (answer.status_code, answer.json()["code"]) == (404, "limit_not_found")
    assert (await other_client.patch(path, json={"limit": 5})).status_code == 404
    assert (await client.patch(path, json={"limit": 3})).json()["limit"] == 3
    assert (await client.patch(path, json={"limit": 2.5})).status_code == 422
    assert (await client.post("/v1/chat/completions", json=ASK, headers=chat)).status_code == 200
    assert (await client.delete(path)).status_code == 204
    assert (await client.get("/api/gateway/limits")).json()["items"] == []


async def test_a_refusal_carries_what_clients_read(client):
    for unit, limit, window in (("requests", 0, "minute"), ("tokens", 1000, "total")):
        terms = {"scope": "tenant", "unit": unit, "limit": limit, "window": window}
        assert (await client.post("/api/gateway/limits", json=terms)).status_code == 201
    refused = await client.post("/v1/chat/completions", json=ASK)
    assert refused.status_code == 429
    assert "admits no call" in refused.json()["error"]["message"]
    told = {name: value for name, value in refused.headers.items() if name.startswith(("x-rate", "x-should", "retry"))}
    resets = told.pop("x-ratelimit-reset-requests")
    assert resets.endswith("s")
    assert told == {
        "x-should-retry": "false",
        "x-ratelimit-limit-requests": "0",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "1000",
    }


@pytest.fixture
async def spent(client):
    """Four calls of half a dollar: three of ada's, of which one is of the feature =evil, and one of nobody's."""
    for feature, user in (("chat", "ada"), ("chat", "ada"), ("=evil()", "ada"), ("chat", None)):
        headers = {"backstay-feature": feature} | ({"backstay-user": user} if user else {})
        assert (await client.post("/v1/chat/completions", json=ASK, headers=headers)).status_code == 200


async def test_spend_is_added_up_by_day(client, spent):
    today = datetime.now(UTC).date()
    (row,) = (await client.get("/api/gateway/spend", params={"group": "day"})).json()
    assert row["name"] in (str(today), str(today - timedelta(days=1)))
    assert (row["calls"], float(row["cost"])) == (4, 2.0)


async def test_spend_is_filtered_by_what_was_tagged(client, spent):
    async def calls(**only):
        answer = await client.get("/api/gateway/spend", params={"group": "model", **only})
        assert answer.status_code == 200, answer.text
        return sum(row["calls"] for row in answer.json())

    (row,) = (await client.get("/api/gateway/spend", params={"group": "key"})).json()
    assert await calls(key=row["name"]) == 4
    assert await calls(key=str(UUID(int=7))) == 0
    assert await calls(feature="chat") == 3
    assert await calls(user="ada") == 3
    assert await calls(user="ada", feature="chat") == 2
    assert await calls(model="sim:echo") == 4
    assert await calls(model="sim:other") == 0


async def test_spend_is_bounded_in_time(client, spent):
    now = datetime.now(UTC)
    hour = timedelta(hours=1)

    async def rows(**only):
        return len((await client.get("/api/gateway/spend", params={"group": "model", **only})).json())

    assert await rows(since=(now - hour).isoformat(), until=(now + hour).isoformat()) == 1
    assert await rows(since=(now + hour).isoformat()) == 0
    assert await rows(until=(now - hour).isoformat()) == 0
    # Without a zone it is UTC; a day alone is its midnight.
    assert await rows(since=(now - hour).replace(tzinfo=None).isoformat()) == 1
    assert await rows(until=str((now + timedelta(days=1)).date())) == 1
    assert await rows(until=str((now - timedelta(days=1)).date())) == 0
    wrong = await client.get("/api/gateway/spend", params={"since": now.isoformat(), "until": now.isoformat()})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "until")


@pytest.mark.parametrize(
    ("params", "accept", "as_csv"),
    [
        ({"format": "csv"}, "*/*", True),
        ({}, "text/csv", True),
        ({}, "text/html, Text/CSV;q=0.9, */*;q=0.1", True),
        ({}, "*/*", False),
        ({}, "application/json, text/csv", False),
        ({"format": "json"}, "text/csv", False),
    ],
)
async def test_spend_is_csv_for_who_asks(client, spent, params, accept, as_csv):
    answer = await client.get("/api/gateway/spend", params=params, headers={"accept": accept})
    assert answer.status_code == 200
    if not as_csv:
        assert answer.headers["content-type"] == "application/json"
        assert [row["name"] for row in answer.json()] == ["chat", "=evil()"]
        return
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="spend-by-feature.csv"'
    names, *lines = csv.reader(io.StringIO(answer.text, newline=""))
    assert names == ["feature", "calls", "input_tokens", "output_tokens", "cost_usd"]
    assert [(line[0], line[1], line[4]) for line in lines] == [("chat", "3", "1.5"), ("'=evil()", "1", "0.5")]


async def test_savings_are_shown_to_their_tenant(client, other_client):
    body = {"model": "sim:echo?price=0.5", "messages": [{"role": "user", "content": "hello"}]}
    for _ in range(2):
        await client.post("/v1/chat/completions", json=body, headers={"backstay-cache": "ttl=60"})
    saved = (await client.get("/api/gateway/savings")).json()
    assert (saved["calls"], saved["cached"], Decimal(saved["by_cache"])) == (2, 1, Decimal("0.5"))
    assert (await other_client.get("/api/gateway/savings")).json()["calls"] == 0
    wrong = await client.get(
        "/api/gateway/savings", params={"since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
    )
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid")
    calls = (await client.get("/api/gateway/calls")).json()["items"]
    assert [call["cached"] for call in calls] == ["exact", None]
