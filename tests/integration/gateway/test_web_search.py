"""Web searches that providers make and bill by the request: counted, priced, reserved, and refused without a price."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backstay.gateway import BudgetExceeded, Gateway, PriceUnknown, Timeouts
from backstay.gateway.catalog import NewPrice
from backstay.gateway.pricing import Prices
from backstay.gateway.providers.account import Account
from backstay.gateway.providers.table import KINDS
from backstay.gateway.upstream import Upstream

SAY = [{"role": "user", "content": "what is new?"}]
MESSAGES = {"model": "anthropic:m", "messages": SAY, "max_tokens": 9}
SEARCHING_MESSAGES = MESSAGES | {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]}
RESPONSES = {"model": "openai:m", "input": "what is new?", "tools": [{"type": "web_search"}]}
GEMINI = {"model": "gemini:m", "contents": [{"parts": [{"text": "new?"}]}], "tools": [{"googleSearch": {}}]}
ASKED = {"anthropic": SEARCHING_MESSAGES, "openai-responses": RESPONSES, "gemini": GEMINI}

_USED = {"input_tokens": 10, "output_tokens": 2}
_MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "much"}],
    "stop_reason": "end_turn",
    "usage": _USED | {"server_tool_use": {"web_search_requests": 3}},
}
_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "m",
    "output": [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "a"}},
        {"type": "web_search_call", "id": "ws_2", "status": "completed", "action": {"type": "open_page", "url": "u"}},
        {"type": "web_search_call", "id": "ws_3", "status": "completed", "action": {"type": "search", "query": "b"}},
        {"type": "web_search_call", "id": "ws_4", "status": "completed"},
        {"type": "web_search_call", "id": "ws_5", "status": "failed", "action": {"type": "search", "query": "c"}},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "much"}]},
    ],
    "usage": _USED,
}
_CANDIDATE = {
    "content": {"role": "model", "parts": [{"text": "much"}]},
    "finishReason": "STOP",
    "groundingMetadata": {"webSearchQueries": ["a", "", "b", "a", "c"]},
}
_GENERATED = {
    "candidates": [_CANDIDATE],
    "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 2},
    "modelVersion": "gemini-3-flash",
}


async def _answer(request: Request) -> Response:
    body = orjson.loads(await request.body())
    kind = "gemini" if "/models/" in request.url.path else request.url.path.rpartition("/")[2]
    whole = {"messages": _MESSAGE, "responses": _RESPONSE, "gemini": _GENERATED}[kind]
    if not (body.get("stream") or "streamGenerateContent" in request.url.path):
        return JSONResponse(whole)
    events: list[dict[str, Any]] = {
        "messages": [
            {"type": "message_start", "message": _MESSAGE | {"content": [], "stop_reason": None, "usage": _USED}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "much"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": _MESSAGE["usage"]},
            {"type": "message_stop"},
        ],
        "responses": [
            {"type": "response.created", "response": _RESPONSE | {"output": [], "status": "in_progress"}},
            {"type": "response.output_text.delta", "output_index": 5, "content_index": 0, "delta": "much"},
            {"type": "response.completed", "response": _RESPONSE},
        ],
        "gemini": [
            {key: value for key, value in _GENERATED.items() if key != "usageMetadata"},
            {"usageMetadata": _GENERATED["usageMetadata"], "modelVersion": "gemini-3-flash"},
        ],
    }[kind]
    text = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    return Response(text, media_type="text/event-stream")


@pytest.fixture
async def root(serve) -> AsyncIterator[str]:
    """A provider that speaks three formats and always searches the web three times."""
    async with serve(Starlette(routes=[Route("/{path:path}", _answer, methods=["POST"])])) as url:
        yield url


@pytest.fixture
async def gateway(make_gateway, root: str) -> AsyncIterator[Gateway]:
    """What has no price is refused. OpenAI is asked in its own format, as at its own address."""
    wires = {"anthropic": None, "openai": ("openai-responses",), "gemini": None}
    async with Upstream(Timeouts()) as upstream:
        accounts = [
            Account(KINDS[name], upstream, Prices(), None, root, wires=spoken) for name, spoken in wires.items()
        ]
        yield await make_gateway(providers=accounts, unknown_price="refuse")


async def priced(gateway: Gateway, owner, fee: str | None) -> None:
    for provider in ("anthropic", "openai", "gemini"):
        await gateway.catalog.prices.add(owner, NewPrice(pattern=f"{provider}:*", input=0, output=0, web_search=fee))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("surface", list(ASKED))
async def test_searches_are_counted_and_cost_their_fee(gateway: Gateway, owner, rows, surface: str, streamed: bool):
    await priced(gateway, owner, "14")
    order = await gateway.order(owner, surface, "chat", ASKED[surface] | {"stream": streamed}, feature="f")
    if streamed:
        assert [group async for group in gateway.chunks(order)]
    else:
        await gateway.answer(order)
    [row] = await rows("select web_searches, cost, input_tokens, output_tokens from backstay.ledger")
    assert row == {"web_searches": 3, "cost": Decimal("0.042"), "input_tokens": 10, "output_tokens": 2}


async def test_a_fee_that_nobody_knows_is_refused_only_where_a_search_is_asked_for(gateway: Gateway, owner, rows):
    await priced(gateway, owner, None)
    for surface, body in ASKED.items():
        with pytest.raises(PriceUnknown, match="web searches of"):
            await gateway.order(owner, surface, "chat", body, feature="f")
    await gateway.answer(await gateway.order(owner, "anthropic", "chat", MESSAGES, feature="f"))
    await gateway.order(owner, "anthropic", "count", SEARCHING_MESSAGES, feature="f")
    assert len(await rows("select 1 from backstay.call")) == 1


async def test_who_lets_unknown_prices_pass_has_the_searches_counted(make_gateway, root: str, owner, rows):
    gateway = await make_gateway(anthropic_base_url=root, unknown_price="0")
    await gateway.answer(await gateway.order(owner, "anthropic", "chat", SEARCHING_MESSAGES, feature="f"))
    assert await rows("select web_searches, cost from backstay.ledger") == [{"web_searches": 3, "cost": Decimal(0)}]


async def test_searches_are_reserved(gateway: Gateway, owner):
    """Five at 20 USD a thousand are 10 cents; OpenAI's ten are 20."""
    await priced(gateway, owner, "20")
    budget = await gateway.budgets.create(owner, "tenant", None, Decimal("0.09"), "total")
    with pytest.raises(BudgetExceeded):
        await gateway.answer(await gateway.order(owner, "anthropic", "chat", SEARCHING_MESSAGES, feature="f"))
    await gateway.budgets.change(owner, budget.id, Decimal("0.15"))
    await gateway.answer(await gateway.order(owner, "anthropic", "chat", SEARCHING_MESSAGES, feature="f"))
    with pytest.raises(BudgetExceeded):
        await gateway.answer(await gateway.order(owner, "openai-responses", "chat", RESPONSES, feature="f"))
    few = RESPONSES | {"max_tool_calls": 2}
    await gateway.answer(await gateway.order(owner, "openai-responses", "chat", few, feature="f"))
