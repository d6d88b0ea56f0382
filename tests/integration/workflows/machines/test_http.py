"""State machines over HTTP: what is served, to whom, and what a refusal looks like."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from backstay.app import App
from conftest import Household

from .conftest import review

INSTANCES = "/api/machines/instances"


@pytest.fixture
async def app(app: App) -> App:
    app.machine(review())
    return app


@pytest.fixture
async def started(app: App, client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.post(INSTANCES, json={"machine": "review", "key": "k", "data": {"text": "hi"}})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def send(client: httpx.AsyncClient, id: str, event: str, **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    return await client.post(f"{INSTANCES}/{id}/send", json={"event": event, **more}, headers=headers)


@pytest.fixture
async def viewer(app: App, household: Household, client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    key = (await app.auth.create_key(household.owner, "looking", "viewer")).secret
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://backstay", headers=headers) as http:
        yield http


async def test_start_send_and_show(client: httpx.AsyncClient, started: dict[str, Any], app: App) -> None:
    assert (started["state"], started["seq"], started["allowed"]) == ("draft", 0, ["submit"])
    again = await client.post(INSTANCES, json={"machine": "review", "key": "k"})
    assert (again.status_code, again.json()["id"]) == (201, started["id"])
    moved = await send(client, started["id"], "submit")
    assert moved.status_code == 200, moved.text
    assert (moved.json()["state"], moved.json()["seq"]) == ("waiting", 1)
    assert moved.json()["due_at"]
    assert (await send(client, started["id"], "approve", data={"amount": 500})).json()["state"] == "escalated"
    shown = (await client.get(f"{INSTANCES}/{started['id']}")).json()
    assert (shown["data"], shown["allowed"]) == ({"text": "hi"}, ["approve", "reject"])
    assert [step["to_state"] for step in shown["history"]] == ["escalated", "waiting", "draft"]
    assert {step["actor"] for step in shown["history"]} == {"owner"}


async def test_history_and_lists_come_in_pages(client: httpx.AsyncClient, started: dict[str, Any]) -> None:
    await send(client, started["id"], "submit")
    for _ in range(3):
        await send(client, started["id"], "remind")
    seen: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get(f"{INSTANCES}/{started['id']}/history", params={"limit": "2", **cursor})).json()
        seen += [step["seq"] for step in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [4, 3, 2, 1, 0]
    ids = [(await client.post(INSTANCES, json={"machine": "review"})).json()["id"] for _ in range(3)]
    page = (await client.get(INSTANCES, params={"limit": "2", "machine": "review"})).json()
    assert [item["id"] for item in page["items"]] == ids[:0:-1]
    rest = (await client.get(INSTANCES, params={"limit": "2", "cursor": page["next_cursor"]})).json()
    assert [item["id"] for item in rest["items"]] == [ids[0], started["id"]]
    for filtered in ({"state": "waiting"}, {"key": "k"}):
        found = (await client.get(INSTANCES, params=filtered)).json()["items"]
        assert [item["id"] for item in found] == [started["id"]]


async def test_machines_are_listed_with_diagrams(client: httpx.AsyncClient, app: App) -> None:
    app.machine(review("2"))
    first = (await client.get("/api/machines", params={"limit": 1})).json()
    (machine,) = first["items"]
    assert (machine["name"], machine["version"], machine["initial"]) == ("review", "1", "draft")
    assert machine["mermaid"].startswith("stateDiagram-v2\n")
    assert machine["states"][1] == {"name": "waiting", "final": False, "timeout": 3600.0, "on_timeout": "expire"}
    assert machine["transitions"][2] == {
        **{"event": "approve", "source": "waiting"},
        **{"to": "approved", "guard": "is_small"},
    }
    second = (await client.get("/api/machines", params={"cursor": first["next_cursor"]})).json()
    assert [item["version"] for item in second["items"]] == ["2"]
    assert (await client.get("/api/machines", params={"name": "other"})).json()["items"] == []


async def test_refusals_are_problems_that_say_what_is_allowed(
    client: httpx.AsyncClient, started: dict[str, Any]
) -> None:
    illegal = await send(client, started["id"], "approve")
    assert illegal.headers["content-type"] == "application/problem+json"
    assert (illegal.status_code, illegal.json()["code"]) == (409, "illegal_transition")
    assert (illegal.json()["state"], illegal.json()["allowed"]) == ("draft", ["submit"])
    unknown = await send(client, started["id"], "sumbit")
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_event")
    moved = await send(client, started["id"], "submit", seq=3)
    assert (moved.status_code, moved.json()["code"]) == (409, "machine_instance_moved")
    await send(client, started["id"], "submit", seq=0)
    refused = await send(client, started["id"], "reject")
    assert (refused.status_code, refused.json()["code"]) == (409, "guard_refused")
    assert "say why" in refused.json()["detail"]
    missing = await client.post(INSTANCES, json={"machine": "nothing"})
    assert (missing.status_code, missing.json()["code"]) == (404, "machine_not_found")
    nobody = await send(client, "00000000-0000-0000-0000-000000000001", "submit")
    assert (nobody.status_code, nobody.json()["code"]) == (404, "machine_instance_not_found")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"event": "submit", "data": {"a": "x\0"}}, 422),
        ({"event": "\0"}, 422),
        ({"event": "'; drop table backstay.machine; --"}, 422),
        ({"event": "submit", "seq": -1}, 422),
        ({"event": "submit", "seq": 2**63}, 422),
        ({"event": "submit", "data": []}, 422),
        ({"event": ""}, 422),
        ({"event": "x" * 201}, 422),
        ({}, 422),
    ],
)
async def test_hostile_events_are_refused(
    client: httpx.AsyncClient, started: dict[str, Any], body: dict[str, Any], status: int
) -> None:
    answer = await client.post(f"{INSTANCES}/{started['id']}/send", json=body)
    assert answer.status_code == status, answer.text
    assert (await client.get(f"{INSTANCES}/{started['id']}")).json()["seq"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b'{"machine": "review", "key": "\\ud800"}',
        b'{"machine": "review", "key": "a\\u0000"}',
        b'{"machine": "\\u0000"}',
    ],
)
async def test_hostile_starts_are_refused(client: httpx.AsyncClient, started: dict[str, Any], body: bytes) -> None:
    answer = await client.post(INSTANCES, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (404, 422), answer.text
    for query in ({"key": "\0"}, {"state": "\0"}, {"machine": "\0"}):
        assert (await client.get(INSTANCES, params=query)).status_code in (200, 422)


async def test_an_idempotency_key_sends_once(client: httpx.AsyncClient, started: dict[str, Any], app: App) -> None:
    await send(client, started["id"], "submit")
    once = {"idempotency-key": "remind-1"}
    first = await send(client, started["id"], "remind", headers=once)
    second = await send(client, started["id"], "remind", headers=once)
    assert (first.json(), second.headers["idempotent-replayed"]) == (second.json(), "true")
    assert (await client.get(f"{INSTANCES}/{started['id']}")).json()["seq"] == 2
    refused = await send(client, started["id"], "reject", headers={"idempotency-key": "reject-1"})
    assert refused.status_code == 409
    mended = await send(client, started["id"], "reject", data={"reason": "r"}, headers={"idempotency-key": "reject-2"})
    assert mended.json()["state"] == "rejected"


async def test_a_viewer_reads_and_does_not_send(
    client: httpx.AsyncClient, viewer: httpx.AsyncClient, started: dict[str, Any]
) -> None:
    assert (await viewer.get(f"{INSTANCES}/{started['id']}")).status_code == 200
    assert (await viewer.get("/api/machines")).status_code == 200
    for answer in (await send(viewer, started["id"], "submit"), await viewer.post(INSTANCES, json={"machine": "x"})):
        assert (answer.status_code, "machines:write" in answer.json()["detail"]) == (403, True)
    assert (await client.get(f"{INSTANCES}/{started['id']}")).json()["seq"] == 0


async def test_another_tenant_sees_nothing(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, started: dict[str, Any]
) -> None:
    path = f"{INSTANCES}/{started['id']}"
    assert (await other_client.get(path)).status_code == 404
    assert (await other_client.get(f"{path}/history")).status_code == 404
    assert (await send(other_client, started["id"], "submit")).status_code == 404
    assert (await other_client.get(INSTANCES)).json()["items"] == []
    own = await other_client.post(INSTANCES, json={"machine": "review", "key": "k"})
    assert own.json()["id"] != started["id"]
    assert (await client.get(path)).json()["seq"] == 0


async def test_what_comes_with_an_event_is_read_through_the_audit(
    client: httpx.AsyncClient, started: dict[str, Any], app: App, household: Household
) -> None:
    await send(client, started["id"], "submit", data={"note": "a secret"})
    shown = await client.get(f"{INSTANCES}/{started['id']}")
    assert "a secret" not in shown.text
    entry = UUID(shown.json()["history"][0]["entry_id"])
    assert await app.audit.payload(household.owner, entry) == {"data": {"note": "a secret"}}


async def test_a_deleted_instance_is_gone_and_its_key_is_free(
    client: httpx.AsyncClient, viewer: httpx.AsyncClient, started: dict[str, Any]
) -> None:
    one = f"{INSTANCES}/{started['id']}"
    await send(client, started["id"], "submit")
    assert (await viewer.delete(one)).status_code == 403
    assert (await client.delete(one)).status_code == 204
    assert (await client.get(one)).status_code == (await client.delete(one)).status_code == 404
    again = await client.post(INSTANCES, json={"machine": "review", "key": "k"})
    assert again.json()["id"] != started["id"]
