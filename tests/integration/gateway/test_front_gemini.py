"""The Gemini surface through the official google-genai client, in front of providers of every format."""

import json
from collections.abc import AsyncIterator

import pytest
from google import genai
from google.genai import errors, types

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SAY = "one two three four five six seven eight"
MODELS = ["sim:echo", "openai:sim:echo", "anthropic:sim:echo", "gemini:sim:echo"]
TOOL = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="get_weather",
            description="weather of a city",
            parameters_json_schema={"type": "object", "properties": {"city": {"type": "string"}}},
        )
    ]
)


def sim(options: str) -> types.GenerateContentConfig:
    """The simulator's options in a header: this client takes no question mark in a model's name."""
    return types.GenerateContentConfig(http_options=types.HttpOptions(headers={"backstay-sim": options}))


@pytest.fixture
async def client(url: str, household) -> AsyncIterator[genai.client.AsyncClient]:
    made = genai.Client(api_key=household.key, http_options=types.HttpOptions(base_url=url, api_version="v1beta"))
    yield made.aio
    await made.aio.aclose()
    made.close()


@pytest.mark.parametrize("model", MODELS)
async def test_a_plain_answer(client, rows, model):
    said = await client.models.generate_content(model=model, contents=SAY)
    assert (said.text, said.candidates[0].finish_reason) == (SAY, types.FinishReason.STOP)
    assert said.usage_metadata.candidates_token_count == 8
    assert [row["outcome"] for row in await rows("select outcome from backstay.call")] == ["ok"]


@pytest.mark.parametrize("model", MODELS)
async def test_a_streamed_answer(client, rows, model):
    chunks = [chunk async for chunk in await client.models.generate_content_stream(model=model, contents=SAY)]
    assert "".join(chunk.text or "" for chunk in chunks) == SAY
    assert chunks[-1].candidates[0].finish_reason is types.FinishReason.STOP
    assert chunks[-1].usage_metadata.candidates_token_count == 8
    [call] = await rows("select outcome, output_tokens, streamed from backstay.call")
    assert call == {"outcome": "ok", "output_tokens": 8, "streamed": True}


@pytest.mark.parametrize("model", ["sim:tools", "openai:sim:tools", "anthropic:sim:tools", "gemini:sim:tools"])
async def test_tools_pass_both_ways(client, model):
    chat = client.chats.create(
        model=model,
        config=types.GenerateContentConfig(
            tools=[TOOL], automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)
        ),
    )
    question = "What is the weather in Oslo?"
    said = await chat.send_message(question)
    [call] = said.function_calls
    assert (call.name, call.args) == ("get_weather", {"city": question})
    result = types.Part.from_function_response(name=call.name, response={"output": "rain"})
    result.function_response.id = call.id
    said = await chat.send_message(result)
    assert "rain" in said.text


async def test_bytes_pass_as_they_are_between_the_same_formats(client, provider):
    await client.models.generate_content(
        model="gemini:sim:echo", contents=SAY, config=types.GenerateContentConfig(top_k=3, labels={"a": "b"})
    )
    sent = json.loads(provider.received[0])
    assert sent == {
        "contents": [{"parts": [{"text": SAY}], "role": "user"}],
        "generationConfig": {"topK": 3},
        "labels": {"a": "b"},
    }


@pytest.mark.parametrize("model", ["openai:sim:echo", "anthropic:sim:echo", "gemini:sim:echo"])
async def test_an_error_before_and_in_the_middle_is_raised(client, model):
    with pytest.raises(errors.ServerError) as caught:
        await client.models.generate_content(model=model, contents=SAY, config=sim("fault=status:503"))
    assert (caught.value.code, caught.value.status) == (503, "UNAVAILABLE")
    text = ""
    with pytest.raises(errors.APIError):
        async for chunk in await client.models.generate_content_stream(
            model=model, contents=SAY, config=sim("itl=10ms&fault=cut:3")
        ):
            text += chunk.text or ""
    assert text == "one two three"


@pytest.mark.parametrize("model", ["sim:dev-hash", "openai:sim:dev-hash", "gemini:sim:dev-hash"])
async def test_embeddings(client, model):
    config = types.EmbedContentConfig(output_dimensionality=8)
    one = await client.models.embed_content(model=model, contents="hello", config=config)
    two = await client.models.embed_content(model=model, contents=["hello", "world"], config=config)
    assert len(one.embeddings) == 1
    # This client puts several texts for a model called gemini… into one content, which has one embedding.
    assert [len(each.values) for each in two.embeddings] == ([8] if "gemini" in model else [8, 8])
    assert len(one.embeddings[0].values) == 8


async def test_what_is_wrong_is_told_in_the_clients_words(client):
    with pytest.raises(errors.ClientError, match="no model 'nobody:x'"):
        await client.models.generate_content(model="nobody:x", contents=SAY)
    with pytest.raises(errors.ClientError, match="maxOutputTokens"):
        await client.models.generate_content(
            model="sim:echo", contents=SAY, config=types.GenerateContentConfig(max_output_tokens=-1)
        )


@pytest.mark.parametrize(("model", "exact"), [("gemini:sim:echo", True), ("openai:sim:echo", False)])
async def test_tokens_are_counted(client, provider, model, exact):
    counted = await client.models.count_tokens(model=model, contents=SAY)
    assert counted.total_tokens > 5
    assert provider.requests == exact


async def test_without_alt_sse_the_stream_is_an_array(http):
    body = {"contents": [{"role": "user", "parts": [{"text": SAY}]}]}
    answer = await http.post("/v1beta/models/sim:echo:streamGenerateContent", json=body)
    assert answer.headers["content-type"].startswith("application/json")
    parts = answer.json()
    assert (
        "".join(
            part["candidates"][0]["content"]["parts"][0]["text"]
            for part in parts
            if part["candidates"][0].get("content", {}).get("parts")
        )
        == SAY
    )


async def test_the_key_may_stand_in_the_query(url, household, http):
    body = {"contents": [{"role": "user", "parts": [{"text": SAY}]}]}
    http.headers.pop("authorization")
    path = "/v1beta/models/sim:echo:generateContent"
    assert (await http.post(path, json=body, params={"key": household.key})).status_code == 200
    refused = await http.post(path, json=body, params={"key": "bs_wrong"})
    assert (refused.status_code, refused.json()["error"]["status"]) == (401, "UNAUTHENTICATED")


async def test_models_are_listed_in_its_own_shape(http):
    listed = (await http.get("/v1beta/models")).json()["models"]
    assert "models/sim:echo" in [model["name"] for model in listed]
