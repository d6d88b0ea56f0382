"""Schedules over HTTP."""

import httpx

from backstay.app import App
from backstay.jobs import JobContext

from .conftest import Note


def register(app: App) -> None:
    async def note(context: JobContext, note: Note) -> None: ...

    app.jobs.handler("note", note, Note)


async def test_a_schedule_is_made_shown_paused_run_and_deleted(client: httpx.AsyncClient, app: App) -> None:
    register(app)
    body = {"job": "note", "input": {"text": "hi"}, "cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    made = await client.put("/api/schedules/nightly", json=body)
    assert made.status_code == 200, made.text
    shown = (await client.get("/api/schedules/nightly")).json()
    assert shown["coming"][0] == shown["next_at"] == made.json()["next_at"]
    assert len(shown["coming"]) == 5
    assert (await client.post("/api/schedules/nightly/pause")).json()["paused"] is True
    assert (await client.get("/api/schedules/nightly")).json()["next_at"] is None
    assert (await client.post("/api/schedules/nightly/resume")).json()["next_at"] == shown["next_at"]
    ran = await client.post("/api/schedules/nightly/run")
    assert ran.status_code == 201
    assert (await client.get(f"/api/jobs/{ran.json()['job_id']}")).json()["input"] == {"text": "hi"}
    assert (await client.get("/api/schedules/nightly/fires")).json()["items"] == []
    assert (await client.delete("/api/schedules/nightly")).status_code == 204
    assert (await client.get("/api/schedules/nightly")).status_code == 404
    actions = [entry["action"] for entry in (await client.get("/api/audit/entries")).json()["items"]]
    assert [action for action in actions if action.startswith("schedule.")] == [
        "schedule.delete",
        "schedule.run_now",
        "schedule.resume",
        "schedule.pause",
        "schedule.put",
    ]


async def test_pages_and_refusals(client: httpx.AsyncClient, other_client: httpx.AsyncClient, app: App) -> None:
    register(app)
    for name in "abc":
        answer = await client.put(f"/api/schedules/{name}", json={"job": "note", "cron": "* * * * *"})
        assert answer.status_code == 200, answer.text
    page = (await client.get("/api/schedules", params={"limit": 2})).json()
    rest = (await client.get("/api/schedules", params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert [item["name"] for item in page["items"] + rest["items"]] == ["a", "b", "c"]
    assert (await other_client.get("/api/schedules")).json()["items"] == []
    assert (await other_client.delete("/api/schedules/a")).status_code == 404
    wrong = await client.put("/api/schedules/d", json={"job": "note", "cron": "61 * * * *"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "cron_invalid")
    assert wrong.json()["errors"][0]["field"] == "cron"
    assert (await client.put("/api/schedules/d", json={"job": "no", "cron": "* * * * *"})).json()[
        "code"
    ] == "unknown_job"
    assert (await client.put("/api/schedules/%20", json={"job": "note", "cron": "* * * * *"})).status_code == 422
