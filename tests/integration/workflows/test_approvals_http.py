"""The inbox over HTTP and at the command line."""

from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest

from backstay.app import App
from backstay.workflows import Run

from .conftest import Order


@pytest.fixture
def asking(app: App) -> App:
    """An App with a workflow that asks for `number`."""

    @app.workflow
    async def asking(run: Run, order: Order) -> int:
        decision = await run.approve({"number": order.number, "for": "ada"}, title=f"number {order.number}")
        return int(decision.request["number"]) if decision.approved else -1

    return app


@pytest.fixture
def work(asking: App) -> Callable[[], Any]:
    return lambda: asking.jobs.worker(queues=["workflows"]).run_until_idle()


async def test_the_inbox_lists_approves_denies_and_edits(
    client: httpx.AsyncClient, asking: App, work: Callable[[], Any]
) -> None:
    runs = [
        (await client.post("/api/runs", json={"workflow": "asking", "input": {"number": number}})).json()["id"]
        for number in range(3)
    ]
    await work()
    page = (await client.get("/api/approvals", params={"limit": 2})).json()
    rest = (await client.get("/api/approvals", params={"limit": 2, "cursor": page["next_cursor"]})).json()
    found = {item["run"]: item for item in page["items"] + rest["items"]}
    assert found.keys() == set(runs)
    ids = [found[run]["id"] for run in runs]
    assert (await client.get(f"/api/approvals/{ids[0]}")).json() == found[runs[0]]
    assert (await client.get(f"/api/runs/{runs[0]}")).json()["state"] == "waiting"
    approved = await client.post(f"/api/approvals/{ids[0]}/approve", json={})
    assert (approved.status_code, approved.json()["state"]) == (200, "approved")
    assert (await client.post(f"/api/approvals/{ids[1]}/deny", json={})).status_code == 422, "a denial says why"
    await client.post(f"/api/approvals/{ids[1]}/deny", json={"reason": "no"})
    edit = {"reason": "half", "request": {"number": 1}}
    assert (await client.post(f"/api/approvals/{ids[2]}/edit", json=edit)).json()["edited"] == {"number": 1}
    again = await client.post(f"/api/approvals/{ids[2]}/approve", json={})
    assert (again.status_code, again.json()["code"]) == (409, "approval_closed")
    wrong = await client.post(f"/api/approvals/{ids[2]}/edit", json={"reason": "x", "request": {"number": "1"}})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "request.number")
    await work()
    assert [(await client.get(f"/api/runs/{run}")).json()["output"] for run in runs] == [0, -1, 1]
    assert (await client.get("/api/approvals")).json()["items"] == []
    everything = (await client.get("/api/approvals", params={"state": "all", "run": runs[1]})).json()["items"]
    assert [item["reason"] for item in everything] == ["no"]


async def test_a_decision_is_repeated_by_its_idempotency_key_and_not_made_twice(
    client: httpx.AsyncClient, asking: App, work: Callable[[], Any]
) -> None:
    await client.post("/api/runs", json={"workflow": "asking"})
    await work()
    [item] = (await client.get("/api/approvals")).json()["items"]
    headers = {"idempotency-key": "once"}
    answers = [await client.post(f"/api/approvals/{item['id']}/approve", json={}, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].headers["idempotent-replayed"] == "true"


async def test_hostile_words_and_strangers_are_refused(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, asking: App, work: Callable[[], Any]
) -> None:
    await client.post("/api/runs", json={"workflow": "asking"})
    await work()
    [item] = (await client.get("/api/approvals")).json()["items"]
    assert (await other_client.get("/api/approvals", params={"state": "all"})).json()["items"] == []
    assert (await other_client.get(f"/api/approvals/{item['id']}")).status_code == 404
    assert (await other_client.post(f"/api/approvals/{item['id']}/approve", json={})).status_code == 404
    for body in (
        {"reason": "a\0b"},
        {"reason": "x", "request": {"for": "a\0b"}},
        {"reason": "x" * 2_001},
        {"reason": "x", "request": {}},
    ):
        way = "edit" if "request" in body else "deny"
        refused = await client.post(f"/api/approvals/{item['id']}/{way}", json=body)
        assert refused.status_code == 422, refused.text
    assert [found["id"] for found in (await client.get("/api/approvals")).json()["items"]] == [item["id"]]


async def test_the_command_line_lists_shows_approves_edits_and_denies(
    asking: App, work: Callable[[], Any], cli: Callable[..., Any]
) -> None:
    runs = [
        await asking.workflows.start_raw("asking", {"number": n}, by=await asking.auth.operator()) for n in range(3)
    ]
    assert "nothing is pending" in (await cli("approvals", "list")).output
    await work()
    found = {item["run"]: item["id"] for item in orjson.loads((await cli("approvals", "list", "--json")).output)}
    ids = [found[str(run.id)] for run in runs]
    listed = (await cli("approvals", "list")).output
    assert all(id in listed for id in ids)
    assert "number 1" in (await cli("approvals", "show", ids[1])).output
    assert "is approved" in (await cli("approvals", "approve", ids[0])).output
    assert (await cli("approvals", "approve", ids[1], "--edit", '{"number": 5}')).exit_code == 1, "an edit says why"
    assert (await cli("approvals", "approve", ids[1], "--edit", '{"number": 5}', "--reason", "five")).exit_code == 0
    assert "is denied" in (await cli("approvals", "deny", ids[2], "--reason", "no")).output
    assert (await cli("approvals", "deny", ids[2], "--reason", "no")).exit_code == 1
    await work()
    by = await asking.auth.operator()
    assert [(await asking.workflows.get(by, run.id)).output for run in runs] == [0, 5, -1]
