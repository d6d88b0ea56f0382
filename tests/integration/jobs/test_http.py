"""Jobs over HTTP."""

import httpx
import pytest

from backstay.app import App
from backstay.jobs import Discard, JobContext

from .conftest import Note


@pytest.fixture
def noted(app: App) -> list[str]:
    """The job `note`, registered in the App; returns what ran."""
    seen: list[str] = []

    async def note(context: JobContext, note: Note) -> None:
        seen.append(note.text)
        if note.text == "useless":
            raise Discard("useless")

    app.jobs.handler("note", note, Note)
    return seen


async def test_enqueue_show_list_and_queues(client: httpx.AsyncClient, app: App, noted: list[str]) -> None:
    answer = await client.post("/api/jobs", json={"name": "note", "input": {"text": "hi"}, "key": "k"})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert (job["state"], job["input"], job["unique_key"]) == ("available", {"text": "hi"}, "k")
    again = await client.post("/api/jobs", json={"name": "note", "input": {"text": "ho"}, "key": "k"})
    assert again.json()["id"] == job["id"]
    queues = (await client.get("/api/queues")).json()
    assert [(queue["name"], queue["available"]) for queue in queues] == [("default", 1)]
    await app.jobs.worker(queues=["default"]).run_until_idle()
    shown = (await client.get(f"/api/jobs/{job['id']}")).json()
    assert shown["state"] == "completed"
    assert noted == ["hi"]


async def test_pages_hold_every_job_once(client: httpx.AsyncClient, app: App, noted: list[str]) -> None:
    ids = [(await client.post("/api/jobs", json={"name": "note"})).json()["id"] for _ in range(4)]
    await app.jobs.worker(queues=["default"]).run_until_idle()
    ids += [(await client.post("/api/jobs", json={"name": "note"})).json()["id"] for _ in range(3)]
    seen, cursor = [], None
    while True:
        page = (await client.get("/api/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]


async def test_a_dead_job_is_found_and_retried(client: httpx.AsyncClient, app: App, noted: list[str]) -> None:
    id = (await client.post("/api/jobs", json={"name": "note", "input": {"text": "useless"}})).json()["id"]
    await app.jobs.worker(queues=["default"]).run_until_idle()
    dead = (await client.get("/api/jobs", params={"state": "discarded"})).json()["items"]
    assert [(job["id"], job["error"]) for job in dead] == [(id, "useless")]
    assert (await client.post(f"/api/jobs/{id}/retry")).json()["state"] == "available"
    assert (await client.post(f"/api/jobs/{id}/retry")).status_code == 409
    assert (await client.post(f"/api/jobs/{id}/cancel")).json()["state"] == "cancelled"
    again = await client.post(f"/api/jobs/{id}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "job_finished")


async def test_mistakes_are_problems_that_name_the_field(client: httpx.AsyncClient, noted: list[str]) -> None:
    unknown = await client.post("/api/jobs", json={"name": "nope"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_job")
    wrong = await client.post("/api/jobs", json={"name": "note", "input": {"text": [1]}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "job_input_invalid")
    assert wrong.json()["errors"][0]["field"] == "input.text"
    nul = await client.post("/api/jobs", json={"name": "note", "input": {"text": "a\0"}})
    assert (nul.status_code, nul.json()["code"]) == (422, "job_input_invalid")
    missing = await client.get("/api/jobs/00000000-0000-0000-0000-000000000001")
    assert (missing.status_code, missing.json()["code"]) == (404, "job_not_found")


async def test_another_tenant_sees_nothing(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, noted: list[str]
) -> None:
    id = (await client.post("/api/jobs", json={"name": "note"})).json()["id"]
    assert (await other_client.get(f"/api/jobs/{id}")).status_code == 404
    assert (await other_client.post(f"/api/jobs/{id}/cancel")).status_code == 404
    assert (await other_client.get("/api/jobs")).json()["items"] == []
    assert (await other_client.get("/api/queues")).json() == []
