"""Calls go by routes, tenants' own accounts and their prices."""

import asyncio
from decimal import Decimal

import pytest
from pydantic import SecretStr

from backstay.gateway import ModelNotFound, PriceUnknown, ProviderFailed, ProviderRefused
from backstay.gateway.catalog import NewAccount, NewPrice, NoTargetServes, Route
from backstay.gateway.sim.server import SimServer

TEXT = "one two three four"


def asked(model: str, **more) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": TEXT}], **more}


def said(answer) -> str:
    return answer["choices"][0]["message"]["content"]


def account(server: SimServer, kind: str = "openai", **more) -> NewAccount:
    return NewAccount(kind=kind, base_url=server.url, secret="planted-secret-0123456789", **more)


@pytest.fixture
async def inner(make_gateway, provider):
    """A gateway whose tenants may reach this machine."""
    return await make_gateway(private_networks="127.0.0.0/8", unknown_price="refuse")


async def test_a_route_answers_by_its_first_target_that_can(gateway, owner, rows):
    targets = ["sim:echo?fault=status:503", "openai:sim:echo"]
    await gateway.catalog.routes.put(owner, Route(name="smart", targets=targets, retries=0))
    answer = await gateway.complete(owner, asked("smart"), feature="f")
    assert said(answer) == TEXT
    [call] = await rows("select provider, model, outcome from backstay.call")
    assert call == {"provider": "openai", "model": "sim:echo", "outcome": "ok"}
    tried = await rows("select provider, outcome from backstay.ledger order by attempt")
    assert [(row["provider"], row["outcome"]) for row in tried] == [("sim", "provider_failed"), ("openai", "ok")]


async def test_a_guarded_route_streams_nothing_of_an_answer_that_breaks_off(gateway, owner):
    targets = ["openai:sim:echo?itl=5ms&fault=cut:2", "openai:sim:echo"]
    await gateway.catalog.routes.put(owner, Route(name="safe", targets=targets, mode="guarded"))
    pieces = []
    async for chunk in gateway.stream(owner, asked("safe"), feature="f"):
        pieces += [choice["delta"].get("content") or "" for choice in chunk["choices"]]
    assert "".join(pieces) == TEXT


async def test_a_routes_deadlines_hold(gateway, owner):
    route = Route(name="quick", targets=["openai:sim:echo?ttft=5s", "openai:sim:echo"], deadlines={"first_token": 0.2})
    await gateway.catalog.routes.put(owner, route)
    async with asyncio.timeout(4):
        pieces = [chunk async for chunk in gateway.stream(owner, asked("quick"), feature="f")]
    assert pieces


async def test_conditions_choose_among_targets_and_say_so(gateway, owner):
    targets = [{"model": "sim:extract", "when": {"tools": True}}, {"model": "sim:echo", "when": {"feature": "chat"}}]
    await gateway.catalog.routes.put(owner, Route(name="by", targets=targets))
    assert (await gateway.complete(owner, asked("by"), feature="chat"))["model"] == "sim:echo"
    with pytest.raises(NoTargetServes, match="sim:extract serves requests with tools"):
        await gateway.complete(owner, asked("by"), feature="else")


async def test_a_route_is_its_tenants_alone(gateway, owner, other_owner):
    await gateway.catalog.routes.put(owner, Route(name="mine", targets=["sim:echo"]))
    assert said(await gateway.complete(owner, asked("mine"), feature="f")) == TEXT
    with pytest.raises(ProviderRefused, match="no 'mine'"):  # a model of OpenAI's, for all that this tenant knows
        await gateway.complete(other_owner, asked("mine"), feature="f")
    assert ("mine", "backstay") in await gateway.models(owner)
    assert ("mine", "backstay") not in await gateway.models(other_owner)


async def test_a_changed_route_drops_no_call_under_way(gateway, owner):
    await gateway.catalog.routes.put(owner, Route(name="smart", targets=["openai:sim:echo?itl=20ms&tokens=20"]))
    stream = gateway.stream(owner, asked("smart"), feature="f")
    first = await anext(stream)
    await gateway.catalog.routes.put(owner, Route(name="smart", targets=["sim:extract"]))
    rest = [chunk async for chunk in stream]
    assert len(rest) > 15
    assert first["model"] == "sim:echo"
    assert (await gateway.complete(owner, asked("smart"), feature="f"))["model"] == "sim:extract"


@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini", "vllm"])
async def test_a_tenants_own_account_is_asked_with_its_own_key(inner, owner, other_owner, provider, kind):
    base = provider.url if kind in ("openai", "vllm") else provider.url.removesuffix("/v1")
    new = NewAccount(kind=kind, base_url=base, secret="planted-secret-0123456789")
    await inner.catalog.providers.put(owner, "mine", new)
    price = NewPrice(pattern="mine:*", input=Decimal(1), output=Decimal(2))
    await inner.catalog.prices.add(owner, price)
    answer = await inner.complete(owner, asked("mine:sim:echo"), feature="f")
    assert said(answer) == TEXT
    assert answer.cost > 0
    assert "planted-secret-0123456789" in " ".join(provider.headers[-1].values())
    with pytest.raises(ModelNotFound):
        await inner.complete(other_owner, asked("mine:sim:echo"), feature="f")


