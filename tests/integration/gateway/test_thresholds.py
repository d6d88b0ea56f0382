"""Notice of budgets that fill: each threshold once in each window, with the spend that reached it."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from backstay.events import Events
from backstay.gateway import BudgetExceeded
from backstay.gateway.budgets import Budgets
from backstay.kernel.clock import ManualClock

NOON = datetime(2026, 3, 4, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def budgets(db, clock, audit) -> Budgets:
    return Budgets(db, clock, audit)


@pytest.fixture
async def caller(make_caller, clock):
    return await make_caller(clock)


@pytest.fixture
def notices(db, clock, owner):
    """What was told so far, oldest first: (percent, spent)."""

    async def read(by=owner):
        found = await Events(db, clock).page(by, limit=200, type="budget.threshold")
        return [(event.payload["percent"], event.payload["spent"]) for event in reversed(found)]

    return read


@pytest.mark.parametrize("hard", [True, False])
async def test_each_threshold_is_told_once_when_the_spend_reaches_it(caller, budgets, owner, notices, hard):
    await budgets.create(owner, "tenant", None, Decimal(1), "day", hard=hard)
    for _ in range(4):
        await caller.spend("0.10")
    assert await notices() == []
    for _ in range(6):
        await caller.spend("0.10")
    assert await notices() == [(50, "0.50"), (80, "0.80"), (100, "1.00")]


async def test_a_notice_says_which_budget_and_when_it_resets(db, clock, caller, budgets, owner):
    budget = await budgets.create(owner, "feature", "f", Decimal("2.00"), "hour", hard=False)
    await caller.spend("1.20")
    (event,) = await Events(db, clock).page(owner, type="budget.threshold")
    assert event.payload == {
        "budget": str(budget.id),
        "scope": "feature",
        "subject": "f",
        "percent": 50,
        "spent": "1.20",
        "limit": "2.00",
        "hard": False,
        "window": "hour",
        "starts_at": "2026-03-04T12:00:00+00:00",
        "resets_at": "2026-03-04T13:00:00+00:00",
    }
    assert (event.tenant_id, event.at) == (owner.tenant, NOON)


async def test_a_total_budget_of_the_tenant_has_no_subject_and_no_reset(db, clock, caller, budgets, owner):
    await budgets.create(owner, "tenant", None, Decimal(1), "total")
    await caller.spend("0.60")
    (event,) = await Events(db, clock).page(owner, type="budget.threshold")
    assert (event.payload["subject"], event.payload["resets_at"]) == (None, None)


async def test_one_settlement_may_reach_several(caller, budgets, owner, notices):
    await budgets.create(owner, "tenant", None, Decimal(1), "day")
    await caller.spend("0.85")
    assert await notices() == [(50, "0.85"), (80, "0.85")]


async def test_what_is_held_is_not_spent(caller, budgets, owner, notices):
    await budgets.create(owner, "tenant", None, Decimal(1), "day")
    call = await caller.admit("1")
    assert await notices() == []
    await caller.end(call, "0.10")
    assert await notices() == []


async def test_a_new_window_tells_anew(caller, budgets, owner, clock, notices):
    await budgets.create(owner, "tenant", None, Decimal(1), "minute")
    late = await caller.admit("0.30")
    await caller.spend("0.50")
    clock.advance(timedelta(minutes=1))
    await caller.spend("0.60")
    # It counts in the window it was admitted in, and reaches that one's next threshold.
    await caller.end(late, "0.30")
    assert await notices() == [(50, "0.50"), (50, "0.60"), (80, "0.80")]


async def test_a_settlement_that_is_said_twice_tells_once(caller, budgets, owner, notices):
    await budgets.create(owner, "tenant", None, Decimal(1), "day")
    call = await caller.admit("0.60")
    for _ in range(2):
        await caller.end(call, "0.60")
    assert await notices() == [(50, "0.60")]


async def test_a_soft_budget_refuses_nothing_and_tells_nothing_beyond_its_end(caller, budgets, owner, notices):
    await budgets.create(owner, "tenant", None, Decimal(1), "day", hard=False)
    for _ in range(5):
        await caller.spend("1")
    assert await notices() == [(50, "1"), (80, "1"), (100, "1")]


async def test_a_budget_of_nothing_is_reached_by_the_first_cent_only(caller, budgets, owner, notices):
    await budgets.create(owner, "tenant", None, Decimal(0), "day", hard=False)
    await caller.spend("0")
    assert await notices() == []
    await caller.spend("0.01")
    assert await notices() == [(50, "0.01"), (80, "0.01"), (100, "0.01")]


async def test_a_raised_budget_tells_of_its_new_thresholds_and_of_no_old_one(caller, budgets, owner, notices):
    budget = await budgets.create(owner, "tenant", None, Decimal(1), "day")
    await caller.spend("0.90")
    await budgets.change(owner, budget.id, Decimal("1.80"))
    await caller.spend("0.10")
    assert await notices() == [(50, "0.90"), (80, "0.90")]  # half of the new amount had been told of
    await budgets.change(owner, budget.id, Decimal(10))
    await caller.spend("3")
    assert await notices() == [(50, "0.90"), (80, "0.90")]
    await caller.spend("2")
    assert (await notices())[2:] == [(50, "6.00")]


async def test_a_lowered_budget_tells_with_the_next_settlement(caller, budgets, owner, notices):
    budget = await budgets.create(owner, "tenant", None, Decimal(10), "day")
    running = await caller.admit("1")
    await caller.spend("4")
    await budgets.change(owner, budget.id, Decimal(5))
    with pytest.raises(BudgetExceeded):
        await caller.admit("0.01")
    await caller.end(running, "0.10")
    assert await notices() == [(50, "4.10"), (80, "4.10")]


async def test_limits_tell_nothing(caller, make_gateway, owner, notices, clock):
    gateway = await make_gateway(clock=clock)
    await gateway.limits.create(owner, "tenant", None, "tokens", 100)
    await gateway.limits.create(owner, "tenant", None, "requests", 1)
    await caller.spend("1", tokens=100)
    assert await notices() == []


async def test_nothing_is_told_to_another_tenant(caller, budgets, owner, other_owner, notices):
    await budgets.create(owner, "tenant", None, Decimal(1), "day")
    await budgets.create(other_owner, "tenant", None, Decimal(1), "day")
    await caller.spend("1")
    assert len(await notices()) == 3
    assert await notices(other_owner) == []


async def test_what_cannot_be_told_is_not_spent_either(db, audit, clock, owner, budgets, make_caller, rows, notices):
    """The event is in the settling transaction: one that fails takes the settlement back, which is then tried again."""

    class Flaky(Events):
        failures = 1

        async def emit(self, tx, type, payload, *, tenant=None):
            id = await super().emit(tx, type, payload, tenant=tenant)
            if self.failures:
                self.failures -= 1
                await tx.execute("select nonsense")
            return id

    await budgets.create(owner, "tenant", None, Decimal(1), "day")
    caller = await make_caller(clock)
    caller.admission._events = Flaky(db, clock)
    await caller.spend("0.60")
    assert await notices() == [(50, "0.60")]
    assert await rows("select spent, held from backstay.budget_window") == [{"spent": Decimal("0.60"), "held": 0}]
    assert len(await rows("select 1 as one from backstay.ledger")) == 1


async def test_calls_that_end_together_tell_once(make_caller, clock, budgets, owner, notices):
    for scope, subject in {"tenant": None, "feature": "f", "model": "test:m"}.items():
        await budgets.create(owner, scope, subject, Decimal(10), "day")
    callers = [await make_caller(clock) for _ in range(3)]
    calls = [(caller, await caller.admit("0.10")) for caller in callers for _ in range(33)]
    await asyncio.gather(*(caller.end(call, "0.10") for caller, call in calls))
    assert sorted(percent for percent, _ in await notices()) == [50] * 3 + [80] * 3
