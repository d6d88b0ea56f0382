"""Limits, thresholds and extensions hold over several processes, and over processes that die."""

import asyncio
from decimal import Decimal

from backstay.gateway.sim import Simulator
from backstay.gateway.sim.server import SimServer

WINDOWS = "select spent, held from backstay.budget_window order by budget_id"
HOLDS = "select count(*) from backstay.hold"
REFUSED = "select count(*) from backstay.audit_entry where action = 'model.call.refused'"
NOTICES = """select payload ->> 'budget' as budget, (payload ->> 'percent')::int as percent, count(*)
             from backstay.outbox where type = 'budget.threshold' group by 1, 2 order by 1, 2"""


async def race(callers):
    """What all of them report, added up."""
    async with asyncio.timeout(90):
        await asyncio.gather(*(caller.go() for caller in callers))
        results = await asyncio.gather(*(caller.result() for caller in callers))
    return {word: sum(result.get(word, 0) for result in results) for word in ("ok", "limited", "refused")}


async def until(check, fetch, query):
    """Waits for rows that other processes commit."""
    while not check(await fetch(query)):  # noqa: ASYNC110 -- another process commits them: there is no event
        await asyncio.sleep(0.02)


async def test_a_thousand_calls_on_a_limit_of_requests_from_three_processes(fetch, spawn, survivor, owner):
    await survivor.limits.create(owner, "tenant", None, "requests", 137, "total")
    await survivor.limits.create(owner, "feature", "race", "requests", 5000, "total")
    await survivor.budgets.create(owner, "key", str(owner.key), Decimal(1000), "total")
    callers = [await spawn(model="sim:echo?price=0.10", calls=count) for count in (333, 333, 334)]
    assert await race(callers) == {"ok": 137, "limited": 863, "refused": 0}
    # What one limit refused, the others have not counted.
    assert await fetch(WINDOWS) == [(137, 0), (137, 0), (Decimal("13.70"), 0)]
    assert await fetch(HOLDS) == [(0,)]


async def test_a_thousand_calls_on_a_limit_of_tokens_from_three_processes(fetch, spawn, survivor, owner):
    await survivor.limits.create(owner, "tenant", None, "tokens", 13_750, "total")
    callers = [await spawn("admitter.py", tokens=100, calls=count) for count in (333, 333, 334)]
    assert await race(callers) == {"ok": 137, "limited": 863, "refused": 0}
    assert await fetch(WINDOWS) == [(13_700, 0)]
    assert await fetch(HOLDS) == [(0,)]


async def test_tokens_that_were_not_used_are_there_for_others(fetch, spawn, survivor, owner):
    await survivor.limits.create(owner, "tenant", None, "tokens", 10_000, "total")
    callers = [await spawn("admitter.py", tokens=100, used_tokens=30, calls=100) for _ in range(3)]
    together = (await race(callers))["ok"]
    assert together >= 100  # so many fit at once
    assert await fetch(WINDOWS) == [(30 * together, 0)]
    rest = await spawn("admitter.py", tokens=100, used_tokens=30, calls=300, serial=True)
    # 331 calls of 30 leave less than the 100 that the next one reserves.
    assert (await race([rest]))["ok"] == 331 - together
    assert await fetch(WINDOWS) == [(331 * 30, 0)]


