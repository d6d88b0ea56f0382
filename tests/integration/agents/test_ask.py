import asyncio
from decimal import Decimal

import pytest
from pydantic import ValidationError

from backstay.agents import AnswerNotFound, stream_of
from backstay.kernel.errors import TenantMismatch
from backstay.kernel.ids import new_id
from backstay.kernel.principal import Principal
from backstay.streams import StreamNotFound

LEASE = "When does the lease of a silent worker run out?"
EXTRACT = "sim:extract?price=0.02"


async def ask(app, by, question=LEASE, model=EXTRACT, **more):
    return await app.agents.ask(question, collection="pages", model=model, by=by, **more)


async def heard(app, by, asked):
    async with asyncio.timeout(20):
        return [event async for event in app.streams.read(by, asked.stream)]


def text_of(events):
    return "".join(event.data["text"] for event in events if event.type == "text.delta")


async def test_a_question_is_answered_from_the_documents_with_its_sources(app, owner, library, worker):
    asked = await ask(app, owner)
    events = await heard(app, owner, asked)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[0].type == "message.start"
    assert "fifteen seconds" in text_of(events)
    assert [event.type for event in events[-2:]] == ["usage", "done"]
    assert events[-1].data["sources"][0] == {"number": 1, "document": "leases", "heading": ["Leases"]}
    answer = await app.agents.answer(owner, asked.run)
    assert answer.text == text_of(events)
    assert (answer.outcome, answer.model, answer.cost) == ("answered", "sim:extract", Decimal("0.02"))
    assert answer.output_tokens > 0
    assert answer.sources[0]["document"] == "leases"
    assert await app.workflows.result(owner, asked.run) == await app.workflows.result(owner, asked.run)


async def test_answer_audit_event_and_the_end_of_the_stream_stand_together(app, db, owner, library, worker):
    asked = await ask(app, owner)
    await heard(app, owner, asked)
    # the stream has just ended: everything that is committed with its end must be there
    answer = await app.agents.answer(owner, asked.run)
    entries = await app.audit.entries(owner, run=asked.run, limit=50)
    actions = [entry.action for entry in entries]
    assert actions.count("agents.answered") == actions.count("agents.asked") == 1
    assert actions.count("model.call.started") == actions.count("model.call.finished") == 1
    kept = next(entry for entry in entries if entry.action == "agents.answered")
    assert (await app.audit.payload(owner, kept.id))["text"] == answer.text
    emitted = await app.events.page(owner, type="agents.answered")
    assert [event.payload["run"] for event in emitted] == [str(asked.run)]


async def test_the_answer_counts_for_the_feature_ask_or_that_of_the_key(app, owner, library, worker):
    tagged = Principal(owner.tenant, owner.id, owner.name, owner.permissions, owner.key, feature="helpdesk")
    await heard(app, owner, await ask(app, owner))
    await heard(app, owner, await ask(app, tagged))
    spent = {row.name: row.cost for row in await app.gateway.spend(owner, "feature") if row.cost}
    assert spent == {"ask": Decimal("0.02"), "helpdesk": Decimal("0.02")}


async def test_a_question_exists_if_and_only_if_its_transaction_commits(app, owner, library):
    async def ask_and_fail():
        async with app.transaction(owner.tenant) as tx:
            asked.append(await ask(app, owner, tx=tx))
            raise ZeroDivisionError

    asked = []
    with pytest.raises(ZeroDivisionError):
        await ask_and_fail()
    with pytest.raises(StreamNotFound):
        await app.streams.get(owner, asked[0].stream)
    assert await app.workflows.list(owner) == []
    async with app.transaction(owner.tenant) as tx:
        kept = await ask(app, owner, tx=tx)
    assert kept.stream == stream_of(kept.run)
    assert (await app.streams.get(owner, kept.stream)).run == kept.run


async def test_a_cancelled_answer_stops_the_model_and_keeps_what_it_said(app, owner, library, worker):
    asked = await ask(app, owner, model="sim:extract?itl=100ms&tokens=2000")
    seen = []
    async with asyncio.timeout(20):
        async for event in app.streams.read(owner, asked.stream):
            seen.append(event)
            if len(seen) == 5:
                await app.streams.cancel(owner, asked.stream)
    assert seen[-1].type == "cancelled"
    assert len(seen) < 40
    answer = await app.agents.answer(owner, asked.run)
    assert answer.outcome == "cancelled"
    assert answer.text == text_of(seen) != ""
    calls = await app.gateway.calls(owner, run=asked.run)
    assert [call.state for call in calls] == ["finished"]
    assert calls[0].output_tokens < 40


