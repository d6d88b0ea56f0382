"""Tools that a human decides about, over HTTP and across restarts."""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest

from backstay.agents import Consent
from backstay.app import App

SCRIPT = "sim:script"


def script(*steps):
    return json.dumps({"script": steps})


PAY = {"tool": "pay", "arguments": {"order": "A1", "cents": 5000}}


class Desk:
    """A process with the agent, and an inbox over HTTP. `paid` is what its tool did, in whichever process."""

    def __init__(self, settings, household) -> None:
        self._settings, self._household = settings, household
        self.paid: list[tuple[str, int, str]] = []

    @asynccontextmanager
    async def running(self, steps=(PAY, {"content": "Done."}), consent: bool | Consent = True):
        async with App(self._settings) as app:

            async def pay(order: str, cents: int, idempotency_key: str) -> str:
                """Pay an order back."""
                self.paid.append((order, cents, idempotency_key))
                return f"{cents} cents paid"

            tool = app.tool(pay, requires_approval=consent)
            app.agent("desk", model=SCRIPT, tools=[tool, look], instructions=script(*steps))
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            headers = {"authorization": f"Bearer {self._household.key}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://backstay", headers=headers) as http:
                yield app, http


async def look(at: str) -> str:
    return f"saw {at}"


@pytest.fixture
def desk(settings, household):
    return Desk(settings, household)


async def work(app):
    await app.jobs.worker().run_until_idle()


async def begin(http) -> str:
    started = await http.post("/api/agents/desk/runs", json={"text": "Money back, please."})
    assert started.status_code == 202
    return str(started.json()["run"])


async def inbox(http):
    return (await http.get("/api/approvals")).json()["items"]


async def decide(http, approval, how, **body):
    answer = await http.post(f"/api/approvals/{approval['id']}/{how}", json=body)
    assert answer.status_code == 200, answer.text


async def told(http, run):
    output = (await http.get(f"/api/runs/{run}")).json()["output"]
    return [message["content"] for message in output["messages"] if message["role"] == "tool"]


async def test_a_call_waits_over_a_restart_and_is_made_once_as_a_human_has_edited_it(desk, owner, db):
    async with desk.running() as (app, http):
        run = await begin(http)
        await work(app)
        [asked] = await inbox(http)
        assert (asked["request"], asked["title"]) == ({"order": "A1", "cents": 5000}, "desk: pay")
        assert (await http.get(f"/api/runs/{run}")).json()["state"] == "waiting"
    async with desk.running() as (app, http):
        await work(app)
        assert desk.paid == []
        await decide(http, asked, "edit", request={"cents": 1500}, reason="Half was used.")
        await work(app)
        assert (await http.get(f"/api/runs/{run}")).json()["state"] == "completed"
        [(order, cents, _)] = desk.paid
        assert (order, cents) == ("A1", 1500)
        [answer] = await told(http, run)
        assert answer.endswith("1500 cents paid")
        assert '"cents":1500' in answer
        assert "before the call. The reason: Half was used." in answer
        entries = {entry.action: entry for entry in await app.audit.entries(owner, run=run, limit=50)}
        over, made = entries["approval.overridden"], entries["tool.call.started"]
        calls = await app.gateway.calls(owner, run=run)
        assert over.call_id == made.call_id == calls[-1].id
        assert made.metadata["approval"] == asked["id"]
        evidence = await app.audit.payload(owner, over.id)
        assert (evidence["before"], evidence["after"]) == ({"cents": 5000}, {"cents": 1500})
        assert json.loads((await app.audit.payload(owner, made.id))["arguments"]) == {"order": "A1", "cents": 1500}


async def test_the_stream_says_once_what_a_human_is_asked(desk, owner):
    async with desk.running() as (app, http):
        started = (await http.post("/api/agents/desk/runs", json={"text": "Money back."})).json()
        await work(app)
        [asked] = await inbox(http)
        await decide(http, asked, "approve")
        await work(app)
        events = [event async for event in app.streams.read(owner, started["stream"])]
        [ask] = [event.data for event in events if event.type == "approval.requested"]
        assert (ask["name"], ask["arguments"]) == ("pay", {"order": "A1", "cents": 5000})
        assert ask["id"] == asked["about"]["tool_call"]
        assert desk.paid[0][:2] == ("A1", 5000)


async def test_a_denied_call_is_not_made_and_the_model_learns_why(desk):
    async with desk.running() as (app, http):
        run = await begin(http)
        await work(app)
        [asked] = await inbox(http)
        await decide(http, asked, "deny", reason="Too late.")
        await work(app)
        assert (await told(http, run), desk.paid) == (["A human denied this call. The reason: Too late."], [])


@pytest.mark.parametrize(("default", "paid"), [("deny", 0), ("approve", 1)])
async def test_when_nobody_decides_in_time_the_default_holds(desk, owner, default, paid):
    soon = Consent(timeout=timedelta(milliseconds=1), default=default)
    async with desk.running(consent=soon) as (app, http):
        run = await begin(http)
        stop = asyncio.Event()
        working = asyncio.create_task(app.jobs.worker().run(stop))
        await app.workflows.result(owner, run, timeout=20)
        stop.set()
        await working
        assert len(desk.paid) == paid
        [answer] = await told(http, run)
        assert answer == ("5000 cents paid" if paid else "Nobody allowed this call in time.")


async def test_several_calls_of_a_turn_are_asked_together_and_each_is_made_once(desk):
    calls = [
        {"tool": "pay", "arguments": {"order": "A", "cents": 1}},
        {"tool": "look", "arguments": {"at": "A"}},
        {"tool": "pay", "arguments": {"order": "B", "cents": 2}},
        {"tool": "pay", "arguments": {"order": "C"}},
    ]
    async with desk.running(steps=({"calls": calls}, {"content": "Done."})) as (app, http):
        run = await begin(http)
        await work(app)
        b, a = await inbox(http)
        assert [one["request"]["order"] for one in (a, b)] == ["A", "B"]
        await decide(http, b, "approve")
        await work(app)
        assert desk.paid == []  # the turn goes on when all of it was decided
        await decide(http, a, "deny", reason="No.")
        await work(app)
        answers = await told(http, run)
        assert answers[:3] == ["A human denied this call. The reason: No.", "saw A", "2 cents paid"]
        assert "- cents: Field required" in answers[3]
        assert [order for order, _, _ in desk.paid] == ["B"]


async def test_an_edit_that_the_tool_does_not_take_is_not_made(desk):
    async with desk.running() as (app, http):
        run = await begin(http)
        await work(app)
        [asked] = await inbox(http)
        await decide(http, asked, "edit", request={"sudo": True}, reason="Let us see.")
        await work(app)
        [answer] = await told(http, run)
        assert ("- sudo: Extra inputs" in answer, desk.paid) == (True, [])


async def test_only_the_role_that_the_tool_names_decides(desk, app, owner):
    async with desk.running(consent=Consent(role="approver")) as (other, http):
        run = await begin(http)
        await work(other)
        [asked] = await inbox(http)
        clerk = await app.auth.create_key(owner, "clerk", "developer")
        boss = await app.auth.create_key(owner, "boss", "approver")
        for key, status in [(clerk, 403), (boss, 200)]:
            headers = {"authorization": f"Bearer {key.secret}"}
            answer = await http.post(f"/api/approvals/{asked['id']}/approve", json={}, headers=headers)
            assert answer.status_code == status
        await work(other)
        assert len(desk.paid) == 1
        assert (await http.get(f"/api/runs/{run}")).json()["state"] == "completed"
