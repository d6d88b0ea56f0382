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

from backstay.gateway import BudgetExceeded, Gateway, PriceUnknown, StreamCut, Timeouts
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
CHAT = {"model": "groq:m", "messages": SAY, "web_search_options": {}}
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
_COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "much"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2},
}
_SEARCH = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}


async def _answer(request: Request) -> Response:
    body = orjson.loads(await request.body())
    request.app.state.asked.append(body)
    kind = "gemini" if "/models/" in request.url.path else request.url.path.rpartition("/")[2]
    whole = {"messages": _MESSAGE, "responses": _RESPONSE, "gemini": _GENERATED, "completions": _COMPLETION}[kind]
    if not (body.get("stream") or "streamGenerateContent" in request.url.path):
        return JSONResponse(whole)
    events: list[dict[str, Any]] = {
        "messages": [
            {"type": "message_start", "message": _MESSAGE | {"content": [], "stop_reason": None, "usage": _USED}},
            {"type": "content_block_start", "index": 0, "content_block": _SEARCH},
            {"type": "content_block_stop", "index": 0},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "much"}},
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": _MESSAGE["usage"]},
            {"type": "message_stop"},
        ],
        "responses": [
            {"type": "response.created", "response": _RESPONSE | {"output": [], "status": "in_progress"}},
            *(
                {"type": "response.output_item.done", "output_index": n, "item": _RESPONSE["output"][n]}
                for n in range(5)
            ),
            {"type": "response.output_text.delta", "output_index": 5, "content_index": 0, "delta": "much"},
            {"type": "response.completed", "response": _RESPONSE},
        ],
        "gemini": [
            {key: value for key, value in _GENERATED.items() if key != "usageMetadata"},
            {"usageMetadata": _GENERATED["usageMetadata"], "modelVersion": "gemini-3-flash"},
        ],
        "completions": [
            {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "much"}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": _COMPLETION["usage"]},
        ],
    }[kind]
    if "cut" in request.url.path or body.get("model") == "cut":
        events = events[:-2] if kind == "messages" else events[:-1]
        for candidate in events[-1].get("candidates", ()):
            events[-1] = events[-1] | {"candidates": [candidate | {"finishReason": None}]}
    text = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    return Response(text, media_type="text/event-stream")


@pytest.fixture
def asked() -> list[Any]:
    """The bodies that the provider got."""
    return []


@pytest.fixture
async def root(serve, asked: list[Any]) -> AsyncIterator[str]:
    """A provider that speaks four formats and always searches the web three times."""
    app = Starlette(routes=[Route("/{path:path}", _answer, methods=["POST"])])
    app.state.asked = asked
    async with serve(app) as url:
        yield url


@pytest.fixture
async def gateway(make_gateway, root: str) -> AsyncIterator[Gateway]:
    """What has no price is refused. OpenAI is asked in its own format, as at its own address."""
    wires = {"anthropic": None, "openai": ("openai-responses",), "gemini": None, "groq": None}
    async with Upstream(Timeouts()) as upstream:
        accounts = [
            Account(KINDS[name], upstream, Prices(), None, root, wires=spoken) for name, spoken in wires.items()
        ]
        yield await make_gateway(providers=accounts, unknown_price="refuse")


async def priced(gateway: Gateway, owner, fee: str | None) -> None:
    for provider in ("anthropic", "openai", "gemini", "groq"):
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


async def spend(gateway: Gateway, owner, surface: str, body: dict[str, Any]) -> None:
    order = await gateway.order(owner, surface, "chat", body, feature="f")
    if body.get("stream"):
        assert [group async for group in gateway.chunks(order)]
    else:
        await gateway.answer(order)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_chat_completion_that_searches_is_counted_once_though_nobody_tells(
    gateway: Gateway, owner, rows, streamed: bool
):
    await priced(gateway, owner, "14")
    budget = await gateway.budgets.create(owner, "tenant", None, Decimal("0.013"), "total")
    with pytest.raises(BudgetExceeded):
        await spend(gateway, owner, "openai-chat", CHAT | {"stream": streamed})
    await gateway.budgets.change(owner, budget.id, Decimal("0.014"))
    await spend(gateway, owner, "openai-chat", CHAT | {"stream": streamed})
    assert await rows("select web_searches, cost from backstay.ledger") == [
        {"web_searches": 1, "cost": Decimal("0.014")}
    ]


