"""The job `report`: what was spent and what the audit holds, as files for those who may see them."""

import csv
import io
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest

from backstay.app import App
from backstay.builtin import NewReport, NoResult
from backstay.jobs import JobDetail
from backstay.kernel.errors import Forbidden
from backstay.kernel.principal import Principal

Run = Callable[[UUID], Awaitable[JobDetail]]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEDGER = (
    "insert into backstay.ledger (tenant_id, call_id, attempt, at, provider, model, feature, end_user, outcome, "
    "input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, cost, seconds)"
)
HOSTILE = '<script>alert("x")</script>'


async def spend(app: App, tenant: UUID, feature: str, user: str | None, cost: str, at: datetime = NOON) -> None:
    async with app.db.tenant_tx(tenant) as tx:
        await tx.execute(
            f"{LEDGER} values (%s, gen_random_uuid(), 1, %s, 'sim', 'echo', %s, %s, 'ok', 1000, 20, 0, 0, 'f', %s, 1)",
            [tenant, at, feature, user, cost],
        )


async def content(app: App, by: Principal, job: UUID) -> str:
    found, parts = await app.results.file(by, job)
    body = b"".join([part async for part in parts])
    assert len(body) == found.bytes
    return body.decode()


def march(**more: object) -> NewReport:
    return NewReport.model_validate({"since": "2026-03-01", "until": "2026-04-01T00:00:00Z"} | more)


async def test_spend_is_added_up_exactly_for_the_tenant_and_the_time_alone(
    app: App, tenant: UUID, other_tenant: UUID, owner: Principal, run: Run
) -> None:
    await spend(app, tenant, "chat", "ada", "0.0000015")
    await spend(app, tenant, "chat", "ada", "0.1")
    await spend(app, tenant, "search", None, "0.02")
    await spend(app, tenant, "chat", "ada", "9", datetime(2026, 4, 1, tzinfo=UTC))
    await spend(app, other_tenant, "chat", "ada", "50")
    job = await app.reports.enqueue(march(by=["day", "feature", "user"], format="csv"), by=owner)
    assert (await run(job)).state == "completed"
    assert list(csv.reader(io.StringIO(await content(app, owner, job)))) == [
        ["day", "feature", "user", "calls", "input tokens", "output tokens", "cost (USD)"],
        ["2026-03-01", "chat", "ada", "2", "2000", "40", "0.1000015"],
        ["2026-03-01", "search", "", "1", "1000", "20", "0.02"],
    ]
    found = await app.results.get(owner, job)
    assert found.file is not None
    assert (found.file.name, found.result["rows"]) == ("spend-2026-03-01-to-2026-04-01.csv", 2)
    [event] = await app.events.page(owner, type="report.made")
    assert event.payload["job_id"] == str(job)


async def test_names_of_strangers_are_neither_run_nor_calculated(
    app: App, tenant: UUID, owner: Principal, client: httpx.AsyncClient, run: Run
) -> None:
    formulas = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1"]
    for name in (HOSTILE, *formulas):
        await spend(app, tenant, name, name, "1.5")
    page = await app.reports.enqueue(march(by=["feature", "user"]), by=owner)
    await run(page)
    html = await content(app, owner, page)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 2
    assert "9.0" in html.partition("<tfoot>")[2], "the totals are wrong"
    sheet = await app.reports.enqueue(march(by=["feature", "user"], format="csv"), by=owner)
    await run(sheet)
    rows = list(csv.reader(io.StringIO(await content(app, owner, sheet))))[1:]
    assert {row[0] for row in rows} == {HOSTILE, *(f"'{name}" for name in formulas)}
    answer = await client.get(f"/api/jobs/{page}/file")
    assert answer.text == html
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["content-security-policy"]


async def test_the_audit_is_for_those_who_may_read_it(
    app: App, owner: Principal, client: httpx.AsyncClient, run: Run
) -> None:
    developer = await app.auth.authenticate((await app.auth.create_key(owner, "dev", "developer")).secret)
    with pytest.raises(Forbidden):
        await app.reports.enqueue(NewReport(kind="audit"), by=developer)
    forged = await client.post("/api/jobs", json={"name": "report", "input": {"kind": "audit"}})
    assert (forged.status_code, "POST /api/reports" in forged.text) == (422, True)
    asked = await client.post("/api/reports", json={"kind": "audit", "format": "csv", "days": 1})
    assert asked.status_code == 201, asked.text
    job, given = UUID(asked.json()["id"]), asked.json()["input"]
    assert (await run(job)).state == "completed"
    assert "key.created" in await content(app, owner, job)
    with pytest.raises(Forbidden):
        await app.results.file(developer, job)
    # a permit is for the very report it was given for
    longer = await client.post("/api/jobs", json={"name": "report", "input": given | {"email_to": ["e@evil.com"]}})
    found = await run(UUID(longer.json()["id"]))
    assert (found.state, "permit was made for another" in str(found.error)) == ("discarded", True)
    again = await client.post("/api/jobs", json={"name": "report", "input": given})
    assert (await run(UUID(again.json()["id"]))).state == "completed"


async def test_a_report_is_mailed_in_the_transaction_that_stores_it(
    app: App, owner: Principal, tenant: UUID, run: Run
) -> None:
    await spend(app, tenant, "chat", None, "1")
    job = await app.reports.enqueue(march(email_to=["boss@example.com"]), by=owner)
    await run(job)
    [mail] = [one for one in await app.jobs.list(owner) if one.name == "email"]
    sent = (await app.jobs.get(owner, mail.id)).input
    assert sent["to"] == ["boss@example.com"]
    assert sent["attachments"][0]["job"] == str(job)


async def test_another_tenant_gets_no_file(app: App, owner: Principal, other_owner: Principal, run: Run) -> None:
    job = await app.reports.enqueue(march(), by=owner)
    await run(job)
    with pytest.raises(NoResult):
        await app.results.file(other_owner, job)
    assert await app.results.file_for(other_owner.tenant, job) is None


async def test_a_long_report_does_not_fit_memory_and_need_not(app: App, owner: Principal, tenant: UUID) -> None:
    lines = 60_000
    async with app.db.tenant_tx(tenant) as tx:
        await tx.execute(
            f"{LEDGER} select %s, gen_random_uuid(), 1, %s, 'sim', 'echo', 'f', repeat('u', 200) || n, 'ok', "
            "1, 1, 0, 0, false, 1, 1 from generate_series(1, %s) n",
            [tenant, NOON, lines],
        )
    job = await app.reports.enqueue(march(by=["user"], format="csv"), by=owner)
    tracemalloc.start()
    await app.jobs.worker().run_until_idle()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found, parts = await app.results.file(owner, job)
    assert found.bytes > 12_000_000
    assert peak < 6_000_000, f"{peak} bytes were in memory at once"
    assert sum([part.count(b"\n") async for part in parts]) == lines + 1
