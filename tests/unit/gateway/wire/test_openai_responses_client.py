"""OpenAI's own client against a server that speaks with this format's voice, on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import orjson
import pytest
from aiohttp import web
from pydantic import BaseModel

from backstay.gateway.dialogue import (
    Began,
    RefusalDelta,
    Said,
    Stop,
    Stopped,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolCall,
    ToolDelta,
    ToolResult,
)
from backstay.gateway.errors import BudgetExceeded, StreamCut
from backstay.gateway.models import Usage
from backstay.gateway.wire.responses import OpenAIResponses
from backstay.kernel.errors import BackstayError

wire = OpenAIResponses()
BEGAN = Began("msg_01", "claude-sonnet-4-5", created=1741290958)
USAGE = Usage(30, 12, 10, 4)
THOUGHT = (ThinkingDelta(0, "Hm, so"), ThinkingDelta(0, " be it."), ThinkingDelta(0, "", "EqoB", origin="anthropic"))
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": SCHEMA, "strict": True}


class City(BaseModel):
    name: str
    people: int


class _Server:
    """Answers with `deltas`, whole or as a stream, and fails with `error`: before them when there are none, after them
    otherwise. `asked` holds what was understood of each request."""

    def __init__(self, *deltas, error: BackstayError | None = None) -> None:
        self._deltas, self._error = deltas, error
        self.asked = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except BackstayError as error:
            data = wire.error_body(error)
            return web.Response(body=data, status=error.status, headers={**error.headers, **_JSON})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        seen = wire.check(body)
        self.asked.append(wire.read(body))
        if self._error is not None and not self._deltas:
            raise self._error
        if not seen.stream:
            return web.Response(body=orjson.dumps(wire.write_answer(_whole(self._deltas))), headers=_JSON)
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        writer = wire.writer(seen)
        for delta in (BEGAN, *self._deltas):
            await answer.write(b"".join(wire.frame(event) for event in writer.feed([delta])) + wire.ping())
        if self._error is not None:
            await answer.write(wire.error_event(self._error, USAGE))
        else:
            await answer.write(b"".join(wire.frame(event) for event in writer.end(USAGE)) + wire.end_mark)
        return answer


_JSON = {"content-type": "application/json"}


def _whole(deltas) -> Said:
    parts, stop = {}, None
    for delta in deltas:
        if isinstance(delta, Stopped):
            stop = delta.stop
            continue
        former = parts.get(delta.block)
        if isinstance(delta, TextDelta):
            parts[delta.block] = Text((former.text if former else "") + delta.text)
        elif isinstance(delta, ThinkingDelta):
            text = (former.text if former else "") + delta.text
            parts[delta.block] = Thinking(text, delta.signature, origin=delta.origin)
        elif isinstance(delta, ToolBegan):
            parts[delta.block] = ToolCall(delta.id, delta.name, "")
        elif isinstance(delta, ToolDelta):
            parts[delta.block] = ToolCall(former.id, former.name, former.arguments + delta.arguments)
    return Said(BEGAN.id, BEGAN.model, tuple(parts.values()), stop, USAGE, created=BEGAN.created)


@asynccontextmanager
async def serving(server: _Server) -> AsyncIterator[openai.AsyncOpenAI]:
    app = web.Application()
    app.router.add_post("/v1/responses", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with openai.AsyncOpenAI(
            api_key="k", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0, timeout=20
        ) as client:
            yield client
    finally:
        await runner.cleanup()


def said(*words, stop=Stop.END):
    return (*[TextDelta(1, word) for word in words], Stopped(stop))


async def test_a_plain_answer():
    server = _Server(*THOUGHT, *said("Hi", " there"))
    async with serving(server) as client:
        answer = await client.responses.create(model="m", input="Hello", instructions="Be kind.")
    assert (answer.output_text, answer.status, answer.model) == ("Hi there", "completed", "claude-sonnet-4-5")
    assert answer.usage.input_tokens_details.cached_tokens == 10
    assert answer.output[0].summary[0].text == "Hm, so be it."
    assert server.asked[0].system == (Text("Be kind."),)


async def test_a_streamed_answer_event_by_event():
    async with serving(_Server(*THOUGHT, *said("Hi", " there"))) as client:
        stream = await client.responses.create(model="m", input="Hello", stream=True)
        events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hi there"
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "Hi there"
    assert events[-1].response.usage.total_tokens == 42


async def test_the_client_puts_the_same_answer_together_from_the_stream():
    server = _Server(*THOUGHT, *said("Hi", " there"))
    async with serving(server) as client:
        whole = await client.responses.create(model="m", input="Hello")
        async with client.responses.stream(model="m", input="Hello") as stream:
            snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
    assert snapshots == ["Hi", "Hi there"]
    assert final.output_text == whole.output_text
    assert [item.to_dict() for item in whole.output] == [_without_parsed(item.to_dict()) for item in final.output]


def _without_parsed(item):
    for part in item.get("content") or ():
        part.pop("parsed", None)
    return item


async def test_tools_are_called_and_their_results_come_back_with_the_thoughts_before_them():
    calls = (
        ToolBegan(1, "toolu_1", "weather"),
        ToolDelta(1, '{"city": '),
        ToolDelta(1, '"Rome"}'),
        ToolBegan(2, "toolu_2", "weather"),
        ToolDelta(2, '{"city": "Paris"}'),
        Stopped(Stop.TOOL),
    )
    server = _Server(*THOUGHT, *calls)
    async with serving(server) as client:
        async with client.responses.stream(model="m", input="Weather?", tools=[WEATHER]) as stream:
            names = [event.name async for event in stream if event.type == "response.function_call_arguments.done"]
            final = await stream.get_final_response()
        found = [item for item in final.output if item.type == "function_call"]
        results = [{"type": "function_call_output", "call_id": item.call_id, "output": "sunny"} for item in found]
        history = [{"role": "user", "content": "Weather?"}, *final.output, *results]
        await client.responses.create(model="m", input=history, tools=[WEATHER])
    assert names == ["weather", "weather"]
    assert [item.parsed_arguments for item in found] == [{"city": "Rome"}, {"city": "Paris"}]
    assert server.asked[1].turns[1].parts == (
        Thinking("Hm, so be it.", "EqoB", origin="anthropic"),
        ToolCall("toolu_1", "weather", '{"city": "Rome"}'),
        ToolCall("toolu_2", "weather", '{"city": "Paris"}'),
    )
    assert server.asked[1].turns[2].parts == (
        ToolResult("toolu_1", (Text("sunny"),), "weather"),
        ToolResult("toolu_2", (Text("sunny"),), "weather"),
    )


async def test_structured_output_is_parsed_whole_and_streamed():
    server = _Server(*said('{"name": "Rome",', ' "people": 2800000}'))
    async with serving(server) as client:
        whole = await client.responses.parse(model="m", input="A city?", text_format=City)
        async with client.responses.stream(model="m", input="A city?", text_format=City) as stream:
            final = await stream.get_final_response()
    assert whole.output_parsed == final.output_parsed == City(name="Rome", people=2_800_000)
    assert server.asked[0].output.name == "City"
    assert server.asked[0].output.schema["required"] == ["name", "people"]
    assert server.asked[0].output.strict is True


async def test_a_refusal_and_a_cut_reach_the_client_as_such():
    refusal = (RefusalDelta(0, "I can't"), RefusalDelta(0, " do that."), Stopped(Stop.END))
    async with serving(_Server(*refusal)) as client, client.responses.stream(model="m", input="x") as stream:
        final = await stream.get_final_response()
    assert final.output[0].content[0].refusal == "I can't do that."
    async with serving(_Server(*said("Once", stop=Stop.LENGTH))) as client:
        events = [event async for event in await client.responses.create(model="m", input="x", stream=True)]
        whole = await client.responses.create(model="m", input="x")
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == whole.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_answer_raises(stream):
    async with serving(_Server(error=BudgetExceeded("the budget of this key is spent"))) as client:
        with pytest.raises(openai.APIStatusError, match="budget of this key") as caught:
            await client.responses.create(model="m", input="x", stream=stream)
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (
        402,
        "budget_exceeded",
        "insufficient_quota",
    )


async def test_an_error_in_the_middle_of_a_stream_raises_and_tells_what_was_used():
    server = _Server(TextDelta(0, "Once upon"), error=StreamCut("the answer was cut off"))
    async with serving(server) as client:
        seen = []
        with pytest.raises(openai.APIError, match="cut off") as caught:
            async for event in await client.responses.create(model="m", input="x", stream=True):
                seen.append(event.type)
        assert seen[-1] == "response.output_text.delta"
        assert caught.value.body["usage"]["output_tokens"] == 12
        with pytest.raises(openai.APIError, match="cut off"):
            async with client.responses.stream(model="m", input="x") as stream:
                await stream.get_final_response()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_cannot_be_translated_is_refused_by_the_name_of_its_field(stream):
    async with serving(_Server(*said("Hi"))) as client:
        with pytest.raises(openai.BadRequestError, match="send the whole of it as `input`") as caught:
            await client.responses.create(model="m", input="x", previous_response_id="resp_1", stream=stream)
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "bad_request")