async def test_a_cancel_before_the_run_begins_asks_no_model(app, owner, library, working):
    asked = await ask(app, owner)
    await app.streams.cancel(owner, asked.stream)
    async with working(app):
        events = await heard(app, owner, asked)
    assert events[-1].type == "cancelled"
    assert await app.gateway.calls(owner, run=asked.run) == []


@pytest.mark.parametrize(
    ("collection", "model", "says"),
    [
        ("nothing", EXTRACT, "no collection"),
        ("pages", "sim:nobody", "step model: Model not found: there is no model sim:nobody"),
        ("pages", "nobody:x", "nobody"),
    ],
)
async def test_a_question_that_cannot_be_answered_ends_its_stream_with_the_reason(
    app, owner, library, worker, collection, model, says
):
    asked = await app.agents.ask(LEASE, collection=collection, model=model, by=owner)
    end = (await heard(app, owner, asked))[-1]
    assert (end.type, end.data["code"], end.data["status"]) == ("error", "answer_failed", 500)
    assert says in end.data["detail"]
    with pytest.raises(AnswerNotFound):
        await app.agents.answer(owner, asked.run)
    run = await app.workflows.get(owner, asked.run)
    assert max(step.attempt for step in run.steps) == 1, "there was no point in trying again"


async def test_a_budget_that_has_no_room_ends_the_answer_and_costs_nothing(app, owner, library, worker):
    await app.gateway.budgets.create(owner, "feature", "ask", Decimal("0.01"), "total")
    asked = await ask(app, owner)
    end = (await heard(app, owner, asked))[-1]
    assert end.type == "error"
    assert "budget" in end.data["detail"]
    assert await app.gateway.calls(owner, run=asked.run) == []


async def test_a_limit_that_has_no_room_for_long_ends_the_answer(app, owner, library, worker):
    await app.gateway.limits.create(owner, "feature", "ask", "requests", 0, "day")
    asked = await ask(app, owner)
    end = (await heard(app, owner, asked))[-1]
    assert end.type == "error"
    assert "limit of feature ask" in end.data["detail"]
    assert await app.gateway.calls(owner, run=asked.run) == []


async def test_an_answer_waits_for_a_limit_that_has_room_in_a_moment(app, owner, library, worker):
    await app.gateway.limits.create(owner, "tenant", None, "concurrency", 1)
    long = {"model": "sim:echo?itl=10s", "messages": [{"role": "user", "content": "one two"}]}
    holding = app.gateway.stream(owner, long, feature="other")
    await anext(holding)
    asked = await ask(app, owner)
    async with asyncio.timeout(20):
        while not await app.audit.entries(owner, action="model.call.refused"):  # noqa: ASYNC110 -- a worker commits it
            await asyncio.sleep(0.02)
    await holding.aclose()
    events = await heard(app, owner, asked)
    assert events[-1].type == "done"
    assert (await app.agents.answer(owner, asked.run)).outcome == "answered"


async def test_a_model_that_fails_in_the_middle_is_asked_again_and_the_stream_says_so(
    app, owner, library, worker, monkeypatch
):
    real, broken = app.gateway.stream, []

    async def breaks_once(by, request, **tags):
        if not broken:
            broken.append(True)
            request = request | {"model": "sim:extract?fault=cut:3"}
        async for chunk in real(by, request, **tags):
            yield chunk

    monkeypatch.setattr(app.gateway, "stream", breaks_once)
    asked = await ask(app, owner)
    events = await heard(app, owner, asked)
    restart = next(place for place, event in enumerate(events) if event.data.get("restarted"))
    assert text_of(events[:restart]) != ""
    assert events[restart + 1].type == "message.start"
    answer = await app.agents.answer(owner, asked.run)
    assert answer.text == text_of(events[restart:])
    assert "fifteen seconds" in answer.text
    steps = {step.name: step.attempt for step in (await app.workflows.get(owner, asked.run)).steps}
    assert steps == {"search": 1, "model": 2, "store": 1}


async def test_an_answer_whose_stream_expired_is_stored_all_the_same(app, db, owner, library, working):
    asked = await ask(app, owner)
    async with db.system_tx() as tx:
        await tx.execute("update backstay.stream set expires_at = now() - interval '1 hour'")
    async with working(app):
        await app.workflows.result(owner, asked.run, timeout=20)
    assert "fifteen seconds" in (await app.agents.answer(owner, asked.run)).text


async def test_what_makes_no_sense_is_refused_at_once(app, owner, other_tenant):
    with pytest.raises(ValidationError):
        await ask(app, owner, question="")
    with pytest.raises(ValidationError):
        await ask(app, owner, k=0)
    with pytest.raises(AnswerNotFound):
        await app.agents.answer(owner, new_id())
    async with app.transaction(other_tenant) as tx:
        with pytest.raises(TenantMismatch):
            await ask(app, owner, tx=tx)
