"""Budgets and evidence hold over several processes, and over processes that die."""

import asyncio
import random
from decimal import Decimal

import pytest

from backstay.audit import Audit
from backstay.gateway.sim.server import SimServer
from backstay.kernel.clock import SystemClock


async def test_a_thousand_calls_of_ten_cents_on_five_dollars_from_three_processes(fetch, spawn, survivor, owner):
    budget = await survivor.budgets.create(owner, "tenant", None, Decimal(5), "total")
    await survivor.budgets.create(owner, "key", str(owner.key), Decimal(1000), "total")
    callers = [await spawn(model="sim:echo?price=0.10", calls=count) for count in (333, 333, 334)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(caller.go() for caller in callers))
        results = await asyncio.gather(*(caller.result() for caller in callers))
    assert sum(result.get("ok", 0) for result in results) == 50
    assert sum(result.get("refused", 0) for result in results) == 950
    assert await fetch("select sum(cost), count(*) from backstay.ledger") == [(Decimal("5.00"), 50)]
    assert await fetch("select spent, held from backstay.budget_window") == [(Decimal("5.00"), 0)] * 2
    assert await fetch("select count(*) from backstay.hold") == [(0,)]
    assert (await survivor.budgets.get(owner, budget.id)).spent == Decimal(5)


async def test_a_killed_process_gives_back_what_it_held(fetch, spawn, survivor, owner):
    await survivor.budgets.create(owner, "tenant", None, Decimal(5), "total")
    server = SimServer()
    async with server.running() as url, asyncio.timeout(60):
        caller = await spawn(model="sim:echo?price=0.10&fault=silence", calls=3)
        other = await spawn(model="openai:sim:echo?itl=100ms&tokens=1000", calls=20, stream=True, base_url=url)
        await caller.go()
        await other.go()
        await server.wait_for(requests=20)
        while await fetch("select count(*) from backstay.call where provider = 'sim'") != [(3,)]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # another process commits them: there is no event to wait for
        ((held,),) = await fetch("select held from backstay.budget_window")
        assert held > Decimal("0.30")
        await caller.kill()
        await other.kill()
        assert await survivor.sweeper.sweep() == 23
    assert await fetch("select spent, held from backstay.budget_window") == [(0, 0)]
    assert await fetch("select count(*) from backstay.hold") == [(0,)]
    assert await fetch("select state, count(*) from backstay.call group by 1") == [("abandoned", 23)]
    abandoned = "select count(*) from backstay.audit_entry where action = 'model.call.abandoned'"
    assert await fetch(abandoned) == [(23,)]
    assert await survivor.sweeper.sweep() == 0
    assert await fetch(abandoned) == [(23,)]


async def test_whatever_the_provider_received_was_recorded_before(db, fetch, spawn, survivor, owner, vault):
    """kill -9 at a random moment, again and again: the evidence is never behind the provider."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    server = SimServer()
    server.keep_bodies = True
    async with server.running() as url, asyncio.timeout(120):
        for turn in range(3):
            caller = await spawn(model="openai:sim:echo", calls=400, base_url=url, prefix=f"turn{turn}")
            await caller.go()
            await server.wait_for(requests=len(server.received) + chance.randrange(1, 300))
            await caller.kill()
        received = {body.split(b'"content":"')[1].split(b'"')[0].decode() for body in server.received}
    audit = Audit(db, SystemClock(), vault)
    started = await fetch("select id from backstay.audit_entry where action = 'model.call.started'")
    recorded = {(await audit.payload(owner, id))["request"]["messages"][0]["content"] for (id,) in started}
    assert len(received) > 3
    assert received <= recorded
    await survivor.sweeper.sweep()
    assert await fetch("select count(*) from backstay.call where state = 'open'") == [(0,)]
    assert await fetch("select count(*) from backstay.hold") == [(0,)]


SURFACES = [(wire, stream) for wire in ("openai-chat", "openai-responses", "anthropic", "gemini") for stream in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("surface", "stream"), [*SURFACES[1:], ("openai-embed", 0)])
async def test_the_budget_race_holds_on_every_surface(fetch, spawn, survivor, owner, surface, stream):
    await survivor.budgets.create(owner, "tenant", None, Decimal(3), "total")
    await survivor.limits.create(owner, "tenant", None, "requests", 10_000, "day")
    model = "sim:dev-hash?price=0.10" if surface == "openai-embed" else "sim:echo?price=0.10"
    callers = [await spawn(model=model, calls=100, surface=surface, stream=stream) for _ in range(3)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(caller.go() for caller in callers))
        results = await asyncio.gather(*(caller.result() for caller in callers))
    assert sum(result.get("ok", 0) for result in results) == 30
    assert sum(result.get("refused", 0) for result in results) == 270
    assert await fetch("select sum(cost), count(*) from backstay.ledger") == [(Decimal("3.00"), 30)]
    assert sorted(await fetch("select spent, held from backstay.budget_window")) == [(3, 0), (30, 0)]
    assert await fetch("select count(*) from backstay.hold") == [(0,)]


@pytest.mark.slow
@pytest.mark.parametrize(("surface", "stream"), SURFACES)
async def test_a_process_killed_in_the_middle_gives_everything_back_on_every_surface(
    fetch, spawn, survivor, owner, surface, stream
):
    await survivor.budgets.create(owner, "tenant", None, Decimal(5), "total")
    await survivor.limits.create(owner, "tenant", None, "concurrency", 50)
    server = SimServer()
    async with server.running() as url, asyncio.timeout(60):
        model = "openai:sim:echo?itl=100ms&tokens=1000"
        caller = await spawn(model=model, calls=10, stream=stream, surface=surface, base_url=url)
        await caller.go()
        await server.wait_for(requests=10)
        assert (await fetch("select count(*) from backstay.hold")) == [(20,)]
        await caller.kill()
        assert await survivor.sweeper.sweep() == 10
    assert await fetch("select spent, held from backstay.budget_window") == [(0, 0)] * 2
    assert await fetch("select count(*) from backstay.hold") == [(0,)]
    assert await fetch("select state, count(*) from backstay.call group by 1") == [("abandoned", 10)]
