"""Google's own client for Python reads what we write, and raises where we say that something failed."""

import asyncio
import base64
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from backstay.gateway.dialogue import (
    Began,
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
    Vectors,
)
from backstay.gateway.models import Usage
from backstay.gateway.wire.gemini import FOREIGN_SIGNATURE, Gemini, count_answer, count_request
from backstay.kernel.errors import BadRequest, FieldError, Unavailable

genai = pytest.importorskip("google.genai", reason="google-genai is not installed")
types, errors = genai.types, genai.errors
# The client derives from a class of aiohttp that warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
gemini = Gemini()
WEATHER = types.FunctionDeclaration(
    name="weather", parameters_json_schema={"type": "object", "properties": {"city": {"type": "string"}}}
)
CALL = [
    ToolBegan(2, "toolu_1", "weather", "c2ln"),
    ToolDelta(2, '{"city":'),
    ToolDelta(2, '"Ulm"}'),
    Stopped(Stop.TOOL),
]


class Served:
    """A server that answers with our bytes and keeps what it was asked."""

    def __init__(self):
        self.asks, self.bodies = [], []

    async def answer(self, request):
        model, _, method = request.match_info["tail"].partition(":")
        body = {**await request.json(), "model": model, "stream": method == "streamGenerateContent"}
        self.bodies.append(body)
        assert request.headers["x-goog-api-key"] == "key"
        if method == "batchEmbedContents":
            ask = gemini.read_embed(body)
            self.asks.append(ask)
            vectors = Vectors("e", [[float(len(text)), 1.0] for text in ask.inputs], Usage(5))
            return web.json_response(gemini.write_vectors(vectors, body))
        if method == "countTokens":
            self.asks.append(gemini.read(count_request(body)))
            return web.json_response(count_answer(7))
        asked, ask = gemini.check(body), gemini.read(body)
        self.asks.append(ask)
        if model == "refused":
            error = BadRequest("`contents` is wrong", errors=[FieldError("contents", "must be kinder")])
            return web.Response(status=400, body=gemini.error_body(error, "r-1"), content_type="application/json")
        if asked.stream:
            return await self._stream(request, asked)
        call = ToolCall("toolu_1", "weather", '{"city":"Ulm"}', "c2ln")
        parts = (Thinking("hm"), Text("So"), *((call,) if ask.tools else ()))
        stop = Stop.TOOL if ask.tools else Stop.END
        return web.json_response(gemini.write_answer(Said("r1", model, parts, stop, Usage(3, 5, 1, 2))))

    async def _stream(self, request, asked):
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        writer = gemini.writer(asked)
        thought = ThinkingDelta(0, "", "opaque", origin="anthropic")
        events = writer.feed(
            [Began("r1", "claude"), ThinkingDelta(0, "hm"), thought, TextDelta(1, "So"), TextDelta(1, " be")]
        )
        await response.write(gemini.ping())
        for event in events:
            await response.write(gemini.frame(event) + gemini.ping())
        if asked.model == "broken":
            await response.write(gemini.error_event(Unavailable("the provider is gone"), Usage(3, 1)))
            return response
        for event in writer.feed(CALL if asked.tools else [Stopped(Stop.END)]) + writer.end(Usage(3, 5, 0, 2)):
            await response.write(gemini.frame(event))
        return response


@asynccontextmanager
async def serving():
    served, app = Served(), web.Application()
    app.router.add_post("/v1beta/models/{tail:.+}", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    options = types.HttpOptions(base_url=f"http://127.0.0.1:{port}", api_version="v1beta")
    client = genai.Client(api_key="key", http_options=options)
    try:
        yield client, served
    finally:
        await client.aio.aclose()
        client.close()
        await runner.cleanup()


async def test_a_plain_answer():
    async with serving() as (client, served):
        config = types.GenerateContentConfig(
            system_instruction="be kind",
            max_output_tokens=9,
            thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_budget=64),
        )
        found = await client.aio.models.generate_content(model="m", contents="hello", config=config)
    assert (found.text, found.model_version, found.response_id) == ("So", "m", "r1")
    assert found.candidates[0].finish_reason is types.FinishReason.STOP
    assert found.candidates[0].content.parts[0].thought
    usage = found.usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count) == (3, 3, 2)
    assert (usage.total_token_count, usage.cached_content_token_count) == (8, 1)
    (ask,) = served.asks
    assert (ask.system, ask.max_tokens, ask.reasoning.budget, ask.reasoning.shown) == ((Text("be kind"),), 9, 64, True)


