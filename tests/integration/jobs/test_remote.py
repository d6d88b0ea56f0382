"""Workers in other languages: they claim over HTTP, and neither the dead nor other tenants change anything."""

import asyncio
import json
import time
from datetime import timedelta
from typing import Any

import httpx
import pytest

from backstay.app import App
from backstay.jobs import JobContext, upkeep
from conftest import Household

from .conftest import Note

JSON = {"content-type": "application/json"}
QUICK = {"base_seconds": 0, "cap_seconds": 0}


class Remote:
    """A remote worker as a program in another language would be."""

    def __init__(self, http: httpx.AsyncClient, id: str) -> None:
        self._http, self.id = http, id

    async def claim(self, limit: int = 10, wait: float = 0) -> list[dict[str, Any]]:
        answer = await self.ask("claim", {"limit": limit, "wait_seconds": wait})
        assert answer.status_code == 200, answer.text
        jobs: list[dict[str, Any]] = answer.json()["jobs"]
        return jobs

    async def ask(self, what: str, body: dict[str, Any] | None = None) -> httpx.Response:
        return await self._http.post(f"/api/workers/{self.id}/{what}", json=body)

    async def tell(self, job: dict[str, Any], what: str, **body: Any) -> httpx.Response:
        path = f"/api/workers/{self.id}/jobs/{job['job']}/{what}"
        # httpx cannot write half a character, and a hostile client can
        return await self._http.post(path, content=json.dumps({"claim": job["claim"], **body}), headers=JSON)


async def registered(http: httpx.AsyncClient, *names: str, lease: float = 30, **more: Any) -> Remote:
    jobs = [{"name": name, **more} for name in names or ("resize",)]
    answer = await http.post("/api/workers", json={"name": "test", "jobs": jobs, "lease_seconds": lease})
    assert answer.status_code == 201, answer.text
    return Remote(http, answer.json()["id"])