async def test_a_rotated_key_is_used_by_the_next_call(inner, owner, provider):
    await inner.catalog.providers.put(owner, "mine", account(provider))
    await inner.catalog.prices.add(owner, NewPrice(pattern="mine:*", input=Decimal(0), output=Decimal(0)))
    await inner.complete(owner, asked("mine:sim:echo"), feature="f")
    await inner.catalog.providers.rotate(owner, "mine", SecretStr("rotated-secret-9876543210"))
    await inner.complete(owner, asked("mine:sim:echo"), feature="f")
    assert [headers["authorization"][-10:] for headers in provider.headers] == ["0123456789", "9876543210"]


async def test_an_account_that_leads_inside_is_called_by_nobody(make_gateway, owner, provider):
    """The address is checked at every connection, also when it was stored before the guard stood there."""
    gateway = await make_gateway(private_networks="10.0.0.0/8")
    await gateway.catalog.prices.add(owner, NewPrice(pattern="mine:*", input=Decimal(0), output=Decimal(0)))
    gateway.catalog.providers._guard = _nothing
    await gateway.catalog.providers.put(owner, "mine", account(provider))
    with pytest.raises(ProviderFailed, match=r"127\.0\.0\.1"):
        await gateway.complete(owner, asked("mine:sim:echo"), feature="f")
    assert provider.requests == 0


async def _nothing(url: str) -> None:
    return None


async def test_a_price_of_the_tenants_own_holds_over_the_listed_one(gateway, owner, other_owner):
    await gateway.catalog.prices.add(owner, NewPrice(pattern="openai:sim:*", input=Decimal(0), output=Decimal(1_000)))
    mine = await gateway.complete(owner, asked("openai:sim:echo", max_tokens=10), feature="f")
    theirs = await gateway.complete(other_owner, asked("openai:sim:echo", max_tokens=10), feature="f")
    assert mine.cost == Decimal("0.004")  # four tokens
    assert theirs.cost == Decimal(mine.usage.input_tokens + 4) / 1_000_000


async def test_a_model_without_a_price_is_refused_until_one_is_set(inner, owner, provider):
    await inner.catalog.providers.put(owner, "mine", account(provider))
    with pytest.raises(PriceUnknown, match="sim:echo"):
        await inner.complete(owner, asked("mine:sim:echo"), feature="f")
    await inner.catalog.prices.add(owner, NewPrice(pattern="mine:sim:echo", input=Decimal(0), output=Decimal(0)))
    assert (await inner.complete(owner, asked("mine:sim:echo"), feature="f")).cost == 0


async def test_a_conversation_stays_with_its_target(gateway, owner):
    targets = [{"model": "sim:echo", "weight": 1}, {"model": "sim:extract", "weight": 1}]
    await gateway.catalog.routes.put(owner, Route(name="both", targets=targets, strategy="weighted", sticky=True))
    for number in range(4):
        talk = {"model": "both", "messages": [{"role": "user", "content": f"conversation {number}"}]}
        assert len({(await gateway.complete(owner, talk, feature="f"))["model"] for _ in range(4)}) == 1


async def test_the_report_of_savings_adds_up(gateway, owner, http):
    """What the dearest target of a route would have cost, what a kept answer had cost, and calls that were rescued."""
    for model, usd in (("openai:sim:echo*", 1), ("anthropic:sim:echo", 10)):
        await gateway.catalog.prices.add(owner, NewPrice(pattern=model, input=Decimal(0), output=Decimal(usd)))
    cheap = Route(name="cheap", targets=["anthropic:sim:echo", "openai:sim:echo"], strategy="cost", cache={"ttl": 60})
    await gateway.catalog.routes.put(owner, cheap)
    rescue = Route(name="rescue", targets=["openai:sim:echo?fault=status:500", "openai:sim:echo"], retries=0)
    await gateway.catalog.routes.put(owner, rescue)
    for _ in range(2):
        await http.post("/v1/chat/completions", json=asked("cheap", max_tokens=50))
    await http.post("/v1/chat/completions", json=asked("rescue", max_tokens=50))
    token = Decimal(1) / 1_000_000
    savings = await gateway.savings(owner)
    assert (savings.calls, savings.cached, savings.routed, savings.rescued) == (3, 1, 1, 1)
    assert savings.by_route == 4 * 9 * token
    assert savings.by_cache == 4 * token
    assert savings.cost == 2 * 4 * token


async def test_a_conversation_that_fell_back_stays_where_it_was_answered(gateway, owner):
    targets = ["sim:echo?fault=flap:3/1000", "sim:extract"]
    await gateway.catalog.routes.put(owner, Route(name="both", targets=targets, sticky=True, retries=2))
    talk = {"model": "both", "messages": [{"role": "user", "content": "a conversation"}]}
    answered = [(await gateway.complete(owner, talk, feature="f"))["model"] for _ in range(3)]
    assert answered == ["sim:extract"] * 3
    other = {"model": "both", "messages": [{"role": "user", "content": "another conversation"}]}
    assert (await gateway.complete(owner, other, feature="f"))["model"] == "sim:echo"


async def test_an_account_calls_a_model_by_its_deployments_name(inner, owner, provider):
    new = NewAccount(
        kind="openai", base_url=provider.url, secret="x" * 20, options={"deployments": {"gpt": "sim:echo"}}
    )
    await inner.catalog.providers.put(owner, "ours", new)
    await inner.catalog.prices.add(owner, NewPrice(pattern="ours:gpt", input=Decimal(1), output=Decimal(1)))
    answer = await inner.complete(owner, asked("ours:gpt"), feature="f")
    assert (said(answer), answer.cost > 0) == (TEXT, True)
