"""Runs over HTTP."""

import httpx
import pytest

from backstay.app import App
from backstay.workflows import Run

from .conftest import Order


@pytest.fixture
def doubling(app: App) -> App:
    """An App with the workflow `doubling`."""

    async def double(number: int) -> int:
        return number * 2

    @app.workflows.workflow
    async def doubling(run: Run, order: Order) -> int:
        return await run.step(double, order.number)

    return app


async def test_start_show_and_list(client: httpx.AsyncClient, doubling: App) -> None:
    body = {"workflow": "doubling", "input": {"number": 21}, "key": "k"}
    started = await client.post("/api/runs", json=body)
    assert started.status_code == 201, started.text
    id = started.json()["id"]
    assert started.json()["state"] == "pending"
    assert (await client.post("/api/runs", json=body)).json()["id"] == id
    await doubling.jobs.worker(queues=["workflows"]).run_until_idle()
    run = (await client.get(f"/api/runs/{id}")).json()
    assert (run["state"], run["output"], run["input"]) == ("completed", 42, {"number": 21})
    assert [(step["seq"], step["kind"], step["output"]) for step in run["steps"]] == [(0, "step", 42)]
    page = (await client.get("/api/runs", params={"state": "completed"})).json()
    assert [item["id"] for item in page["items"]] == [id]
    assert (await client.get("/api/runs", params={"workflow": "other"})).json()["items"] == []


async def test_mistakes_are_problems(client: httpx.AsyncClient, other_client: httpx.AsyncClient, doubling: App) -> None:
    unknown = await client.post("/api/runs", json={"workflow": "nope"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_workflow")
    wrong = await client.post("/api/runs", json={"workflow": "doubling", "input": {"number": "x"}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "run_input_invalid")
    assert wrong.json()["errors"][0]["field"] == "input.number"
    missing = await client.get("/api/runs/00000000-0000-0000-0000-000000000001")
    assert (missing.status_code, missing.json()["code"]) == (404, "run_not_found")
    id = (await client.post("/api/runs", json={"workflow": "doubling"})).json()["id"]
    assert (await other_client.get(f"/api/runs/{id}")).status_code == 404
