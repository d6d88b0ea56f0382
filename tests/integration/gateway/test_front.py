"""The surface, through a real server and the official OpenAI client."""

import asyncio
import json
from decimal import Decimal

import httpx
import openai
import pytest

from backstay.gateway import Timeouts

SAY = [{"role": "user", "content": "one two three four five six seven eight"}]


@pytest.fixture
async def client(url, household):
    async with openai.AsyncOpenAI(api_key=household.key, base_url=f"{url}/v1", max_retries=0) as client:
        yield client


async def test_a_plain_answer(client):
    answer = await client.chat.completions.with_raw_response.create(model="sim:echo", messages=SAY)
    assert answer.headers["x-request-id"]
    assert answer.headers["backstay-call"]
    parsed = answer.parse()
    assert parsed.choices[0].message.content == SAY[0]["content"]
    assert parsed.model == "sim:echo"
    assert parsed.usage.completion_tokens == 8


@pytest.mark.parametrize("model", ["sim:echo", "openai:sim:echo"])
async def test_a_streamed_answer_hides_the_usage_that_was_not_asked_for(client, model):
    stream = await client.chat.completions.create(model=model, messages=SAY, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == SAY[0]["content"]
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", ["sim:echo", "openai:sim:echo", "openai:sim:echo?usage=none"])
async def test_a_streamed_answer_shows_the_usage_that_was_asked_for(client, model):
    stream = await client.chat.completions.create(
        model=model, messages=SAY, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_usage_is_always_asked_upstream_and_unknown_fields_pass(client, provider):
    await (
        await client.chat.completions.create(
            model="openai:sim:echo", messages=SAY, stream=True, extra_body={"shiny": {"new": [1.5, None]}}
        )
    ).close()
    await provider.wait_for(requests=1)
    sent = json.loads(provider.received[0])
    assert sent["stream_options"] == {"include_usage": True}
    assert sent["shiny"] == {"new": [1.5, None]}
    assert sent["model"] == "sim:echo"


async def test_tools_pass_both_ways(client):
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    talk = [{"role": "user", "content": "What is the weather in Oslo?"}]
    async with client.chat.completions.stream(model="openai:sim:tools", messages=talk, tools=[tool]) as stream:
        answer = await stream.get_final_completion()
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": talk[0]["content"]})
    talk += [answer.choices[0].message.model_dump(exclude_none=True, exclude={"parsed"})]
    talk += [{"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    answer = await client.chat.completions.create(model="openai:sim:tools", messages=talk, tools=[tool])
    assert answer.choices[0].message.content == "The tool answered: rain"


async def test_embeddings(client):
    packed = await client.embeddings.create(model="sim:dev-hash", input=["a cat", "a dog"])
    plain = await client.embeddings.create(
        model="openai:sim:dev-hash", input=["a cat", "a dog"], encoding_format="float"
    )
    assert [len(row.embedding) for row in packed.data] == [256, 256]
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)


async def test_models_are_listed(client):
    assert "sim:echo" in [model.id async for model in await client.models.list()]
    assert (await client.models.retrieve("sim:echo")).owned_by == "sim"


async def test_an_error_in_the_middle_of_a_stream_reaches_the_client_as_an_error(client, gateway, owner, rows):
    stream = await client.chat.completions.create(
        model="openai:sim:echo?fault=cut:3", messages=SAY, stream=True, user="ada"
    )
    said = []

    async def listen():
        async for chunk in stream:
            said.append(chunk.choices[0].delta.content or "")

    with pytest.raises(openai.APIError) as caught:
        await listen()
    assert "".join(said) == "one two three"
    assert caught.value.body["code"] == "stream_cut"
    assert caught.value.body["usage"]["completion_tokens"] == 3
    (line,) = await rows("select outcome, output_tokens, estimated, end_user from backstay.ledger")
    assert line == {"outcome": "stream_cut", "output_tokens": 3, "estimated": True, "end_user": "ada"}


async def test_a_client_that_leaves_a_stream_cancels_the_provider_and_pays_for_what_it_got(
    client, provider, rows, until
):
    async with asyncio.timeout(10):
        stream = await client.chat.completions.create(
            model="openai:sim:echo?itl=50ms&tokens=1000", messages=SAY, stream=True
        )
        count = 0
        async for chunk in stream:
            count += bool(chunk.choices[0].delta.content)
            if count == 4:
                break
        await stream.close()
        await provider.wait_for(requests=1, cancelled=1)
        ledger = await until(lambda: rows("select * from backstay.ledger"))
    (line,) = ledger
    assert line["outcome"] == "cancelled"
    assert 4 <= line["output_tokens"] < 20
    assert line["cost"] > 0
    assert [r["outcome"] for r in await rows("select outcome from backstay.call")] == ["cancelled"]
    finished = await rows("select outcome from backstay.audit_entry where action = 'model.call.finished'")
    assert finished == [{"outcome": "cancelled"}]


async def test_a_client_that_leaves_before_the_answer_cancels_the_provider(client, provider, rows, until):
    async with asyncio.timeout(10):
        asking = asyncio.create_task(
            client.chat.completions.create(model="openai:sim:echo?fault=silence", messages=SAY)
        )
        await provider.wait_for(requests=1)
        asking.cancel()
        await asyncio.wait([asking])
        await provider.wait_for(cancelled=1)
        ledger = await until(lambda: rows("select outcome from backstay.ledger"))
    assert ledger == [{"outcome": "cancelled"}]


async def test_a_refusal_by_budget_says_which_and_is_not_retried(client, gateway, owner):
    await gateway.budgets.create(owner, "feature", "chat", Decimal("0.15"), "month")
    ask = {"model": "sim:echo?price=0.1", "messages": SAY, "extra_headers": {"backstay-feature": "chat"}}
    await client.chat.completions.create(**ask)
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**ask)
    assert caught.value.status_code == 402
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.body["code"] == "budget_exceeded"
    assert "feature chat" in caught.value.body["message"]


async def test_the_provider_may_say_no_in_its_own_words(client):
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model="openai:sim:echo?fault=status:429:7s", messages=SAY)
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.body["message"] == "a simulated fault"


@pytest.mark.parametrize("provider_name", ["openai", "anthropic"])
@pytest.mark.parametrize(("seen", "told"), [(500, 502), (502, 502), (503, 503), (529, 503), (504, 504), (401, 502)])
async def test_the_status_of_a_provider_that_failed_is_told_as_it_matters_to_the_caller(
    client, provider_name, seen, told
):
    """The wait is longer than the deadline, so that it is passed on."""
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model=f"{provider_name}:sim:echo?fault=status:{seen}:700s", messages=SAY)
    assert caught.value.status_code == told
    assert caught.value.code == "provider_failed"
    assert caught.value.response.headers.get("retry-after") == (None if seen == 401 else "700")


