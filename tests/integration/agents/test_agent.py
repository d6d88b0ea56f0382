"""Agents: the loop over model and tool calls, by the simulator's scripts."""

import asyncio
import json
from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import BaseModel

from backstay.agents import LoopDetected, StepsExhausted, TokensExhausted, ToolContext, ToolError, stream_of
from backstay.kernel.errors import BadRequest, ConfigurationError
from backstay.streams import StreamNotFound
from backstay.workflows import Run, RunFailed

SCRIPT = "sim:script?price=0.01"


def script(*steps: dict[str, object]) -> str:
    return json.dumps({"script": steps})


def call(tool: str, **arguments: object) -> dict[str, object]:
    return {"tool": tool, "arguments": arguments}


def calls(*several: dict[str, object]) -> dict[str, object]:
    return {"calls": several}


def say(text: str) -> dict[str, object]:
    return {"content": text}


LOOK_AND_SAY = script(call("weather", city="Paris"), say("Clear in Paris."))


async def heard(app, by, stream):
    async with asyncio.timeout(20):
        return [event async for event in app.streams.read(by, stream)]


async def steps_of(app, by, run):
    return [(step.name, step.state) for step in (await app.workflows.get(by, run)).steps]


@pytest.fixture
def weather(app):
    @app.tool
    async def weather(city: str) -> dict[str, str]:
        """How the weather is in a city."""
        return {"city": city, "sky": "clear"}

    return weather


async def test_each_model_call_and_each_tool_call_is_a_step_and_the_answer_is_what_the_model_says_at_last(
    app, owner, weather, worker
):
    desk = app.agent(
        "desk",
        model=SCRIPT,
        tools=[weather],
        instructions=script(call("weather", city="Paris"), say("Clear in Paris.")),
    )
    started = await desk.start("How is Paris?", by=owner)
    result = await started.result()
    assert (result.output, result.model, result.steps, result.cost) == (
        "Clear in Paris.",
        "sim:script",
        3,
        Decimal("0.02"),
    )
    assert await steps_of(app, owner, started.id) == [
        ("model:1", "completed"),
        ("tool:weather:2", "completed"),
        ("model:3", "completed"),
    ]
    assert [message["role"] for message in result.messages] == ["user", "assistant", "tool", "assistant"]
    assert json.loads(result.messages[2]["content"]) == {"city": "Paris", "sky": "clear"}


async def test_the_stream_tells_of_everything_in_order_and_ends_with_the_run(app, owner, weather, worker):
    desk = app.agent(
        "desk",
        model=SCRIPT,
        tools=[weather],
        instructions=script(call("weather", city="Paris"), say("Clear in Paris.")),
    )
    started = await desk.start("How is Paris?", by=owner)
    events = await heard(app, owner, started.stream)
    told = [event.type for event in events if event.type != "text.delta"]
    assert told == ["message.start", "tool.call", "usage", "tool.result", "message.start", "usage", "done"]
    asked, got = (next(event for event in events if event.type == type) for type in ("tool.call", "tool.result"))
    assert (asked.data["name"], asked.data["arguments"]) == ("weather", {"city": "Paris"})
    assert (got.data["id"], got.data["outcome"]) == (asked.data["id"], "ok")
    assert "".join(event.data["text"] for event in events if event.type == "text.delta") == "Clear in Paris."
    # what is committed with the end of the stream is there when it has been read
    assert (await app.workflows.get(owner, started.id)).state == "completed"
    half = [event async for event in app.streams.read(owner, started.stream, after=events[3].seq)]
    assert half == events[4:]


