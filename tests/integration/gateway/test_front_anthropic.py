"""The Messages surface through the official Anthropic client, in front of providers of every format."""

import json
from collections.abc import AsyncIterator

import anthropic
import pytest

SAY = [{"role": "user", "content": "one two three four five six seven eight"}]
TOOL = {
    "name": "get_weather",
    "description": "weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
MODELS = ["sim:echo", "openai:sim:echo", "anthropic:sim:echo", "gemini:sim:echo"]


@pytest.fixture
async def client(url: str, household) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key=household.key, base_url=url, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", MODELS)
async def test_a_plain_answer(client, model):
    answer = await client.messages.with_raw_response.create(model=model, messages=SAY, max_tokens=100)
    assert answer.headers["request-id"]
    assert answer.headers["backstay-call"]
    said = await answer.parse()
    assert (said.content[0].text, said.stop_reason, said.model) == (SAY[0]["content"], "end_turn", "sim:echo")
    assert said.usage.output_tokens == 8


@pytest.mark.parametrize("model", MODELS)
async def test_a_streamed_answer(client, rows, model):
    async with client.messages.stream(model=model, messages=SAY, max_tokens=100) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        said = await stream.get_final_message()
    assert text == SAY[0]["content"]
    assert (said.stop_reason, said.usage.output_tokens) == ("end_turn", 8)
    [call] = await rows("select outcome, output_tokens, streamed from backstay.call")
    assert call == {"outcome": "ok", "output_tokens": 8, "streamed": True}


@pytest.mark.parametrize("model", ["sim:tools", "openai:sim:tools", "anthropic:sim:tools", "gemini:sim:tools"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_pass_both_ways(client, model, streamed):
    talk = [{"role": "user", "content": "What is the weather in Oslo?"}]

    async def ask():
        if not streamed:
            return await client.messages.create(model=model, messages=talk, tools=[TOOL], max_tokens=100)
        async with client.messages.stream(model=model, messages=talk, tools=[TOOL], max_tokens=100) as stream:
            return await stream.get_final_message()

    said = await ask()
    assert said.stop_reason == "tool_use"
    [call] = [block for block in said.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", {"city": talk[0]["content"]})
    talk.append({"role": "assistant", "content": [block.to_dict() for block in said.content]})
    talk.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]})
    said = await ask()
    assert said.content[0].text == "The tool answered: rain"


async def test_bytes_pass_as_they_are_between_the_same_formats(client, provider):
    body = {"top_k": 3, "shiny": {"new": [1.5, None]}}
    system = [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}]
    async with client.messages.stream(
        model="anthropic:sim:echo", messages=SAY, max_tokens=9, system=system, extra_body=body
    ) as stream:
        await stream.get_final_message()
    sent = json.loads(provider.received[0])
    assert sent == {"model": "sim:echo", "messages": SAY, "max_tokens": 9, "system": system, "stream": True, **body}


@pytest.mark.parametrize("model", ["openai:sim:echo", "anthropic:sim:echo", "gemini:sim:echo"])
async def test_an_error_before_and_in_the_middle_is_raised(client, model):
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(model=f"{model}?fault=status:503", messages=SAY, max_tokens=9)
    assert caught.value.status_code == 503
    assert caught.value.body["error"]["type"] == "overloaded_error"
    text = ""
    with pytest.raises(anthropic.APIStatusError):
        async with client.messages.stream(model=f"{model}?itl=10ms&fault=cut:3", messages=SAY, max_tokens=99) as stream:
            async for piece in stream.text_stream:
                text += piece
    assert text == "one two three"


@pytest.mark.parametrize(
    ("model", "status"), [("anthropic:sim:echo", 529), ("openai:sim:echo", 503), ("gemini:sim:echo", 503)]
)
async def test_an_overloaded_provider_is_told_as_one(client, model, status):
    """The wait is longer than the deadline, so that it is passed on."""
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(model=f"{model}?fault=status:529:700s", messages=SAY, max_tokens=9)
    assert caught.value.status_code == status
    assert caught.value.body["error"]["type"] == "overloaded_error"
    assert caught.value.response.headers["retry-after"] == "700"


async def test_what_is_wrong_is_told_in_the_clients_words(client):
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        await client.messages.create(model="sim:echo", messages=SAY, extra_body={"max_tokens": None}, max_tokens=1)
    with pytest.raises(anthropic.NotFoundError, match="no model 'nobody:x'"):
        await client.messages.create(model="nobody:x", messages=SAY, max_tokens=1)
    with pytest.raises(anthropic.AuthenticationError):
        await client.with_options(api_key="bs_wrong").messages.create(model="sim:echo", messages=SAY, max_tokens=1)
    with pytest.raises(anthropic.BadRequestError, match="web_search"):
        await client.messages.create(
            model="openai:sim:echo",
            messages=SAY,
            max_tokens=1,
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        )


async def test_a_client_that_leaves_cancels_the_provider(client, provider):
    async with client.messages.stream(
        model="anthropic:sim:echo?itl=20ms&tokens=1000", messages=SAY, max_tokens=2000
    ) as stream:
        async for _ in stream.text_stream:
            break
    await provider.wait_for(cancelled=1)


async def test_silence_is_bridged(client, provider):
    async with client.messages.stream(model="sim:echo?ttft=600ms", messages=SAY, max_tokens=20) as stream:
        assert (await stream.get_final_text()) == SAY[0]["content"]


async def test_models_are_listed_in_its_own_shape(client):
    models = [model.id async for model in client.models.list()]
    assert "sim:echo" in models
    assert (await client.models.retrieve("sim:echo")).id == "sim:echo"


@pytest.mark.parametrize(("model", "exact"), [("anthropic:sim:echo", True), ("openai:sim:echo", False)])
async def test_tokens_are_counted(client, provider, model, exact):
    counted = await client.messages.count_tokens(model=model, messages=SAY)
    assert counted.input_tokens > 5
    assert provider.requests == exact


async def test_what_a_providers_format_cannot_say_is_the_callers_error_and_leaves_nothing(client, rows, caplog):
    with pytest.raises(anthropic.BadRequestError, match="web_search"):
        async with client.messages.stream(
            model="openai:sim:echo",
            messages=SAY,
            max_tokens=9,
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        ) as stream:
            await stream.get_final_message()
    assert await rows("select state, outcome, cost from backstay.call") == [
        {"state": "finished", "outcome": "failed", "cost": 0}
    ]
    assert await rows("select 1 as one from backstay.hold") == []
    assert "a call broke" not in caplog.text
