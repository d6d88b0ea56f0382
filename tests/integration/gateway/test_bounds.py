"""Budgets and limits as callers meet them: headers, refusals, streams that are extended or cut, models of a route."""

from decimal import Decimal

import httpx
import openai
import pytest

from backstay.gateway import BudgetExceeded, RateLimited
from backstay.gateway.catalog import Route
from backstay.gateway.terms import Unit

SAY = [{"role": "user", "content": "one two three four five six seven eight"}]


def asked(model: str, **more) -> dict:
    return {"model": model, "messages": SAY, **more}


async def test_every_answer_says_what_the_limits_have_left(gateway, owner, http):
    await gateway.limits.create(owner, "tenant", None, Unit.REQUESTS, 2, "minute")
    await gateway.limits.create(owner, "tenant", None, Unit.TOKENS, 100_000, "hour")
    body = asked("sim:echo", max_tokens=50)
    first = await http.post("/v1/chat/completions", json=body)
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 100_000
    streamed = await http.post("/v1/messages", json=body | {"stream": True})
    assert streamed.headers["x-ratelimit-remaining-requests"] == "0"
    refused = await http.post(
        "/v1beta/models/sim:echo:generateContent", json={"contents": [{"parts": [{"text": "x"}]}]}
    )
    assert refused.status_code == 429
    assert refused.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-should-retry"] == "true"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"])
async def test_a_refusal_consumes_nothing_on_any_surface(gateway, owner, http: httpx.AsyncClient, rows, path):
    await gateway.budgets.create(owner, "tenant", None, Decimal("0.01"), "day")
    limit = await gateway.limits.create(owner, "tenant", None, Unit.REQUESTS, 5, "day")
    body = {"messages": SAY, "input": "x", "max_tokens": 9, "model": "sim:echo?price=0.10"}
    if path == "/v1/embeddings":
        body["model"] = "sim:dev-hash?price=0.10"
    refused = await http.post(path, json=body)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (402, "false")
    assert "0.01 USD a day" in refused.text
    assert (await gateway.limits.get(owner, limit.id)).used == 0
    assert await rows("select 1 as one from backstay.hold") == []


async def streamed(gateway, owner, sim: str, **more) -> int:
    """How many pieces a streamed answer of the simulator had; `sim` are its options."""
    body = asked("openai:sim:echo", stream=True, **more)
    order = await gateway.order(
        owner, "openai-chat", "chat", body, feature="f", headers={"backstay-sim": f"itl=1ms&{sim}"}
    )
    pieces.clear()
    async for group in gateway.chunks(order):
        for chunk in group:
            pieces.extend(c["delta"]["content"] for c in chunk.body.get("choices", ()) if c["delta"].get("content"))
    return len(pieces)


pieces: list[str] = []  # of the last stream, also when it was cut


async def test_a_stream_that_would_pass_the_cap_is_cut_with_an_error(make_gateway, provider, owner, rows):
    """A provider that does not keep to its limit is followed as far as the budget has room, and not a token further."""
    gateway = await make_gateway(provider.url, unknown_price="1000")
    budget = await gateway.budgets.create(owner, "tenant", None, Decimal("1.40"), "total")
    with pytest.raises(BudgetExceeded, match="no room for the rest of this call") as caught:
        await streamed(gateway, owner, "tokens=3000&fault=boundless", max_tokens=300)
    assert 900 < len(pieces) < 1400
    assert caught.value.usage.output_tokens >= len(pieces)
    budget = await gateway.budgets.get(owner, budget.id)
    assert (budget.held, await rows("select 1 as one from backstay.hold")) == (0, [])
    assert Decimal("0.9") < budget.spent <= Decimal("1.40")
    assert await rows("select outcome from backstay.call") == [{"outcome": "failed"}]
    await provider.wait_for(cancelled=1)


async def test_an_expected_stream_reserves_little_and_is_extended(make_gateway, provider, owner, rows):
    gateway = await make_gateway(provider.url, unknown_price="1000", reserve="expected", default_max_tokens=1_000)
    await gateway.budgets.create(owner, "tenant", None, Decimal("5"), "total")
    for _ in range(3):
        assert await streamed(gateway, owner, "tokens=20") == 20
    [last] = await rows("select reserved from backstay.call order by started_at desc limit 1")
    assert last["reserved"] < Decimal("0.50")  # not the thousand tokens that it could have written
    assert await streamed(gateway, owner, "tokens=600") == 600
    [last] = await rows("select reserved from backstay.call order by started_at desc limit 1")
    assert last["reserved"] > Decimal("0.60")
    assert await rows("select 1 as one from backstay.hold") == []


