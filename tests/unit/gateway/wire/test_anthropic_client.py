"""The official client reads what this format writes, from a server on loopback."""

from collections.abc import AsyncIterator

import anthropic
import orjson
import pytest
from aiohttp import web

from backstay.gateway.dialogue import (
    Began,
    RefusalDelta,
    Request,
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
    Used,
)
from backstay.gateway.errors import BudgetExceeded, ProviderFailed
from backstay.gateway.models import Usage
from backstay.gateway.sse import SseParser
from backstay.gateway.wire.anthropic import WIRE
from backstay.kernel.errors import BadRequest, FieldError
from unit.gateway.wire import anthropic_streams as streams
from unit.gateway.wire.anthropic_requests import FULL

ASK = {"model": "claude-opus-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
REQUEST = Request(model="openai:gpt-6-sol", stream=True)
USAGE = Usage(40, 30, cached_tokens=10, reasoning_tokens=12, written_tokens=5)


class Server:
    """Answers every request with `status` and `body`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.status, self.kind, self.body = 200, "application/json", b""
        self.asked: list[dict] = []
        self.url = ""

    def says(self, body: bytes, kind: str = "application/json", status: int = 200) -> None:
        self.status, self.kind, self.body = status, kind, body

    def streams(self, *parts: bytes) -> None:
        self.says(b"".join(parts), "text/event-stream")

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        headers = {"request-id": "req_7", "x-should-retry": "false"}
        return web.Response(body=self.body, status=self.status, content_type=self.kind, headers=headers)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def claude(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[anthropic.AsyncAnthropic]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with anthropic.AsyncAnthropic(api_key="key", base_url=server.url, max_retries=0) as client:
        yield client


def told(*deltas, usage: Usage = USAGE) -> bytes:
    """The bytes of a stream that says `deltas`, with a heartbeat in it."""
    writer = WIRE.writer(REQUEST)
    events = writer.feed(deltas)
    return b"".join([WIRE.ping(), *map(WIRE.frame, events), WIRE.ping(), *map(WIRE.frame, writer.end(usage))])


async def message_of(claude: anthropic.AsyncAnthropic) -> anthropic.types.Message:
    async with claude.messages.stream(**ASK) as stream:
        async for event in stream:
            assert event.type
        return await stream.get_final_message()


async def test_a_stream_with_thoughts_text_and_interleaved_calls(server, claude):
    server.streams(
        told(
            Began("msg_1", "gpt-6-sol", Usage(40)),
            ThinkingDelta(0, "Let me"),
            ThinkingDelta(0, " see.", "enc", origin="openai-responses"),
            TextDelta(1, "I look"),
            TextDelta(1, "."),
            ToolBegan(2, "call_a", "weather"),
            ToolBegan(3, "call_b", "time"),
            ToolDelta(3, '{"zone": '),
            ToolDelta(2, '{"city": "Bern"}'),
            ToolDelta(3, '"CET"}'),
            Used(USAGE),
            Stopped(Stop.TOOL),
        )
    )
    message = await message_of(claude)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (message.id, message.model, message.stop_reason) == ("msg_1", "gpt-6-sol", "tool_use")
    assert message.content[0].thinking == "Let me see."
    assert message.content[0].signature.startswith("backstay:")
    assert message.content[1].text == "I look."
    assert [block.input for block in message.content[2:]] == [{"city": "Bern"}, {"zone": "CET"}]
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (25, 10, 5)
    assert (usage.output_tokens, usage.output_tokens_details.thinking_tokens) == (30, 12)


async def test_a_refusal_and_a_stop_sequence(server, claude):
    server.streams(told(Began("m", "x"), RefusalDelta(0, "I cannot."), Stopped(Stop.END)))
    message = await message_of(claude)
    assert (message.stop_reason, message.content[0].text) == ("refusal", "I cannot.")
    server.streams(told(Began("m", "x"), TextDelta(0, "a"), Stopped(Stop.SEQUENCE, "###")))
    message = await message_of(claude)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "###")


@pytest.mark.parametrize("events", streams.WHOLE.values(), ids=streams.WHOLE)
async def test_a_relayed_stream_is_read_as_the_provider_s_own(server, claude, events):
    sent = streams.wire_bytes(events)
    server.streams(sent)
    expected = await message_of(claude)
    reader, relayed = WIRE.reader(), []
    for data in SseParser().feed(sent):
        reader.feed(data)
        relayed.append(WIRE.relay(reader, data, REQUEST))
    server.streams(*relayed)
    assert await message_of(claude) == expected


async def test_an_error_in_the_middle_raises_with_our_code(server, claude):
    writer = WIRE.writer(REQUEST)
    begun = [WIRE.frame(event) for event in writer.feed([Began("m", "x"), TextDelta(0, "Hel")])]
    server.streams(*begun, WIRE.error_event(ProviderFailed("the provider failed"), USAGE))
    with pytest.raises(anthropic.APIStatusError) as caught:
        await message_of(claude)
    assert (caught.value.type, caught.value.error_code) == ("api_error", "provider_failed")
    assert caught.value.api_message == "the provider failed"


async def test_a_whole_answer(server, claude):
    said = Said(
        "msg_2",
        "gpt-6-sol",
        (Thinking("Hm."), Text("I look."), ToolCall("call_a", "weather", '{"city":"Bern"}')),
        Stop.TOOL,
        USAGE,
    )
    server.says(orjson.dumps(WIRE.write_answer(said)))
    message = await claude.messages.create(**ASK)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[2].input == {"city": "Bern"}
    assert (message.usage.input_tokens, message.usage.output_tokens, message.stop_reason) == (25, 30, "tool_use")
    assert WIRE.read_answer(message.to_dict()).parts == (
        Thinking("Hm.", origin="anthropic"),
        Text("I look."),
        ToolCall("call_a", "weather", '{"city":"Bern"}'),
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("`x` is wrong", errors=[FieldError("x", "must be a text")]), anthropic.BadRequestError),
        (BudgetExceeded("nothing left"), anthropic.PaymentRequiredError),
    ],
)
async def test_an_error_of_ours_is_one_of_the_client_s(server, claude, error, kind):
    server.says(WIRE.error_body(error, "req_7"), status=error.status)
    with pytest.raises(kind) as caught:
        await claude.messages.create(**ASK)
    assert (caught.value.error_code, caught.value.request_id) == (error.code, "req_7")
    assert caught.value.type in ("invalid_request_error", "billing_error")


async def test_what_the_client_sends_is_checked_and_read(server, claude):
    server.says(b'{"input_tokens": 12}')
    body = {name: value for name, value in FULL.items() if name != "stream"}
    await claude.messages.count_tokens(
        **{name: body[name] for name in ("model", "messages", "system", "tools", "tool_choice", "thinking")}
    )
    assert WIRE.count(server.asked[0])["input_tokens"] > 100
    server.streams(told(Began("m", "x"), Stopped(Stop.END)))
    async with claude.messages.stream(**body) as stream:
        await stream.until_done()
    assert server.asked[1] == FULL
    assert WIRE.check(server.asked[1]).stream