async def test_a_streamed_answer_with_heartbeats_in_both_kinds_of_client():
    async with serving() as (client, _):
        stream = await client.aio.models.generate_content_stream(model="m", contents="hello")
        chunks = [chunk async for chunk in stream]
        again = await asyncio.to_thread(
            lambda: list(client.models.generate_content_stream(model="m", contents="hello"))
        )
    for found in (chunks, again):
        assert "".join(chunk.text or "" for chunk in found) == "So be"
        assert [chunk.candidates[0].finish_reason for chunk in found][:-1] == [None] * (len(found) - 1)
        assert found[-1].candidates[0].finish_reason is types.FinishReason.STOP
        assert found[-1].usage_metadata.total_token_count == 8
        assert {chunk.model_version for chunk in found} == {"claude"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_loop_brings_every_signature_back(streamed):
    tools = [types.Tool(function_declarations=[WEATHER])]
    never = types.AutomaticFunctionCallingConfig(disable=True)
    config = types.GenerateContentConfig(tools=tools, automatic_function_calling=never)
    async with serving() as (client, served):
        chat = client.aio.chats.create(model="m", config=config)
        if streamed:
            answers = [answer async for answer in await chat.send_message_stream("how is it in Ulm?")]
        else:
            answers = [await chat.send_message("how is it in Ulm?")]
        (call,) = [call for answer in answers for call in answer.function_calls or []]
        assert (call.id, call.name, call.args) == ("toolu_1", "weather", {"city": "Ulm"})
        result = types.Part.from_function_response(name="weather", response={"output": "sunny"})
        await chat.send_message(result)
    first, second = served.asks
    assert first.tools[0].parameters == {"type": "object", "properties": {"city": {"type": "string"}}}
    question, said, answered = second.turns
    assert question.parts == (Text("how is it in Ulm?"),)
    signed = ToolCall("toolu_1", "weather", '{"city":"Ulm"}', "c2ln")
    if streamed:
        assert said.parts == (Thinking("hm", "opaque", origin="anthropic"), Text("So be"), signed)
    else:
        assert said.parts[1:] == (Text("So"), signed)
    assert (answered.parts[0].call, answered.parts[0].parts) == ("toolu_1", (Text("sunny"),))


async def test_the_placeholder_is_a_signature_that_the_client_takes():
    part = types.Part.model_validate({"functionCall": {"name": "f"}, "thoughtSignature": FOREIGN_SIGNATURE})
    assert part.thought_signature == base64.urlsafe_b64decode(FOREIGN_SIGNATURE)


async def test_structured_output_is_asked_for_either_way():
    schema = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}
    plain = {"type": "object", "properties": {"city": {"type": "string"}}}
    async with serving() as (client, served):
        for more in ({"response_schema": schema}, {"response_json_schema": plain}):
            config = types.GenerateContentConfig(response_mime_type="application/json", **more)
            await client.aio.models.generate_content(model="m", contents="hello", config=config)
    assert [ask.output.schema for ask in served.asks] == [plain, plain]


async def test_embeddings_and_counts():
    async with serving() as (client, served):
        config = types.EmbedContentConfig(task_type="RETRIEVAL_QUERY", output_dimensionality=2)
        found = await client.aio.models.embed_content(model="e", contents=["a", "bcd"], config=config)
        counted = await client.aio.models.count_tokens(model="m", contents="hello")
    assert [row.values for row in found.embeddings] == [[1.0, 1.0], [3.0, 1.0]]
    assert (served.asks[0].inputs, served.asks[0].task, served.asks[0].dimensions) == (
        ("a", "bcd"),
        "RETRIEVAL_QUERY",
        2,
    )
    assert counted.total_tokens == 7
    assert served.asks[1].turns[0].parts == (Text("hello"),)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_error_before_the_answer_is_raised(streamed):
    async with serving() as (client, _):
        with pytest.raises(errors.ClientError) as caught:
            if streamed:
                stream = await client.aio.models.generate_content_stream(model="refused", contents="hello")
                await anext(stream)
            else:
                await client.aio.models.generate_content(model="refused", contents="hello")
    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")
    assert caught.value.message == "`contents` is wrong: must be kinder"


async def test_an_error_in_the_middle_is_raised_by_both_kinds_of_client():
    async with serving() as (client, _):
        heard = []

        async def listen():
            async for chunk in await client.aio.models.generate_content_stream(model="broken", contents="hello"):
                heard.append(chunk.text or "")

        def listen_threaded():
            for chunk in client.models.generate_content_stream(model="broken", contents="hello"):
                heard.append(chunk.text or "")

        for call in (listen(), asyncio.to_thread(listen_threaded)):
            with pytest.raises(errors.ServerError) as caught:
                await call
            assert (caught.value.code, caught.value.status) == (503, "UNAVAILABLE")
            assert caught.value.message == "the provider is gone"
    assert "".join(heard) == "So be" * 2