async def test_concurrency_is_never_exceeded_and_all_of_it_is_given_back(fetch, spawn, survivor, owner):
    class Counting(Simulator):
        """Counts who is inside, between the request and the first byte of the answer: less than a call is open."""

        inside = most = 0
        full, leave = asyncio.Event(), asyncio.Event()

        async def answer(self, *args):
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside == 4:
                self.full.set()
            await self.leave.wait()
            answer = await super().answer(*args)
            self.inside -= 1
            return answer

    await survivor.limits.create(owner, "tenant", None, "concurrency", 4)
    await survivor.limits.create(owner, "feature", "race", "concurrency", 100)
    counting = Counting()
    async with SimServer(counting).running() as url, asyncio.timeout(120):
        callers = [await spawn(model="openai:sim:echo", calls=40, patient=True, base_url=url) for _ in range(3)]
        await asyncio.gather(*(caller.go() for caller in callers))
        await counting.full.wait()
        # They come back again and again, while four are inside.
        await until(lambda found: found[0][0] >= 300, fetch, REFUSED)
        assert counting.inside == 4
        assert await fetch(WINDOWS) == [(0, 4), (0, 4)]
        counting.leave.set()
        results = await asyncio.gather(*(caller.result() for caller in callers))
    assert results == [{"ok": 40}] * 3
    assert counting.most == 4
    assert await fetch(WINDOWS) == [(0, 0), (0, 0)]
    assert await fetch(HOLDS) == [(0,)]


async def test_a_killed_process_gives_back_its_concurrency_and_its_tokens(fetch, spawn, survivor, owner):
    await survivor.limits.create(owner, "tenant", None, "concurrency", 3)
    await survivor.limits.create(owner, "tenant", None, "requests", 1000, "total")
    await survivor.limits.create(owner, "tenant", None, "tokens", 300, "total")
    hanging = await spawn("admitter.py", tokens=90, calls=3, hang=True)
    async with asyncio.timeout(60):
        await hanging.go()
        await until(lambda found: found == [(3,)], fetch, "select count(*) from backstay.call where state = 'open'")
    others = {"program": "admitter.py", "tokens": 100, "calls": 3, "serial": True}
    assert await race([await spawn(**others)]) == {"ok": 0, "limited": 3, "refused": 0}
    assert await fetch(WINDOWS) == [(0, 3), (3, 0), (0, 270)]
    await hanging.kill()
    assert await survivor.sweeper.sweep() == 3
    assert await fetch(WINDOWS) == [(0, 0), (3, 0), (0, 0)]  # the requests were made, and stay counted
    assert await fetch(HOLDS) == [(0,)]
    assert await race([await spawn(**others)]) == {"ok": 3, "limited": 0, "refused": 0}
    assert await fetch(WINDOWS) == [(0, 0), (6, 0), (300, 0)]


async def test_each_threshold_is_told_once_however_many_processes_settle(fetch, spawn, survivor, owner):
    hard = await survivor.budgets.create(owner, "tenant", None, Decimal(15), "total")
    soft = await survivor.budgets.create(owner, "feature", "race", Decimal(5), "total", hard=False)
    wide = await survivor.budgets.create(owner, "key", str(owner.key), Decimal(18), "total")
    callers = [await spawn("admitter.py", usd="0.05", calls=150) for _ in range(3)]
    assert await race(callers) == {"ok": 300, "limited": 0, "refused": 150}
    assert await fetch(NOTICES) == [
        *[(str(hard.id), percent, 1) for percent in (50, 80, 100)],
        *[(str(soft.id), percent, 1) for percent in (50, 80, 100)],
        *[(str(wide.id), percent, 1) for percent in (50, 80)],
    ]


async def test_extensions_are_exact_over_three_processes(fetch, spawn, survivor, owner):
    """Fifteen calls take cent after cent until nothing is left, and use all that they got."""
    await survivor.budgets.create(owner, "tenant", None, Decimal("5.00"), "total")
    await survivor.budgets.create(owner, "key", str(owner.key), Decimal(1000), "total")
    callers = [await spawn("admitter.py", usd="0.10", grain="0.01", calls=5) for _ in range(3)]
    assert await race(callers) == {"ok": 15, "limited": 0, "refused": 0}
    assert await fetch(WINDOWS) == [(Decimal("5.00"), 0)] * 2
    assert await fetch("select sum(cost), count(*) from backstay.ledger") == [(Decimal("5.00"), 15)]
    assert await fetch(HOLDS) == [(0,)]
