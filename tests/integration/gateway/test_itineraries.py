"""Whom to ask is worked out once for calls alike, and anew when anything that it rests on has changed."""

from datetime import timedelta
from decimal import Decimal

import pytest

from backstay.gateway.catalog import NewPrice, Route
from backstay.kernel.clock import ManualClock, SystemClock
from backstay.kernel.errors import BadRequest

ASKED = {"messages": [{"role": "user", "content": "hello"}]}
A_MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(SystemClock().now().replace(microsecond=0))


async def itinerary(gateway, owner, model="sim:echo", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    order = await gateway.order(owner, "openai-chat", "chat", {"model": model, **ASKED}, feature="f", headers=headers)
    return order.plan


async def test_calls_of_one_second_share_it(make_gateway, owner, clock):
    gateway = await make_gateway(clock=clock)
    first = await itinerary(gateway, owner)
    assert await itinerary(gateway, owner) is first
    clock.advance(timedelta(seconds=1))
    assert await itinerary(gateway, owner) is not first


async def test_a_price_holds_from_its_moment_on_though_nothing_is_changed_then(make_gateway, owner, clock):
    gateway = await make_gateway(clock=clock)
    price = NewPrice(pattern="sim:*", input=Decimal(7), output=Decimal(7), starts_at=clock.now() + A_MINUTE)
    await gateway.catalog.prices.add(owner, price)
    costs = []
    for step in (A_MINUTE - timedelta(seconds=1), timedelta(seconds=1)):
        await itinerary(gateway, owner)
        clock.advance(step)
        costs.append((await gateway.complete(owner, {"model": "sim:echo", **ASKED}, feature="f")).cost)
    assert costs[0] == 0 < costs[1]


async def test_a_changed_route_holds_at_once(make_gateway, owner, clock):
    gateway = await make_gateway(clock=clock)
    for target in ("sim:echo", "sim:json"):
        await gateway.catalog.routes.put(owner, Route(name="way", targets=[target]))
        assert [one.name for one in (await itinerary(gateway, owner, "way")).targets] == [target]


async def test_a_target_that_rests_is_asked_last_until_it_is_well(make_gateway, owner, clock):
    gateway = await make_gateway(clock=clock)
    await gateway.catalog.routes.put(owner, Route(name="way", targets=["sim:echo", "sim:dev-hash"]))
    standing = await itinerary(gateway, owner, "way")
    breaker = gateway._health.breaker_of(standing.targets[0])
    while (permit := breaker.ask()) is not None:
        permit.failed()
    resting = await itinerary(gateway, owner, "way")
    assert [one.name for one in resting.targets] == ["sim:dev-hash", "sim:echo"]


async def test_a_mode_is_for_its_own_call(make_gateway, owner, clock):
    gateway = await make_gateway(clock=clock)
    assert (await itinerary(gateway, owner, backstay_mode="guarded")).mode == "guarded"
    assert (await itinerary(gateway, owner)).mode == "live"
    with pytest.raises(BadRequest, match="backstay-mode"):
        await itinerary(gateway, owner, backstay_mode="deaf")


async def test_tenants_share_none(make_gateway, owner, other_owner, clock):
    gateway = await make_gateway(clock=clock)
    await gateway.catalog.prices.add(owner, NewPrice(pattern="sim:*", input=Decimal(7), output=Decimal(7)))
    own, others = await itinerary(gateway, owner), await itinerary(gateway, other_owner)
    assert own.targets[0].price.label == "override"
    assert others.targets[0].price.label != "override"
