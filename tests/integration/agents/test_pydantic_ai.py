"""Agents of pydantic-ai inside runs, by the simulator's scripts."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from pydantic import BaseModel

pytest.importorskip("pydantic_ai", reason="the extra `pydantic-ai` is not installed")

from pydantic_ai import (
    Agent,
    BinaryContent,
    DeferredToolRequests,
    DeferredToolResults,
    ModelRetry,
    NativeOutput,
    RunContext,
    ToolReturn,
    UsageLimits,
    VideoUrl,
)
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ModelMessagesTypeAdapter, ToolReturnPart

from backstay.agents import AgentStopped, ToolError, stream_of
from backstay.agents.pydantic_ai import tool_context
from backstay.gateway.service import Gateway
from backstay.kernel.errors import ConfigurationError
from backstay.workflows import Run, RunFailed, StepFailed

SCRIPT = "sim:script?price=0.01"
PICTURE = b"\x89PNG\r\n\x1a\n"


class Ask(BaseModel):
    text: str = "How is Paris?"


class Sky(BaseModel):
    city: str
    clear: bool


def plays(*steps: dict[str, Any], **options: Any) -> Agent[Any, Any]:
    """An agent whose model says this, one step a turn."""
    return Agent(name="desk", instructions=json.dumps({"script": steps}), **options)


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool": tool, "arguments": arguments}


def say(text: str) -> dict[str, Any]:
    return {"content": text}


def sky(city: str) -> dict[str, str]:
    """How the sky is over a city."""
    return {"city": city, "sky": "clear"}


@pytest.fixture
def start(app, owner):
    """Starts a workflow whose code is `body(run, durable)`, with an agent made durable."""
    number = count()

    async def start(agent: Agent[Any, Any], body: Callable[[Run, Any], Any], *, by=owner, **how: Any):
        durable = app.durable(agent, model=SCRIPT)

        @app.workflow(name=f"work{next(number)}")
        async def work(run: Run, ask: Ask) -> Any:
            return await body(run, durable)

        return await work.start(Ask(), by=by, **how)

    return start


async def output(run: Run, durable: Any) -> Any:
    return (await durable.run(run, "How is Paris?")).output


async def steps_of(app, by, run):
    return [(step.name, step.state) for step in (await app.workflows.get(by, run.id)).steps]


async def test_the_output_is_typed_and_each_model_request_and_tool_call_is_a_step(app, owner, start, worker):
    final = call("final_result", city="Paris", clear=True)
    agent = plays(call("sky", city="Paris"), final, tools=[sky], output_type=Sky)
    seen = []

    async def body(run, durable):
        seen.append((await durable.run(run, "How is Paris?")).output)
        return seen[-1]

    run = await start(agent, body)
    assert await run.result() == {"city": "Paris", "clear": True}
    assert seen == [Sky(city="Paris", clear=True)]
    assert await steps_of(app, owner, run) == [
        ("now", "completed"),
        ("model:1", "completed"),
        ("tool:sky:2", "completed"),
        ("model:3", "completed"),
    ]
    spent = await app.gateway.spend(owner, "feature")
    assert [(row.name, row.cost) for row in spent] == [("desk", Decimal("0.02"))]


async def test_native_output_asks_for_json_of_the_schema(app, start, worker):
    agent = plays(say('{"city": "Paris", "clear": false}'), output_type=NativeOutput(Sky))
    run = await start(agent, output)
    assert await run.result() == {"city": "Paris", "clear": False}


async def test_tool_calls_are_audited_and_told_to_the_stream_with_what_the_model_says(app, owner, start, worker):
    run = await start(plays(call("sky", city="Paris"), say("Clear."), tools=[sky]), output)
    assert await run.result() == "Clear."
    events = [event async for event in app.streams.read(owner, stream_of(run.id))]
    kinds = [event.type for event in events if event.type != "text.delta"]
    assert kinds == ["message.start", "tool.call", "usage", "tool.result", "message.start", "usage", "done"]
    assert "".join(event.data["text"] for event in events if event.type == "text.delta") == "Clear."
    entries = await app.audit.entries(owner, run=run.id, limit=50)
    first = (await app.gateway.calls(owner, run=run.id))[-1].id
    began = next(entry for entry in entries if entry.action == "tool.call.started")
    assert (began.resource, began.call_id) == ("tool:sky", first)


async def test_a_replay_repeats_no_step_and_gives_messages_that_are_the_same(app, owner, start, worker):
    made, attempts = [], []

    def pay(what: str) -> ToolReturn:
        made.append((what, tool_context().idempotency_key))
        picture = BinaryContent(PICTURE, media_type="image/png")
        return ToolReturn(return_value=[what, picture], metadata={"kept": True})

    both = {"calls": [call("pay", what="rent"), call("pay", what="tax")]}
    agent = plays(both, call("pay", what="tip"), say("Paid."), tools=[pay])

    async def body(run, durable):
        result = await durable.run(run, "Pay.")
        attempts.append(ModelMessagesTypeAdapter.dump_json(result.all_messages()))
        if len(attempts) < 3:
            raise ConnectionError("the worker is gone")
        parts = [part for message in result.all_messages() for part in message.parts]
        [*_, last] = [part for part in parts if isinstance(part, ToolReturnPart)]
        assert [file.data for file in last.files] == [PICTURE]
        assert last.metadata == {"kept": True}
        await run.step(lambda messages: len(messages), result.all_messages(), name="keep")
        return result.output

    run = await start(agent, body)
    assert await run.result(timeout=40) == "Paid."
    assert len(attempts) == 3
    assert len(set(attempts)) == 1
    assert made == [("rent", f"{run.id}:2"), ("tax", f"{run.id}:3"), ("tip", f"{run.id}:5")]
    assert len(await app.gateway.calls(owner, run=run.id)) == 3
    rent, tax = (await app.workflows.get(owner, run.id)).steps[2:4]
    assert rent.finished_at <= tax.started_at


async def test_a_model_retry_goes_back_to_the_model_and_is_not_made_again_in_a_replay(app, owner, start, worker):
    asked = []

    def find(name: str) -> str:
        asked.append(name)
        if name == "Pari":
            raise ModelRetry("No such city; did you mean Paris?")
        if name == "Rome":
            raise ToolFailed("Rome is closed.")
        if name == "Oslo":
            raise ToolError("Oslo is far.")
        return "found\x00"

    wanted = [call("find", name=name) for name in ("Pari", "Rome", "Oslo", "Paris")]
    attempts = []

    async def body(run, durable):
        result = await durable.run(run, "Find it.")
        attempts.append(run.attempt)
        if len(attempts) == 1:
            raise ConnectionError("the worker is gone")
        parts = [part for message in result.all_messages() for part in message.parts]
        return [(part.outcome, part.content) for part in parts if isinstance(part, ToolReturnPart)]

    run = await start(plays(*wanted, say("Found."), tools=[find]), body)
    assert await run.result(timeout=40) == [
        ["retried", "No such city; did you mean Paris?"],
        ["failed", "Rome is closed."],
        ["failed", "Oslo is far."],
        ["success", "found\ufffd"],
    ]
    assert asked == ["Pari", "Rome", "Oslo", "Paris"]


async def test_a_tool_that_fails_is_tried_again_as_its_step(app, owner, start, worker):
    keys = []

    async def flaky() -> str:
        keys.append(tool_context().idempotency_key)
        if len(keys) == 1:
            raise ConnectionError("away")
        return "ok"

    run = await start(plays(call("flaky"), say("Done."), tools=[flaky]), output)
    assert await run.result(timeout=40) == "Done."
    assert keys == [f"{run.id}:2"] * 2
    assert len(await app.gateway.calls(owner, run=run.id)) == 2


async def test_a_budget_without_room_is_a_failed_step_that_the_code_can_catch(app, owner, start, worker):
    agent = plays(*[call("sky", city=str(number)) for number in range(9)], tools=[sky])

    async def catch(run, durable):
        try:
            return await output(run, durable)
        except StepFailed as failure:
            return [failure.step, failure.error]

    run = await start(agent, catch, budget="0.025 USD")
    step, error = await run.result(timeout=20)
    assert step == "model:5"
    assert f"the budget of run {run.id}" in error
    run = await start(agent, output, budget="0.025 USD")
    with pytest.raises(RunFailed, match=f"the budget of run {run.id}, 0.025 USD in total, has no room"):
        await run.result(timeout=20)


async def test_what_pydantic_ai_gives_up_on_stops_the_run_for_good(app, owner, start, worker):
    agent = plays(say("no"), call("final_result", city=1), output_type=Sky)
    run = await start(agent, output)
    with pytest.raises(RunFailed, match="UnexpectedModelBehavior") as failed:
        await run.result(timeout=20)
    assert failed.value.state == "failed"

    async def bounded(run, durable):
        with pytest.raises(AgentStopped, match="UsageLimitExceeded"):
            await durable.run(run, "Go round.", usage_limits=UsageLimits(request_limit=1))
        return "stopped"

    run = await start(plays(call("sky", city="x"), tools=[sky]), bounded)
    assert await run.result(timeout=20) == "stopped"


async def test_dependencies_and_history_are_handed_on(app, owner, start, worker):
    @dataclass
    class Shop:
        name: str

    def shop(ctx: RunContext[Shop]) -> str:
        return ctx.deps.name

    async def body(run, durable):
        first = await durable.run(run, "Where?", deps=Shop("corner"))
        second = await durable.run(run, "And now?", deps=Shop("corner"), message_history=first.all_messages())
        returned = [p.content for m in first.all_messages() for p in m.parts if isinstance(p, ToolReturnPart)]
        return [*returned, first.output, second.output, len(second.new_messages())]

    agent = plays(call("shop"), say("Here."), say("Still here."), tools=[shop], deps_type=Shop)
    run = await start(agent, body)
    assert await run.result() == ["corner", "Here.", "Still here.", 2]


async def test_a_human_decides_between_two_runs_of_the_agent(app, owner, start):
    made = []

    def refund(cents: int) -> str:
        made.append(cents)
        return f"{cents} paid"

    async def body(run, durable):
        first = await durable.run(run, "Refund.")
        [asked] = first.output.approvals
        decision = await run.approve(asked.args_as_dict(), title="refund")
        results = DeferredToolResults(approvals={asked.tool_call_id: decision.approved})
        history = first.all_messages()
        return (await durable.run(run, message_history=history, deferred_tool_results=results)).output

    agent = plays(call("refund", cents=5), say("Done."), output_type=[str, DeferredToolRequests])
    agent.tool_plain(requires_approval=True)(refund)
    run = await start(agent, body)
    await app.jobs.worker().run_until_idle()
    assert made == []
    [asked] = await app.workflows.approvals.list(owner, run=run.id)
    await app.workflows.approvals.approve(owner, asked.id)
    await app.jobs.worker().run_until_idle()
    assert await run.result() == "Done."
    assert made == [5]


async def test_what_cannot_be_passed_on_is_refused_and_says_so(app, start, worker):
    async def body(run, durable):
        with pytest.raises(ConfigurationError, match="model settings timeout cannot be passed on"):
            await durable.run(run, "x", model_settings={"timeout": 1})
        with pytest.raises(Exception, match="a VideoUrl cannot be sent"):
            await durable.run(run, ["x", VideoUrl(url="http://127.0.0.1:1/x.mp4")])
        return "refused"

    run = await start(plays(say("x")), body)
    assert await run.result() == "refused"
    with pytest.raises(ConfigurationError, match="while they are called"):
        tool_context()


async def test_settings_tools_and_pictures_reach_the_model(app, start, worker, monkeypatch):
    sent = []
    stream = Gateway.stream

    def spied(self, by, request, **more):
        sent.append(request)
        return stream(self, by, request, **more)

    monkeypatch.setattr(Gateway, "stream", spied)

    async def body(run, durable):
        picture = BinaryContent(PICTURE, media_type="image/png")
        settings = {"temperature": 0.5, "stop_sequences": ["."], "extra_body": {"reasoning_effort": "low"}}
        result = await durable.run(run, ["Look.", picture], model_settings=settings)
        return result.output.model_dump()

    run = await start(plays(call("final_result", city="Paris", clear=True), tools=[sky], output_type=Sky), body)
    assert (await run.result())["city"] == "Paris"
    [body] = sent
    assert (body["temperature"], body["stop"], body["reasoning_effort"]) == (0.5, ["."], "low")
    assert [tool["function"]["name"] for tool in body["tools"]] == ["sky", "final_result"]
    assert body["tool_choice"] == "required"
    assert body["messages"][1]["content"][0] == {"type": "text", "text": "Look."}
    assert body["messages"][1]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")


async def test_an_agent_acts_for_who_started_the_run_and_no_other_tenant_sees_it(
    app, owner, other_owner, start, worker
):
    seen = []

    def whose() -> str:
        seen.append(tool_context().by.tenant)
        return "done"

    agent = plays(call("whose"), say("Done."), tools=[whose])
    run = await start(agent, output, by=other_owner)
    assert await run.result() == "Done."
    assert seen == [other_owner.tenant]
    assert len(await app.gateway.calls(other_owner, run=run.id)) == 2
    assert await app.gateway.calls(owner, run=run.id) == []
    assert await app.audit.entries(owner, run=run.id) == []


async def test_an_event_handler_of_the_agent_hears_each_answer(app, start, worker):
    heard = []

    async def handle(ctx, events):
        heard.extend([event.event_kind async for event in events])

    agent = plays(call("sky", city="Paris"), say("Clear."), tools=[sky])

    async def body(run, durable):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(agent, "_event_stream_handler", handle)
            return await output(run, durable)

    run = await start(agent, body)
    assert await run.result() == "Clear."
    assert {"part_start", "function_tool_call", "function_tool_result"} <= set(heard)


def test_without_the_extra_the_error_names_it(app, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("backstay.agents.pydantic_ai")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydantic_ai", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'backstay\[pydantic-ai\]'"):
        app.durable(Agent(), model=SCRIPT)