async def test_silence_is_bridged_by_comments(url, http):
    ask = {"model": "sim:echo?tokens=2&itl=600ms", "messages": SAY, "stream": True}
    async with http.stream("POST", "/v1/chat/completions", json=ask) as answer:
        body = (await answer.aread()).decode()
    assert ": ping\n\n" in body
    assert body.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b"\xff\xfe", 400, None),
        (b"[" * 100_000, 400, None),
        (b'{"model": "sim:echo"}', 400, "messages"),
        (b'{"model": 7, "messages": [{"role": "user"}]}', 400, "model"),
        (b'{"model": "sim:echo\\u0000", "messages": [{"role": "user"}]}', 400, "model"),
        (b'{"model": "sim:echo", "messages": [7]}', 400, "messages[0]"),
        (b'{"model": "sim:echo", "messages": [{"role": "user", "content": {"a": 1}}]}', 200, None),
        (b'{"model": "sim:echo", "messages": [{"role": "user", "content": [7, null]}]}', 200, None),
        (b'{"model": "sim:echo", "messages": [{"role": "user"}], "max_tokens": -1}', 400, "max_tokens"),
        (b'{"model": "sim:echo", "messages": [{"role": "user"}], "n": true}', 400, "n"),
        (b'{"model": "sim:echo", "messages": [{"role": "user"}], "stream": "yes"}', 400, "stream"),
        (b'{"model": "sim:echo", "messages": [{"role": "user"}], "user": {"a": 1}}', 400, "user"),
        (b'{"model": "sim:echo", "messages": [{"role": "user"}], "user": "\\u0000"}', 400, "user"),
        (b'{"model": "sim:echo", "messages": [{"role": "user"}], "metadata": {"feature": []}}', 200, None),
        (b'{"model": "sim:echo?fault=x", "messages": [{"role": "user"}]}', 422, None),
        (b'{"model": "sim:echo", "messages": [{"role": "user", "content": "\\u0000"}]}', 200, None),
        (b'{"model": "sim:tools", "messages": [{"role": "user"}], "tools": [1, {"function": 2}]}', 400, None),
        (b'{"model": "gpt-unheard-of", "messages": [{"role": "user"}], "seed": 1e400}', 400, None),
        (b'{"model": "nobody:x", "messages": [{"role": "user"}]}', 404, None),
    ],
)
async def test_hostile_bodies_get_a_clear_answer(http, body, status, param):
    answer = await http.post("/v1/chat/completions", content=body)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["error"]["param"] == param
        assert answer.json()["error"]["message"]


async def test_wrong_doors(http, url):
    assert (await http.get("/v1/nothing")).status_code == 404
    assert (await http.get("/v1/chat/completions")).status_code == 405
    assert (await http.get("/v1/chat/completions")).headers["allow"] == "POST"
    answer = await http.post("/v1/chat/completions", content=b"x" * (8 * 1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    async with httpx.AsyncClient(base_url=url) as stranger:
        answer = await stranger.post("/v1/embeddings", json={})
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


async def test_late_first_token_idle_and_total_have_their_own_errors(make_gateway, owner):
    gateway = await make_gateway(timeouts=Timeouts(first_token=0.1, idle=0.2, total=0.6))
    found = {}
    for name, model in {
        "first_token": "sim:echo?ttft=5s",
        "idle": "sim:echo?fault=stall:2",
        "total": "sim:echo?itl=50ms&tokens=500",
    }.items():
        with pytest.raises(openai.APIError if False else Exception) as caught:
            async for _ in gateway.stream(owner, {"model": model, "messages": SAY}, feature="f"):
                pass
        found[name] = caught.value.phase
    assert found == {"first_token": "first_token", "idle": "idle", "total": "total"}


async def test_several_choices_are_refused_where_they_would_be_paid_for_and_lost(client):
    with pytest.raises(openai.BadRequestError, match="own format"):
        await client.chat.completions.create(model="gemini:sim:echo", messages=SAY, n=2)
    assert await client.chat.completions.create(model="openai:sim:echo", messages=SAY, n=2)
