"""The job `http`, against a service on loopback."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from aiohttp import web

from backstay.app import App
from backstay.builtin import HttpCall
from backstay.builtin.models import NoResult
from backstay.jobs import JobDetail
from backstay.kernel.principal import Principal

from .conftest import Service

Run = Callable[[UUID], Awaitable[JobDetail]]
SECRET = "Bearer very-secret-value"


async def test_a_call_commits_with_the_callers_rows_and_leaves_its_answer(
    app: App, tenant: UUID, owner: Principal, service: Service, run: Run
) -> None:
    service.then = lambda _: web.json_response({"ok": True}, status=201)
    call = HttpCall(url=service.url("/hook"), json={"n": 1}, headers={"x-team": "blue"})
    with pytest.raises(ZeroDivisionError):
        async with app.transaction(tenant) as tx:
            await app.http.enqueue(call, tenant=tenant, tx=tx)
            raise ZeroDivisionError
    async with app.transaction(tenant) as tx:
        job = await app.http.enqueue(call, tenant=tenant, tx=tx)
    assert (await run(job)).state == "completed"
    [seen] = service.seen
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/hook", '{"n":1}')
    assert seen["headers"]["content-type"] == "application/json"
    assert seen["headers"]["x-team"] == "blue"
    assert seen["headers"]["idempotency-key"] == str(job)
    found = await app.results.get(owner, job)
    assert (found.name, found.result["status"], found.result["excerpt"]) == ("http", 201, '{"ok": true}')
    [event] = await app.events.page(owner, type="http.answered")
    assert event.payload == {"job_id": str(job), "host": "127.0.0.1", "method": "POST", "status": 201}
    assert [entry.resource for entry in await app.audit.entries(owner, action="http.call")] == [f"job:{job}"]


async def test_every_attempt_carries_the_same_idempotency_key(
    app: App, tenant: UUID, service: Service, run: Run
) -> None:
    answers = iter([503, 500, 200])
    service.then = lambda _: web.Response(status=next(answers))
    job = await app.http.enqueue(HttpCall(url=service.url(), idempotency_header="x-request-key"), tenant=tenant)
    assert (await run(job)).state == "retryable"
    assert (await run(job)).state == "retryable"
    found = await run(job)
    assert (found.state, found.attempt) == ("completed", 3)
    assert [seen["headers"]["x-request-key"] for seen in service.seen] == [str(job)] * 3


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 302])
async def test_an_answer_that_a_repeat_would_not_change_discards_the_job(
    app: App, tenant: UUID, service: Service, run: Run, status: int
) -> None:
    service.then = lambda _: web.Response(status=status, text="no such thing")
    found = await run(await app.http.enqueue(HttpCall(url=service.url()), tenant=tenant))
    assert (found.state, found.attempt) == ("discarded", 1)
    assert found.error == f"127.0.0.1 answered {status} to POST: no such thing"
    assert len(service.seen) == 1


async def test_the_expected_statuses_decide_what_success_is(app: App, tenant: UUID, service: Service, run: Run) -> None:
    service.then = lambda _: web.Response(status=404)
    gone = await app.http.enqueue(HttpCall(url=service.url(), method="DELETE", expect=[204, 404]), tenant=tenant)
    assert (await run(gone)).state == "completed"
    service.then = lambda _: web.Response(status=200)
    made = await app.http.enqueue(HttpCall(url=service.url(), expect=[201]), tenant=tenant)
    assert (await run(made)).state == "discarded"


@pytest.mark.parametrize("status", [429, 503, 408])
async def test_the_wait_that_an_answer_asks_for_is_kept(
    app: App, tenant: UUID, owner: Principal, service: Service, run: Run, status: int
) -> None:
    service.then = lambda _: web.Response(status=status, headers={"retry-after": "5000"})
    job = await app.http.enqueue(HttpCall(url=service.url()), tenant=tenant)
    before = app.clock.now()
    found = await run(job)
    assert found.state == "retryable"
    assert found.run_at >= before + timedelta(seconds=5000)


async def test_a_service_that_hangs_or_breaks_off_is_asked_again(
    app: App, tenant: UUID, service: Service, run: Run
) -> None:
    released = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    service.then = hang
    job = await app.http.enqueue(HttpCall(url=service.url(), timeout=0.1), tenant=tenant)
    found = await run(job)
    assert (found.state, found.error) == ("retryable", "127.0.0.1 did not answer within 0.1 seconds")
    released.set()

    def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    service.then = cut
    found = await run(job)
    assert (found.state, found.error) == ("retryable", "127.0.0.1 could not be reached: the connection broke")


async def test_a_host_that_keeps_failing_is_left_alone_and_that_costs_no_attempt(
    app: App, tenant: UUID, other_tenant: UUID, service: Service, run: Run
) -> None:
    service.then = lambda _: web.Response(status=500)
    for _ in range(5):
        await run(await app.http.enqueue(HttpCall(url=service.url()), tenant=tenant))
    assert len(service.seen) == 5
    resting = await run(await app.http.enqueue(HttpCall(url=service.url()), tenant=tenant))
    assert (resting.state, resting.attempt) == ("scheduled", 0)
    assert "failed too often lately" in str(resting.error)
    assert len(service.seen) == 5
    service.then = lambda _: web.Response()
    await app.http.enqueue(HttpCall(url=service.url()), tenant=other_tenant)
    await app.jobs.worker().run_until_idle()
    assert len(service.seen) == 6, "what one tenant meets shuts a host for it alone"


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.2:9999/", "http://10.0.0.1/", "http://169.254.169.254/latest", "http://[::ffff:10.0.0.1]/"],
)
async def test_inner_addresses_are_not_called(app: App, tenant: UUID, run: Run, url: str) -> None:
    found = await run(await app.http.enqueue(HttpCall(url=url), tenant=tenant))
    assert (found.state, found.attempt) == ("discarded", 1)
    assert "only public addresses" in str(found.error)


async def test_a_redirect_does_not_lead_inside_nor_take_the_headers_to_another_host(
    app: App, tenant: UUID, service: Service, run: Run
) -> None:
    def send_on(request: web.Request) -> web.StreamResponse:
        target = request.query.get("to")
        return web.Response(status=307, headers={"location": target}) if target else web.Response()

    service.then = send_on
    inside = HttpCall(url=service.url("/?to=http://10.0.0.1/"), redirects=3)
    found = await run(await app.http.enqueue(inside, tenant=tenant))
    assert found.state == "discarded"
    assert "10.0.0.1 leads to a private network" in str(found.error)
    service.seen.clear()
    headers = {"authorization": SECRET}
    here = HttpCall(url=service.url("/?to=/same"), redirects=1, body="b", headers=headers)
    there = HttpCall(url=service.url(f"/?to={service.url('/other', 'localhost')}"), redirects=1, headers=headers)
    for call in (here, there):
        assert (await run(await app.http.enqueue(call, tenant=tenant))).state == "completed"
    assert [(seen["path"], seen["headers"].get("authorization")) for seen in service.seen] == [
        ("/", SECRET),
        ("/same", SECRET),
        ("/", SECRET),
        ("/other", None),
    ]
    assert service.seen[1]["body"] == "b"


async def test_an_endless_answer_is_cut(app: App, tenant: UUID, owner: Principal, service: Service, run: Run) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * 10_000)
        except ConnectionError:
            return answer

    service.then = endless
    job = await app.http.enqueue(HttpCall(url=service.url()), tenant=tenant)
    assert (await run(job)).state == "completed"
    result = (await app.results.get(owner, job)).result
    assert (len(result["excerpt"]), result["cut"]) == (4_000, True)


async def test_what_headers_say_is_nowhere_in_clear(
    app: App,
    client: httpx.AsyncClient,
    owner: Principal,
    service: Service,
    run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # the service repeats what it was sent, in its answer and in its refusal
    service.then = lambda request: web.Response(text=f"you sent {request.headers['authorization']}", status=200)
    body = {"name": "http", "input": {"url": service.url(), "headers": {"Authorization": SECRET}}}
    answer = await client.post("/api/jobs", json=body, headers={"idempotency-key": "once"})
    assert answer.status_code == 201, answer.text
    job = UUID(answer.json()["id"])
    scheduled = {"job": "http", "input": body["input"], "cron": "0 0 1 1 *"}
    assert (await client.put("/api/schedules/yearly", json=scheduled)).status_code == 200
    assert (await run(job)).state == "completed"
    assert service.seen[0]["headers"]["authorization"] == SECRET
    service.then = lambda request: web.Response(text=f"you sent {request.headers['authorization']}", status=400)
    refused = await app.http.enqueue(
        HttpCall(url=service.url(), headers={"authorization": SECRET}), tenant=owner.tenant
    )
    assert (await run(refused)).state == "discarded"
    async with app.db.system_tx() as tx:
        rows = await (
            await tx.execute(
                "select to_jsonb(j)::text from backstay.job_done j union all select to_jsonb(s)::text from "
                "backstay.schedule s union all select to_jsonb(r)::text from backstay.job_result r union all "
                "select to_jsonb(e)::text from backstay.outbox e union all select to_jsonb(a)::text from "
                "backstay.audit_entry a"
            )
        ).fetchall()
    stored = "\n".join(row[0] for row in rows)
    assert stored.count("sealed_headers") >= 3
    for place in (stored, answer.text, (await client.get(f"/api/jobs/{job}/result")).text, *capsys.readouterr()):
        assert "very-secret-value" not in place


async def test_sealed_headers_cannot_be_sent_to_another_host(
    app: App, tenant: UUID, service: Service, run: Run
) -> None:
    sealed = app.http.sealed(HttpCall(url=service.url(), headers={"authorization": SECRET}))
    stolen = HttpCall(url=service.url(host="localhost"), sealed_headers=sealed.sealed_headers)
    found = await run(await app.http.enqueue(stolen, tenant=tenant))
    assert found.state == "retryable"
    assert "do not open" in str(found.error)
    assert service.seen == []


async def test_a_call_whose_outcome_is_recorded_is_not_made_again(
    app: App, tenant: UUID, service: Service, run: Run
) -> None:
    job = await app.http.enqueue(HttpCall(url=service.url()), tenant=tenant)
    async with app.db.system_tx() as tx:
        # as if the first worker had died between recording the outcome and completing the job
        await tx.execute(
            "insert into backstay.job_result (tenant_id, job_id, name, created_at, result) "
            "values (%s, %s, 'http', now(), '{}')",
            [tenant, job],
        )
    assert (await run(job)).state == "completed"
    assert service.seen == []


async def test_another_tenant_does_not_see_a_result(
    app: App, tenant: UUID, other_owner: Principal, service: Service, run: Run
) -> None:
    job = await app.http.enqueue(HttpCall(url=service.url()), tenant=tenant)
    await run(job)
    with pytest.raises(NoResult):
        await app.results.get(other_owner, job)


async def test_hostile_input_is_refused_when_it_is_enqueued(client: httpx.AsyncClient) -> None:
    smuggled = {"url": "https://example.com", "headers": {"a": "b\r\nevil: 1"}}
    answer = await client.post("/api/jobs", json={"name": "http", "input": smuggled})
    assert (answer.status_code, answer.json()["code"]) == (422, "job_input_invalid")
    assert "line break" in answer.text