async def test_a_tool_call_is_audited_before_and_after_with_its_model_call_and_its_content_sealed(
    app, owner, weather, worker
):
    desk = app.agent(
        "desk", model=SCRIPT, tools=[weather], instructions=script(call("weather", city="Paris"), say("Clear."))
    )
    started = await desk.start("How is Paris?", by=owner)
    await started.result()
    entries = await app.audit.entries(owner, run=started.id, limit=50)
    began = next(entry for entry in entries if entry.action == "tool.call.started")
    ended = next(entry for entry in entries if entry.action == "tool.call.finished")
    first_call = (await app.gateway.calls(owner, run=started.id))[-1].id
    assert (began.resource, began.call_id, ended.call_id) == ("tool:weather", first_call, first_call)
    assert json.loads((await app.audit.payload(owner, began.id))["arguments"]) == {"city": "Paris"}
    assert json.loads((await app.audit.payload(owner, ended.id))["result"])["sky"] == "clear"
    assert "Paris" not in json.dumps([began.metadata, ended.metadata])


async def test_calls_of_one_turn_run_at_the_same_time_as_steps_of_their_own(app, owner, worker):
    meeting = asyncio.Barrier(3)

    @app.tool
    async def meet(name: str) -> str:
        async with asyncio.timeout(10):
            await meeting.wait()
        return name

    together = calls(*[call("meet", name=name) for name in "abc"])
    desk = app.agent("desk", model=SCRIPT, tools=[meet], instructions=script(together, say("They met.")))
    started = await desk.start("Meet.", by=owner)
    result = await started.result()
    assert [name for name, _ in await steps_of(app, owner, started.id)] == [
        "model:1",
        "tool:meet:2",
        "tool:meet:3",
        "tool:meet:4",
        "model:5",
    ]
    assert [message["content"] for message in result.messages if message["role"] == "tool"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (call("weather", city=5), "- city: Input should be a valid string"),
        (call("weather"), "- city: Field required"),
        ({"tool": "weather", "arguments": "{not json"}, "The arguments are wrong"),
        (call("whether", city="Paris"), "There is no tool 'whether'. There are: weather."),
    ],
)
async def test_a_call_that_cannot_be_made_goes_back_to_the_model(app, owner, weather, worker, wrong, told):
    desk = app.agent("desk", model=SCRIPT, tools=[weather], instructions=script(wrong, say("Sorry.")))
    started = await desk.start("How is Paris?", by=owner)
    result = await started.result()
    assert told in result.messages[2]["content"]
    assert result.output == "Sorry."
    entries = await app.audit.entries(owner, run=started.id, limit=50)
    refused = [(entry.action, entry.outcome) for entry in entries if entry.action.startswith("tool.")]
    assert refused == [("tool.call.refused", "invalid")]


async def test_a_tool_that_says_why_it_failed_is_called_once_and_the_model_goes_on(app, owner, worker):
    count = 0

    @app.tool
    def pay(amount: int) -> str:
        nonlocal count
        count += 1
        raise ToolError("the card was refused")

    desk = app.agent("desk", model=SCRIPT, tools=[pay], instructions=script(call("pay", amount=5), say("Refused.")))
    result = await (await desk.start("Pay.", by=owner)).result()
    assert (result.messages[2]["content"], count) == ("the card was refused", 1)


async def test_a_tool_knows_its_run_and_gets_the_key_of_its_step(app, owner, worker):
    seen = []

    @app.tool
    async def look(context: ToolContext, idempotency_key: str) -> str:
        seen.append((context.by.name, context.run, context.idempotency_key, idempotency_key))
        return "seen"

    desk = app.agent("desk", model=SCRIPT, tools=[look], instructions=script(call("look"), say("Done.")))
    started = await desk.start("Look.", by=owner)
    await started.result()
    assert seen == [(owner.name, started.id, f"{started.id}:1", f"{started.id}:1")]


class Ticket(BaseModel):
    text: str