async def test_an_expected_stream_that_the_budget_cannot_bear_is_cut(make_gateway, provider, owner):
    gateway = await make_gateway(provider.url, unknown_price="1000", reserve="expected", default_max_tokens=2_000)
    for _ in range(3):
        assert await streamed(gateway, owner, "tokens=20") == 20
    budget = await gateway.budgets.create(owner, "tenant", None, Decimal("1"), "total")
    with pytest.raises(BudgetExceeded, match="no room for the rest"):
        await streamed(gateway, owner, "tokens=1900")
    assert 20 < len(pieces) < 1000
    budget = await gateway.budgets.get(owner, budget.id)
    assert budget.held == 0
    assert budget.spent <= 1


async def test_a_models_budget_is_spent_by_that_model_alone(gateway, owner):
    dear = await gateway.budgets.create(owner, "model", "openai:sim:echo?fault=status:500", Decimal(5), "total")
    cheap = await gateway.budgets.create(owner, "model", "openai:sim:echo", Decimal(5), "total")
    route = await gateway.budgets.create(owner, "model", "smart", Decimal(5), "total")
    targets = ["openai:sim:echo?fault=status:500", "openai:sim:echo"]
    await gateway.catalog.routes.put(owner, Route(name="smart", targets=targets, retries=0))
    answer = await gateway.complete(owner, asked("smart", max_tokens=20), feature="f")
    spent = [(await gateway.budgets.get(owner, one.id)).spent for one in (dear, cheap, route)]
    assert spent == [0, answer.cost, answer.cost]
    assert answer.cost > 0


async def test_a_target_whose_own_budget_is_used_up_is_left_out(gateway, owner, rows):
    await gateway.budgets.create(owner, "model", "openai:sim:echo", Decimal(0), "total")
    await gateway.catalog.routes.put(owner, Route(name="smart", targets=["openai:sim:echo", "sim:extract"]))
    assert (await gateway.complete(owner, asked("smart"), feature="f"))["model"] == "sim:extract"
    await gateway.catalog.routes.put(owner, Route(name="smart", targets=["openai:sim:echo"]))
    with pytest.raises(BudgetExceeded, match="of model openai:sim:echo"):
        await gateway.complete(owner, asked("smart"), feature="f")
    assert await rows("select 1 as one from backstay.hold") == []


async def test_what_a_route_decided_is_in_the_audit(gateway, owner, rows):
    await gateway.catalog.routes.put(owner, Route(name="smart", targets=["sim:echo"]))
    await gateway.complete(owner, asked("smart"), feature="f")
    [entry] = await rows("select metadata from backstay.audit_entry where action = 'model.call.started'")
    assert entry["metadata"]["routing"]["route"] == "smart"
    assert entry["metadata"]["routing"]["targets"] == [{"model": "sim:echo", "reason": "listed first"}]
    assert (await rows("select route from backstay.call"))[0]["route"] == "smart"


async def test_tokens_of_every_kind_stand_in_the_ledger(gateway, owner, rows):
    await gateway.complete(owner, asked("anthropic:sim:echo", max_tokens=20), feature="f")
    [row] = await rows("select input_tokens, output_tokens, written_tokens, input_image_tokens from backstay.ledger")
    assert row["input_tokens"] > 0
    assert (row["output_tokens"], row["written_tokens"], row["input_image_tokens"]) == (8, 0, 0)


async def test_the_openai_client_sees_a_limit_as_its_own_error(gateway, owner, url, household):
    await gateway.limits.create(owner, "tenant", None, Unit.REQUESTS, 0, "day")
    async with openai.AsyncOpenAI(api_key=household.key, base_url=f"{url}/v1", max_retries=2) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="sim:echo", messages=SAY)
    assert caught.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(RateLimited):
        await gateway.complete(owner, asked("sim:echo"), feature="f")
