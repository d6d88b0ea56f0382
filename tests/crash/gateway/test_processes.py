"""Budgets and evidence hold over several processes, and over processes that die."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal

import pytest

from backstay.audit import Audit
from backstay.events import Events
from backstay.gateway import Gateway
from backstay.gateway.sim.server import SimServer
from backstay.kernel.clock import ManualClock, SystemClock


async def _all(db, query):
    async with db.system_tx() as tx:
        return await (await tx.execute(query)).fetchall()


@pytest.fixture
async def survivor(db, vault, settings, clock) -> AsyncIterator[Gateway]:
    """A gateway that lives an hour later than the others: whoever does not beat now is dead to it."""
    later = ManualClock(SystemClock().now() + timedelta(hours=1))
    gateway = Gateway(db, later, vault, Audit(db, later, vault), Events(db, later), settings)
    yield gateway
    await gateway.stop()


async def test_a_thousand_calls_of_ten_cents_on_five_dollars_from_three_processes(db, spawn, survivor, owner):
    budget = await survivor.budgets.create(owner, "tenant", None, Decimal(5), "total")
    await survivor.budgets.create(owner, "key", str(owner.key), Decimal(1000), "total")
    callers = [await spawn(model="sim:echo?price=0.10", calls=count) for count in (333, 333, 334)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(caller.go() for caller in callers))
        results = await asyncio.gather(*(caller.result() for caller in callers))
    assert sum(result.get("ok", 0) for result in results) == 50
    assert sum(result.get("refused", 0) for result in results) == 950
    assert await _all(db, "select sum(cost), count(*) from backstay.ledger") == [(Decimal("5.00"), 50)]
    assert await _all(db, "select spent, held from backstay.budget_window") == [(Decimal("5.00"), 0)] * 2
    assert await _all(db, "select count(*) from backstay.hold") == [(0,)]
    assert (await survivor.budgets.get(owner, budget.id)).spent == Decimal(5)


async def test_a_killed_process_gives_back_what_it_held(db, spawn, survivor, owner):
    await survivor.budgets.create(owner, "tenant", None, Decimal(5), "total")
    server = SimServer()
    async with server.running() as url, asyncio.timeout(60):
        caller = await spawn(model="sim:echo?price=0.10&fault=silence", calls=3)
        other = await spawn(model="openai:sim:echo?itl=100ms&tokens=1000", calls=20, stream=True, base_url=url)
        await caller.go()
        await other.go()
        await server.wait_for(requests=20)
        while await _all(db, "select count(*) from backstay.call where provider = 'sim'") != [(3,)]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # another process commits them: there is no event to wait for
        ((held,),) = await _all(db, "select held from backstay.budget_window")
        assert held > Decimal("0.30")
        await caller.kill()
        await other.kill()
        assert await survivor.sweeper.sweep() == 23
    assert await _all(db, "select spent, held from backstay.budget_window") == [(0, 0)]
    assert await _all(db, "select count(*) from backstay.hold") == [(0,)]
    assert await _all(db, "select state, count(*) from backstay.call group by 1") == [("abandoned", 23)]
    abandoned = "select count(*) from backstay.audit_entry where action = 'model.call.abandoned'"
    assert await _all(db, abandoned) == [(23,)]
    assert await survivor.sweeper.sweep() == 0
    assert await _all(db, abandoned) == [(23,)]


async def test_whatever_the_provider_received_was_recorded_before(db, spawn, survivor, owner, vault):
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
    started = await _all(db, "select id from backstay.audit_entry where action = 'model.call.started'")
    recorded = {(await audit.payload(owner, id))["request"]["messages"][0]["content"] for (id,) in started}
    assert len(received) > 3
    assert received <= recorded
    await survivor.sweeper.sweep()
    assert await _all(db, "select count(*) from backstay.call where state = 'open'") == [(0,)]
    assert await _all(db, "select count(*) from backstay.hold") == [(0,)]