async def enqueued(http: httpx.AsyncClient, name: str = "resize", **more: Any) -> str:
    answer = await http.post("/api/jobs", json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    id: str = answer.json()["id"]
    return id


async def state(http: httpx.AsyncClient, id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(f"/api/jobs/{id}")).json()
    return found


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code")


async def dead(app: App, worker: Remote) -> None:
    """The worker's lease ends now, and whoever tends the queue finds it so."""
    async with app.db.system_tx() as tx:
        await tx.execute(
            "update backstay.worker set expires_at = clock_timestamp() - interval '1 second' where id = %s", [worker.id]
        )
    await upkeep.rescue(app.db, app.clock.now())


async def test_a_job_goes_to_a_remote_worker_and_is_completed(client: httpx.AsyncClient, app: App) -> None:
    worker = await registered(client)
    id = await enqueued(client, input={"width": 3})
    [job] = await worker.claim()
    assert (job["job"], job["name"], job["input"], job["attempt"]) == (id, "resize", {"width": 3}, 1)
    assert (await state(client, id))["state"] == "running"
    assert await worker.claim() == []
    done = await worker.tell(job, "complete")
    assert (done.status_code, done.json()["state"]) == (200, "completed")
    assert (await state(client, id))["state"] == "completed"
    assert code(await worker.tell(job, "complete")) == (409, "job_lost")


async def test_a_completion_sent_twice_under_one_key_is_answered_twice(client: httpx.AsyncClient) -> None:
    worker = await registered(client)
    await enqueued(client)
    [job] = await worker.claim()
    path, body = f"/api/workers/{worker.id}/jobs/{job['job']}/complete", {"claim": job["claim"]}
    answers = [await client.post(path, json=body, headers={"idempotency-key": job["claim"]}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_names_nobody_registered_are_unknown_and_registered_ones_wait_for_a_worker(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient
) -> None:
    assert code(await client.post("/api/jobs", json={"name": "resize"})) == (422, "unknown_job")
    worker = await registered(client, queue="pictures")
    assert (await client.delete(f"/api/workers/{worker.id}")).status_code == 204
    id = await enqueued(client)
    assert (await state(client, id))["queue"] == "pictures"
    assert code(await other_client.post("/api/jobs", json={"name": "resize"})) == (422, "unknown_job")
    late = await registered(client, queue="pictures")
    assert [job["job"] for job in await late.claim()] == [id]


async def test_a_name_that_the_server_runs_itself_cannot_be_registered(client: httpx.AsyncClient, app: App) -> None:
    async def note(context: JobContext, note: Note) -> None: ...

    app.jobs.handler("note", note, Note)
    answer = await client.post("/api/workers", json={"name": "w", "jobs": [{"name": "note"}]})
    assert code(answer) == (409, "job_handled_here")


async def test_remote_workers_and_ours_never_take_each_others_jobs(client: httpx.AsyncClient, app: App) -> None:
    """Even under one name: a process that serves without handlers, beside one that has them."""
    worker = await registered(client, "note")
    theirs = await enqueued(client, "note")
    seen: list[str] = []

    async def note(context: JobContext, note: Note) -> None:
        seen.append(note.text)

    app.jobs.handler("note", note, Note)
    await enqueued(client, "note", input={"text": "ours"})
    claimed = await worker.claim()
    assert [job["job"] for job in claimed] == [theirs]
    await worker.tell(claimed[0], "release")
    await app.jobs.worker(queues=["default"]).run_until_idle()
    assert seen == ["ours"]
    assert (await state(client, theirs))["state"] == "available"


async def test_another_tenant_has_none_of_it(client: httpx.AsyncClient, other_client: httpx.AsyncClient) -> None:
    worker, spy = await registered(client), await registered(other_client)
    id = await enqueued(client)
    assert await spy.claim() == [], "a worker claims from its own tenant only"
    [job] = await worker.claim()
    as_other = Remote(other_client, worker.id)
    for what in ("heartbeat", "claim"):
        assert code(await as_other.ask(what, {})) == (409, "worker_lost")
    assert code(await other_client.delete(f"/api/workers/{worker.id}")) == (409, "worker_lost")
    for thief in (as_other, spy):
        for what, body in ANSWERS.items():
            assert code(await thief.tell(job, what, **body)) == (409, "job_lost"), what
        path = f"/api/workers/{thief.id}/jobs/{job['job']}/input"
        assert code(await other_client.get(path, params={"claim": job["claim"]})) == (409, "job_lost")
    assert [found["id"] for found in (await other_client.get("/api/workers")).json()] == [spy.id]
    assert (await state(client, id))["state"] == "running"
    assert (await worker.tell(job, "complete")).status_code == 200


ANSWERS: dict[str, dict[str, Any]] = {
    "progress": {"fraction": 0.5},
    "complete": {},
    "fail": {"error": "x"},
    "snooze": {"seconds": 1},
    "discard": {"reason": "x"},
    "cancel": {"reason": "x"},
    "release": {},
}


async def test_a_dead_worker_loses_its_jobs_and_its_late_answers_change_nothing(
    client: httpx.AsyncClient, app: App
) -> None:
    first, second = await registered(client), await registered(client)
    id = await enqueued(client)
    [late] = await first.claim()
    await dead(app, first)
    assert "resize" not in (await client.get("/metrics")).text, "a tenant's names are nobody else's to read"
    [job] = await second.claim()
    assert (job["job"], job["attempt"], job["rescues"]) == (id, 1, 1)
    for what, body in ANSWERS.items():
        assert code(await first.tell(late, what, **body)) == (409, "job_lost"), what
    for what in ("heartbeat", "claim"):
        assert code(await first.ask(what, {})) == (409, "worker_lost")
    assert (await state(client, id))["state"] == "running"
    assert (await second.tell(job, "complete")).status_code == 200


async def test_a_claim_is_one_attempt_also_for_the_same_worker(client: httpx.AsyncClient) -> None:
    worker = await registered(client, **QUICK)
    await enqueued(client)
    [first] = await worker.claim()
    await worker.tell(first, "release")
    [second] = await worker.claim()
    assert (first["job"], second["attempt"]) == (second["job"], 1)
    assert code(await worker.tell(first, "complete")) == (409, "job_lost")
    assert (await worker.tell(second, "complete")).status_code == 200


async def test_heartbeats_keep_the_lease_and_tell_what_is_held(client: httpx.AsyncClient, app: App) -> None:
    worker = await registered(client, lease=1)
    id = await enqueued(client)
    [job] = await worker.claim()
    ends = time.monotonic() + 1.6
    while time.monotonic() < ends:
        beat = (await worker.ask("heartbeat")).json()
        assert beat["claims"] == [{"job": id, "claim": job["claim"], "cancelling": False}]
        await upkeep.rescue(app.db, app.clock.now())
        await asyncio.sleep(0.2)
    await client.post(f"/api/jobs/{id}/cancel")
    assert (await worker.ask("heartbeat")).json()["claims"][0]["cancelling"] is True
    answer = await worker.tell(job, "fail", error="stopped")
    assert answer.json()["state"] == "cancelled", "what was to be cancelled does not run again"
    assert (await state(client, id))["state"] == "cancelled"


async def test_without_a_heartbeat_the_jobs_are_rescued_by_the_next_worker_that_asks(
    client: httpx.AsyncClient, app: App
) -> None:
    """No worker of ours runs here: the remote ones' own requests tend the queue."""
    silent, other = await registered(client, lease=1), await registered(client)
    id = await enqueued(client)
    assert len(await silent.claim()) == 1
    app.jobs.settings = app.settings.model_copy(update={"lease_seconds": 0.3})
    [job] = await other.claim(wait=10)
    assert (job["job"], job["rescues"]) == (id, 1)


async def test_failures_are_repeated_as_registered_and_then_dead(client: httpx.AsyncClient) -> None:
    worker = await registered(client, max_attempts=3, **QUICK)
    id = await enqueued(client)
    for attempt in (1, 2, 3):
        [job] = await worker.claim(wait=5)
        assert job["attempt"] == attempt
        answer = await worker.tell(job, "fail", error=f"no {attempt}\0 sk-ant-REDACTED")
        assert answer.status_code == 200, answer.text
    found = await state(client, id)
    assert (found["state"], found["attempt"], found["error"][:4]) == ("discarded", 3, "no 3")
    assert "secret12345678" not in found["error"]


async def test_retry_after_snooze_discard_and_cancel(client: httpx.AsyncClient) -> None:
    worker = await registered(client)
    ids = [await enqueued(client, priority=9 - number) for number in range(4)]
    jobs = await worker.claim()
    assert [job["job"] for job in jobs] == ids, "higher priorities first"
    answers = [
        await worker.tell(jobs[0], "fail", error="busy", retry_after_seconds=3600),
        await worker.tell(jobs[1], "snooze", seconds=3600, reason="too early"),
        await worker.tell(jobs[2], "discard", reason="broken"),
        await worker.tell(jobs[3], "cancel", reason="not needed"),
    ]
    assert [answer.json()["state"] for answer in answers] == ["retryable", "scheduled", "discarded", "cancelled"]
    found = [await state(client, id) for id in ids]
    assert [(one["state"], one["attempt"]) for one in found] == [
        ("retryable", 1),
        ("scheduled", 0),
        ("discarded", 1),
        ("cancelled", 1),
    ]


async def test_a_job_that_kills_its_workers_is_discarded(client: httpx.AsyncClient, app: App) -> None:
    id = None
    for _ in range(2):
        worker = await registered(client, max_rescues=1)
        id = id or await enqueued(client)
        assert [job["job"] for job in await worker.claim()] == [id]
        await dead(app, worker)
    assert await (await registered(client, max_rescues=1)).claim() == []
    assert ((await state(client, str(id)))["state"]) == "discarded"


async def test_a_leaving_worker_gives_its_jobs_back_at_once(client: httpx.AsyncClient) -> None:
    first, second = await registered(client), await registered(client)
    id = await enqueued(client)
    await first.claim()
    assert (await client.delete(f"/api/workers/{first.id}")).status_code == 204
    assert [job["job"] for job in await second.claim()] == [id]


async def test_a_waiting_worker_gets_a_job_when_it_comes_and_holds_no_connection(
    client: httpx.AsyncClient, app: App
) -> None:
    workers = [await registered(client) for _ in range(app.settings.pool_size * 2)]
    waiting = [asyncio.create_task(worker.claim(wait=20)) for worker in workers]
    await asyncio.sleep(0.3)
    ids = {await enqueued(client) for _ in workers}
    began = time.monotonic()
    for _ in range(200):
        done = [task for task in waiting if task.done()]
        if sum(len(task.result()) for task in done) == len(ids):
            break
        await asyncio.sleep(0.05)
    got = [job["job"] for task in waiting if task.done() for job in task.result()]
    assert sorted(got) == sorted(ids), "each once"
    assert time.monotonic() - began < 8
    app.drain()
    rest = await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert sum(map(len, rest)) == len(ids), "a server that stops lets those who wait go"


async def test_many_workers_claim_each_job_once(client: httpx.AsyncClient) -> None:
    workers = [await registered(client) for _ in range(4)]
    ids = [await enqueued(client) for _ in range(60)]
    shared = workers[0]
    claims = await asyncio.gather(*(worker.claim(limit=7) for worker in [*workers, shared, shared] for _ in range(3)))
    got = [job for batch in claims for job in batch]
    assert sorted(job["job"] for job in got) == sorted(ids)
    assert len({job["claim"] for job in got}) == len(ids), "no claim's number is given twice, in one worker's requests"


async def test_pause_limit_and_keys_hold(client: httpx.AsyncClient, app: App) -> None:
    one, two = await registered(client), await registered(client)
    await app.jobs.pause("default")
    await enqueued(client)
    assert await one.claim() == []
    await app.jobs.resume("default")
    await app.jobs.limit("default", 3)
    for _ in range(9):
        await enqueued(client)
    batches = await asyncio.gather(*(worker.claim() for worker in (one, two, one, two)))
    running = [(worker, job) for worker, batch in zip((one, two, one, two), batches, strict=True) for job in batch]
    assert len(running) == 3
    await running[0][0].tell(running[0][1], "complete")
    assert len(await two.claim()) == 1
    await app.jobs.limit("default", None)
    await one.claim(limit=100)
    first = await enqueued(client, key="k")
    assert await enqueued(client, key="k") == first
    [keyed] = await one.claim()
    second = await enqueued(client, key="k")
    assert second != first
    assert await two.claim() == [], "while one with the key runs, the next waits"
    await one.tell(keyed, "complete")
    assert [job["job"] for job in await two.claim()] == [second]


async def test_a_failed_job_whose_key_waits_anew_ends_for_the_newer(client: httpx.AsyncClient) -> None:
    worker = await registered(client)
    old = await enqueued(client, key="k")
    [job] = await worker.claim()
    new = await enqueued(client, key="k")
    assert (await worker.tell(job, "fail", error="x")).status_code == 200
    assert (await state(client, old))["state"] == "cancelled"
    assert [job["job"] for job in await worker.claim()] == [new]


async def test_a_large_input_is_fetched(client: httpx.AsyncClient) -> None:
    worker = await registered(client)
    await enqueued(client, input={"text": "x" * 100_000})
    [job] = await worker.claim()
    assert (job["input"], job["input_is_large"]) == (None, True)
    path = f"/api/workers/{worker.id}/jobs/{job['job']}/input"
    assert (await client.get(path, params={"claim": job["claim"]})).json() == {"text": "x" * 100_000}


async def test_a_dead_remote_job_is_revived_for_remote_workers(client: httpx.AsyncClient) -> None:
    worker = await registered(client)
    id = await enqueued(client)
    [job] = await worker.claim()
    await worker.tell(job, "discard", reason="broken")
    assert (await client.post(f"/api/jobs/{id}/retry")).status_code == 200
    assert [job["job"] for job in await worker.claim()] == [id]


async def test_permissions(client: httpx.AsyncClient, app: App, household: Household) -> None:
    worker = await registered(client)
    id = await enqueued(client)
    narrow = await app.auth.create_key(household.owner, "worker", "operator", scopes=["jobs:work"])
    viewer = await app.auth.create_key(household.owner, "viewer", "viewer")
    client.headers["authorization"] = f"Bearer {viewer.secret}"
    for what in ("heartbeat", "claim"):
        assert code(await worker.ask(what, {})) == (403, "forbidden")
    assert (await client.post("/api/workers", json={"name": "w", "jobs": [{"name": "x"}]})).status_code == 403
    client.headers["authorization"] = f"Bearer {narrow.secret}"
    [job] = await worker.claim()
    assert code(await client.get(f"/api/jobs/{id}")) == (403, "forbidden")
    assert code(await client.post("/api/jobs", json={"name": "resize"})) == (403, "forbidden")
    assert (await worker.tell(job, "complete")).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "jobs": [{"name": "x"}]},
        {"name": "w", "jobs": []},
        {"name": "w", "jobs": [{"name": "x"}, {"name": "x"}]},
        {"name": "w", "jobs": [{"name": f"x{n}"} for n in range(51)]},
        {"name": "w", "jobs": [{"name": "x" * 201}]},
        {"name": "w", "jobs": [{"name": "x\0"}]},
        {"name": "w", "jobs": [{"name": "x", "queue": "q\0"}]},
        {"name": "w", "jobs": [{"name": "x\ud800"}]},
        {"name": "w", "jobs": [{"name": "x"}], "lease_seconds": 0.5},
        {"name": "w", "jobs": [{"name": "x"}], "lease_seconds": 301},
        {"name": "w", "jobs": [{"name": "x"}], "queues": [f"q{n}" for n in range(21)]},
        {"name": "w", "jobs": [{"name": f"x{n}", "queue": f"q{n}"} for n in range(21)]},
        {"name": "w", "jobs": [{"name": "x", "max_attempts": 0}]},
    ],
)
async def test_a_registration_out_of_bounds_is_a_problem(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await client.post("/api/workers", content=json.dumps(body), headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text


async def test_strange_answers_are_problems_and_change_nothing(client: httpx.AsyncClient) -> None:
    worker = await registered(client)
    id = await enqueued(client)
    [job] = await worker.claim()
    for claim in ("", "-1", "x", "9" * 19, "9" * 30, " 1"):
        assert (await worker.tell({**job, "claim": claim}, "complete")).status_code in (409, 422), claim
    for body in ({"limit": 0}, {"limit": 101}, {"wait_seconds": 31}, {"wait_seconds": -1}):
        assert (await worker.ask("claim", body)).status_code == 422, body
    for body in ({"error": ""}, {"error": "x" * 20_001}, {"error": "x", "retry_after_seconds": -1}):
        assert (await worker.tell(job, "fail", **body)).status_code == 422, body
    assert (await state(client, id))["state"] == "running"
    assert (await worker.tell(job, "fail", error="half a character: \ud83d")).status_code in (200, 422)


async def test_a_schedule_enqueues_for_remote_workers(client: httpx.AsyncClient, app: App) -> None:
    worker = await registered(client, "resize", queue="pictures")
    body = {"job": "resize", "input": {"width": 80}, "cron": "* * * * *"}
    made = await client.put("/api/schedules/thumbnails", json=body)
    assert (made.status_code, made.json()["remote"], made.json()["queue"]) == (200, True, "pictures"), made.text
    assert await app.schedules.fire(app.clock.now() + timedelta(minutes=1)) == 1
    [job] = await worker.claim()
    assert job["input"] == {"width": 80}
    assert (await worker.tell(job, "complete")).json()["state"] == "completed"
