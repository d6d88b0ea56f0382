"""Budgets, spend and calls over HTTP."""

from uuid import UUID

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