async def test_a_model_that_always_searches_has_its_fee_asked_for(gateway: Gateway, owner):
    await priced(gateway, owner, None)
    with pytest.raises(PriceUnknown, match="web searches of"):
        body = {"model": "groq:gpt-4o-search-preview", "messages": SAY}
        await gateway.order(owner, "openai-chat", "chat", body, feature="f")


@pytest.mark.parametrize(("surface", "searches"), [("anthropic", 1), ("openai-responses", 3), ("gemini", 3)])
async def test_searches_of_a_stream_that_breaks_off_are_billed(
    gateway: Gateway, owner, rows, surface: str, searches: int
):
    """Those that were seen; the provider's own count comes last, and never came."""
    await priced(gateway, owner, "14")
    model = ASKED[surface]["model"].replace(":m", ":cut")
    with pytest.raises(StreamCut):
        await spend(gateway, owner, surface, ASKED[surface] | {"model": model, "stream": True})
    [row] = await rows("select web_searches, cost, outcome from backstay.ledger")
    assert row == {"web_searches": searches, "cost": searches * Decimal("0.014"), "outcome": "stream_cut"}


async def test_a_provider_is_allowed_as_many_searches_as_are_reserved(gateway: Gateway, owner, asked: list[Any]):
    await priced(gateway, owner, "14")
    free = {"type": "web_search_20250305", "name": "web_search", "max_uses": None}
    await spend(gateway, owner, "anthropic", MESSAGES | {"tools": [free, {"name": "f", "input_schema": {}}]})
    assert asked[-1]["tools"] == [free | {"max_uses": 10}, {"name": "f", "input_schema": {}}]
    await spend(gateway, owner, "anthropic", SEARCHING_MESSAGES)
    assert asked[-1]["tools"] == SEARCHING_MESSAGES["tools"]
    await spend(gateway, owner, "openai-responses", RESPONSES)
    assert asked[-1]["max_tool_calls"] == 10
    await spend(gateway, owner, "openai-responses", RESPONSES | {"max_tool_calls": 3})
    assert asked[-1]["max_tool_calls"] == 3
    await spend(gateway, owner, "openai-responses", RESPONSES | {"tools": []})
    assert "max_tool_calls" not in asked[-1]


async def test_a_provider_that_searches_more_than_it_may_is_settled_and_told_of(gateway: Gateway, owner, rows):
    await priced(gateway, owner, "20")
    budget = await gateway.budgets.create(owner, "tenant", None, Decimal("0.03"), "total")
    once = [SEARCHING_MESSAGES["tools"][0] | {"max_uses": 1}]
    await spend(gateway, owner, "anthropic", MESSAGES | {"tools": once})
    assert (await gateway.budgets.get(owner, budget.id)).spent == Decimal("0.06")
    [row] = await rows(
        "select metadata->>'overspent' as over from backstay.audit_entry where action = 'model.call.finished'"
    )
    assert Decimal(row["over"]) == Decimal("0.04")
    with pytest.raises(BudgetExceeded):
        await spend(gateway, owner, "anthropic", MESSAGES | {"tools": once})


async def test_a_hard_budget_lets_in_no_search_that_nothing_bounds(gateway: Gateway, owner, rows):
    """Gemini's format knows no limit. Before Gemini 3 all searches of a prompt are billed as one."""
    await priced(gateway, owner, "14")
    budget = await gateway.budgets.create(owner, "tenant", None, Decimal(1000), "total")
    with pytest.raises(BudgetExceeded, match="nothing bounds how often gemini:m searches"):
        await spend(gateway, owner, "gemini", GEMINI)
    assert await rows("select 1 from backstay.call") == []
    await spend(gateway, owner, "gemini", GEMINI | {"model": "gemini:gemini-2.5-pro"})
    await gateway.budgets.delete(owner, budget.id)
    await gateway.budgets.create(owner, "tenant", None, Decimal(1000), "total", False)
    await spend(gateway, owner, "gemini", GEMINI)
    assert len(await rows("select 1 from backstay.call")) == 2