async def test_an_agent_answers_inside_a_workflow_with_the_conversation_before(app, owner, weather, worker):
    desk = app.agent(
        "desk",
        model=SCRIPT,
        tools=[weather],
        instructions=script(call("weather", city="Paris"), say("Clear."), say("No.")),
    )

    @app.workflow
    async def answer(run: Run, ticket: Ticket) -> list[str]:
        talk: list[dict[str, object]] = []
        first = await desk.reply(run, ticket.text, history=talk)
        second = await desk.reply(run, "Will it rain?", history=talk)
        return [first, second, str(len(talk))]

    run = await answer.start(Ticket(text="How is Paris?"), by=owner)
    assert await run.result() == ["Clear.", "No.", "6"]
    assert [name for name, _ in await steps_of(app, owner, run.id)] == [
        "model:1",
        "tool:weather:2",
        "model:3",
        "model:1",
    ]
    events = await heard(app, owner, stream_of(run.id))
    assert [event.type for event in events].count("done") == 1
    assert events[-1].type == "done"


class Weather(BaseModel):
    city: str
    degrees: int


async def test_an_answer_comes_as_the_output_that_was_asked_for(app, owner, worker):
    desk = app.agent("desk", model="sim:json", output=Weather)
    result = await (await desk.start("Paris has 21 degrees", by=owner)).result()
    assert result.output == {"city": "Paris has 21 degrees", "degrees": 21}


async def test_an_answer_that_does_not_fit_is_told_and_then_mended_or_given_up(app, owner, worker):
    mended = script(say("Warm."), say('{"city": "Paris", "degrees": 21}'))
    good = app.agent("good", model=SCRIPT, output=Weather, instructions=mended)
    result = await (await good.start("Paris?", by=owner)).result()
    assert result.output == {"city": "Paris", "degrees": 21}
    assert "Your answer does not fit the schema" in result.messages[2]["content"]
    bad = app.agent("bad", model=SCRIPT, output=Weather, instructions=script(say("Warm.")))
    started = await bad.start("Paris?", by=owner)
    with pytest.raises(RunFailed, match="OutputInvalid"):
        await started.result()
    assert len(await steps_of(app, owner, started.id)) == 3


async def failed(app, owner, desk):
    started = await desk.start("Go.", by=owner)
    with pytest.raises(RunFailed) as caught:
        await started.result()
    events = await heard(app, owner, started.stream)
    assert events[-1].type == "error"
    assert (await app.workflows.get(owner, started.id)).attempt == 1  # nothing is tried again
    return str(caught.value), await steps_of(app, owner, started.id)


async def test_a_model_that_repeats_a_call_is_stopped_and_the_call_is_named(app, owner, weather, worker):
    again = {"tool": "weather", "arguments": ' {"city":  "Paris"}'}
    circle = script(call("weather", city="Paris"), again)
    desk = app.agent("desk", model=SCRIPT, tools=[weather], instructions=circle, max_repeats=2)
    error, steps = await failed(app, owner, desk)
    assert LoopDetected.__name__ in error
    assert 'weather with the same arguments  {"city":  "Paris"}' in error
    assert [name for name, _ in steps].count("tool:weather:2") == 1
    assert len(steps) == 5


async def test_an_agent_stops_at_its_steps_its_tokens_and_its_deadline(app, owner, weather, worker):
    busy = script(*[call("weather", city=f"City {number}") for number in range(20)], say("Done."))
    make = {"model": SCRIPT, "tools": [weather], "instructions": busy}
    error, steps = await failed(app, owner, app.agent("steps", max_steps=4, **make))
    assert (StepsExhausted.__name__ in error, len(steps)) == (True, 4)
    error, steps = await failed(app, owner, app.agent("tokens", max_tokens=1, **make))
    assert (TokensExhausted.__name__ in error, len(steps)) == (True, 1)
    error, steps = await failed(app, owner, app.agent("deadline", deadline=timedelta(microseconds=1), **make))
    assert "DeadlinePassed" in error
    assert [name for name, _ in steps] == ["now", "now"]


