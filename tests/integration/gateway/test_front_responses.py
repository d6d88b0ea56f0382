"""The Responses surface through the official OpenAI client, in front of providers of every format."""

import json
from collections.abc import AsyncIterator

import openai
import pytest
from pydantic import BaseModel

from backstay.gateway import Timeouts
from backstay.gateway.pricing import Prices
from backstay.gateway.providers.account import Account
from backstay.gateway.providers.table import KINDS
from backstay.gateway.upstream import Upstream

SAY = "one two three four five six seven eight"
MODELS = ["sim:echo", "openai:sim:echo", "anthropic:sim:echo", "gemini:sim:echo"]
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture
async def client(url: str, household) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=household.key, base_url=f"{url}/v1", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", MODELS)
async def test_a_plain_answer(client, model):
    answer = await client.responses.create(model=model, input=SAY)
    assert (answer.output_text, answer.status, answer.model) == (SAY, "completed", "sim:echo")
    assert answer.usage.output_tokens == 8


@pytest.mark.parametrize("model", MODELS)
async def test_a_streamed_answer_has_its_events_in_order(client, rows, model):
    events = [event async for event in await client.responses.create(model=model, input=SAY, stream=True)]
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == sorted({event.sequence_number for event in events})
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SAY
    assert events[-1].response.usage.output_tokens == 8
    [call] = await rows("select outcome, output_tokens, streamed from backstay.call")
    assert call == {"outcome": "ok", "output_tokens": 8, "streamed": True}


@pytest.mark.parametrize("model", ["sim:tools", "openai:sim:tools", "anthropic:sim:tools", "gemini:sim:tools"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_pass_both_ways(client, model, streamed):
    talk = [{"role": "user", "content": "What is the weather in Oslo?"}]

    async def ask():
        if not streamed:
            return await client.responses.create(model=model, input=talk, tools=[TOOL])
        async with client.responses.stream(model=model, input=talk, tools=[TOOL]) as stream:
            return await stream.get_final_response()

    answer = await ask()
    [call] = [item for item in answer.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": talk[0]["content"]})
    talk += [item.to_dict() for item in answer.output]
    talk.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
    assert (await ask()).output_text == "The tool answered: rain"


@pytest.mark.parametrize("model", ["openai:sim:echo", "anthropic:sim:echo", "gemini:sim:echo"])
async def test_an_error_before_and_in_the_middle_is_raised(client, model):
    with pytest.raises(openai.InternalServerError):
        await client.responses.create(model=f"{model}?fault=status:503", input=SAY)
    text = ""
    with pytest.raises(openai.APIError):
        async for event in await client.responses.create(model=f"{model}?itl=10ms&fault=cut:3", input=SAY, stream=True):
            text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == "one two three"


class City(BaseModel):
    name: str


async def test_structured_output_is_parsed(client):
    answer = await client.responses.parse(model="sim:echo", input='{"name": "Oslo"}', text_format=City)
    assert answer.output_parsed == City(name="Oslo")


async def test_what_needs_openais_memory_is_refused_by_name(client):
    for field in ("previous_response_id", "conversation"):
        with pytest.raises(openai.BadRequestError, match=field):
            await client.responses.create(model="sim:echo", input=SAY, extra_body={field: "resp_1"})
    with pytest.raises(openai.BadRequestError, match="background"):
        await client.responses.create(model="openai:sim:echo", input=SAY, background=True)


async def test_same_format_passes_as_it_came(make_gateway, provider, owner):
    async with Upstream(Timeouts()) as upstream:
        account = Account(KINDS["openai"], upstream, Prices("0"), None, provider.url, wires=("openai-responses",))
        gateway = await make_gateway(providers=[account])
        body = {"model": "openai:sim:echo", "input": SAY, "shiny": [1.5, None]}
        reply = await gateway.answer(await gateway.order(owner, "openai-responses", "chat", body, feature="f"))
        assert json.loads(provider.received[0]) == {**body, "model": "sim:echo"}
        assert reply.body["object"] == "response"
        order = await gateway.order(owner, "openai-responses", "chat", {**body, "stream": True}, feature="f")
        frames = [chunk.frame async for group in gateway.chunks(order) for chunk in group]
        assert frames[0].startswith(b"event: response.created\ndata: {")
        assert frames[-1].startswith(b"event: response.completed\ndata: {")