async def test_a_turn_with_more_calls_than_steps_are_left_makes_none_of_them(app, owner, worker):
    made = []

    @app.tool
    def pay(amount: int) -> str:
        made.append(amount)
        return "paid"

    many = calls(*[call("pay", amount=amount) for amount in range(5)])
    desk = app.agent("desk", model=SCRIPT, tools=[pay], instructions=script(many, say("Done.")), max_steps=3)
    error, _ = await failed(app, owner, desk)
    assert (StepsExhausted.__name__ in error, made) == (True, [])


async def test_a_stream_that_is_cancelled_stops_the_model_and_cancels_the_run(app, owner, worker):
    desk = app.agent("desk", model="sim:echo?tokens=10000&itl=20ms")
    started = await desk.start("Talk for long.", by=owner)
    with await app.streams.reader(owner, started.stream) as reader:
        async with asyncio.timeout(10):
            while not await reader.page(timeout=5):
                pass
    await app.streams.cancel(owner, started.stream)
    events = await heard(app, owner, started.stream)
    assert events[-1].type == "cancelled"
    with pytest.raises(RunFailed, match="cancelled"):
        await started.result()


async def test_a_run_of_an_agent_exists_if_and_only_if_its_transaction_commits(app, owner):
    desk = app.agent("desk", model=SCRIPT)
    with pytest.raises(ZeroDivisionError):
        async with app.transaction(owner.tenant) as tx:
            started = await desk.start("Hello.", by=owner, tx=tx)
            raise ZeroDivisionError
    with pytest.raises(StreamNotFound):
        await app.streams.get(owner, started.stream)
    assert await app.workflows.list(owner) == []


async def test_agents_that_cannot_be_say_why(app, owner, weather):
    app.agent("desk", model=SCRIPT)
    for options, told in [
        ({"name": "desk"}, "called desk already"),
        ({"name": "a b"}, "is no name for an agent"),
        ({"name": "x", "tools": [weather, weather]}, "two tools of the agent are called weather"),
        ({"name": "x", "max_steps": 0}, "max_steps of the agent x must be at least 1"),
        ({"name": "x", "parameters": {"messages": []}}, "sets messages itself"),
    ]:
        with pytest.raises(ConfigurationError, match=told):
            app.agent(**options, model=SCRIPT)
    with pytest.raises(BadRequest, match="no conversation"):
        await app.agent("y", model=SCRIPT).start("Hello", history=[{"role": "king"}], by=owner)
    with pytest.raises(ConfigurationError, match="which tenant"):
        await app.agent("z", model=SCRIPT).start("Hello")


async def test_agents_over_http(app, client, other_client, weather, worker):
    app.agent("desk", model=SCRIPT, tools=[weather], instructions=script(call("weather", city="Paris"), say("Clear.")))
    [listed] = (await client.get("/api/agents")).json()
    assert (listed["name"], listed["tools"][0]["parameters"]["required"]) == ("desk", ["city"])
    answer = await client.post("/api/agents/desk/runs", json={"text": "How is Paris?", "key": "one"})
    assert answer.status_code == 202
    started = answer.json()
    async with asyncio.timeout(20), client.stream("GET", started["events_url"]) as events:
        lines = [line async for line in events.aiter_lines()]
    assert "event: done" in lines
    run = (await client.get(started["run_url"])).json()
    assert run["output"]["output"] == "Clear."
    assert (await client.post("/api/agents/desk/runs", json={"text": "Again", "key": "one"})).json() == started
    assert (await other_client.get(started["run_url"])).status_code == 404
    assert (await other_client.get(started["events_url"])).status_code == 404
    assert (await client.post("/api/agents/desk/runs", json={"text": ""})).status_code == 422
    wrong = await client.post("/api/agents/desk/runs", json={"text": "x", "history": [{"role": "king"}]})
    assert wrong.status_code == 400
    missing = await client.post("/api/agents/nobody/runs", json={"text": "x"})
    assert (missing.status_code, missing.json()["code"]) == (404, "agent_not_found")
