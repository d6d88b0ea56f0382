"""Calls that reserve what is expected, and take more while they run."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from backstay.gateway import BudgetExceeded, RateLimited
from backstay.gateway.budgets import Budgets
from backstay.gateway.limits import Limits
from backstay.gateway.models import Mode, OutputKind
from backstay.gateway.sweeper import Sweeper
from backstay.kernel.clock import ManualClock
from backstay.kernel.errors import Unavailable
from backstay.kernel.ids import new_id

NOON = datetime(2026, 3, 4, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def budgets(db, clock, audit) -> Budgets:
    return Budgets(db, clock, audit)


@pytest.fixture
def limits(db, clock, audit) -> Limits:
    return Limits(db, clock, audit)


@pytest.fixture
async def caller(make_caller, clock):
    return await make_caller(clock)


@pytest.fixture
def held(rows):
    async def read():
        found = await rows(
            "select b.unit, w.held from backstay.budget b join backstay.budget_window w on w.budget_id = b.id"
            " order by b.id"
        )
        return [(row["unit"], row["held"]) for row in found]

    return read


async def test_a_running_call_takes_more_from_every_window_it_holds_from(caller, budgets, limits, owner, held, rows):
    await budgets.create(owner, "tenant", None, Decimal(1), "day")
    await budgets.create(owner, "feature", "f", Decimal(5), "month", hard=False)
    await limits.create(owner, "tenant", None, "tokens", 1000)
    await limits.create(owner, "tenant", None, "concurrency", 1)
    await limits.create(owner, "tenant", None, "requests", 1)
    call = await caller.admit("0.10", 100)
    await caller.admission.extend(call, Decimal("0.25"), 250)
    assert await held() == [
        ("usd", Decimal("0.35")),
        ("usd", Decimal("0.35")),
        ("tokens", 350),
        ("concurrency", 1),
        ("requests", 0),
    ]
    assert [row["reserved"] for row in await rows("select reserved from backstay.call")] == [Decimal("0.35")]
    await caller.end(call, "0.30", 300)
    assert {amount for _, amount in await held()} == {0}
    assert await rows("select 1 as one from backstay.hold") == []


async def test_what_does_not_fit_is_refused_by_name_and_takes_nothing_anywhere(caller, budgets, limits, owner, held):
    await budgets.create(owner, "tenant", None, Decimal(1), "day")
    await budgets.create(owner, "feature", "f", Decimal("0.50"), "day")
    await limits.create(owner, "tenant", None, "tokens", 100)
    call = await caller.admit("0.40", 60)
    before = await held()
    with pytest.raises(BudgetExceeded, match=r"of feature f, 0.50 USD a day.*the rest of this call.*needs 0.11 more"):
        await caller.admission.extend(call, Decimal("0.11"))
    with pytest.raises(RateLimited, match=r"100 tokens a minute.*needs 41 more"):
        await caller.admission.extend(call, Decimal("0.01"), 41)
    assert await held() == before
    await caller.admission.extend(call, Decimal("0.10"), 40)
    await caller.end(call, "0.50", 100)


async def test_an_extension_counts_in_the_window_of_its_call(caller, limits, owner, clock, rows):
    await limits.create(owner, "tenant", None, "tokens", 100)
    call = await caller.admit(tokens=90)
    clock.advance(timedelta(minutes=1))
    await caller.spend(tokens=95)
    await caller.admission.extend(call, Decimal(0), 10)
    with pytest.raises(RateLimited):
        await caller.admission.extend(call, Decimal(0), 1)
    windows = await rows("select spent, held from backstay.budget_window order by starts_at")
    assert [(int(row["spent"]), int(row["held"])) for row in windows] == [(0, 100), (95, 0)]


async def test_a_lowered_concurrency_does_not_cut_what_runs(caller, limits, owner):
    limit = await limits.create(owner, "tenant", None, "concurrency", 2)
    await limits.create(owner, "tenant", None, "tokens", 100)
    call, _ = await caller.admit(), await caller.admit()
    await limits.change(owner, limit.id, 1)
    await caller.admission.extend(call, Decimal(1), 10)


async def test_a_call_that_nothing_bounds_is_extended_without_asking(caller, db):
    call = await caller.admit("1", 10)
    await db.close()
    await caller.admission.extend(call, Decimal(1), 10)


async def test_a_call_whose_budget_was_lifted_goes_on(caller, budgets, owner):
    budget = await budgets.create(owner, "tenant", None, Decimal(1))
    call = await caller.admit("1")
    await budgets.delete(owner, budget.id)
    await caller.admission.extend(call, Decimal(100))
    await caller.end(call, "101")


async def test_a_call_that_was_given_up_gets_no_more(db, audit, caller, budgets, owner, held):
    await budgets.create(owner, "tenant", None, Decimal(1))
    call = await caller.admit("0.10")
    later = ManualClock(NOON + timedelta(hours=1))
    assert await Sweeper(db, later, audit, new_id(), timedelta(seconds=30)).sweep() == 1
    with pytest.raises(Unavailable, match="given up while its process was silent"):
        await caller.admission.extend(call, Decimal("0.10"))
    assert await held() == [("usd", 0)]


async def test_extensions_that_come_together_are_exact(make_caller, clock, budgets, owner, held):
    await budgets.create(owner, "tenant", None, Decimal(1), "day")
    callers = [await make_caller(clock) for _ in range(3)]
    calls = [(caller, await caller.admit("0.01")) for caller in callers for _ in range(4)]
    asked = [caller.admission.extend(call, Decimal("0.03")) for caller, call in calls * 10]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert results.count(None) == 29  # 0.12 were held, 29 times 0.03 fit beside it
    assert sum(isinstance(result, BudgetExceeded) for result in results) == 91
    assert await held() == [("usd", Decimal("0.99"))]


async def test_without_the_database_nothing_more_is_given(caller, budgets, owner, monkeypatch):
    async def gone(tx, wanted):
        raise psycopg.OperationalError("server closed the connection")

    await budgets.create(owner, "tenant", None, Decimal(1))
    call = await caller.admit("0.10")
    with monkeypatch.context() as patch, pytest.raises(Unavailable, match="what it holds, it keeps"):
        patch.setattr("backstay.gateway.store.held_windows", gone)
        await caller.admission.extend(call, Decimal("0.10"))
    await caller.admission.extend(call, Decimal("0.10"))


def kind(owner, feature="f", model="m"):
    return OutputKind(owner.tenant, feature, "test", model)


async def answer(caller, tokens, outcome="ok", mode=Mode.EXPECTED, **about):
    """`tokens` written, a third as many read."""
    call = await caller.admit(mode=mode, **about)
    await caller.end(call, tokens=tokens * 4 // 3, outcome=outcome)


async def test_nineteen_of_twenty_recent_answers_stayed_within_what_is_expected(caller, owner, clock):
    assert await caller.admission.expected_output(kind(owner)) is None
    for tokens in (*range(3, 300, 3), 3000):
        await answer(caller, tokens)
    assert await caller.admission.expected_output(kind(owner)) == 285
    for _ in range(100):
        await answer(caller, 30)
    assert await caller.admission.expected_output(kind(owner)) == 285  # remembered for a minute
    clock.advance(timedelta(minutes=1))
    assert await caller.admission.expected_output(kind(owner)) == 30


async def test_every_kind_is_expected_on_its_own(make_caller, caller, clock, owner, other_owner):
    theirs = await make_caller(clock, by=other_owner)
    await answer(caller, 300)
    await answer(caller, 600, feature="g")
    await answer(caller, 900, model="n")
    await answer(theirs, 1200)
    expected = caller.admission.expected_output
    wanted = [kind(owner), kind(owner, feature="g"), kind(owner, model="n"), kind(other_owner), kind(owner, "g", "n")]
    assert await asyncio.gather(*map(expected, wanted)) == [300, 600, 900, 1200, None]


async def test_only_whole_answers_of_calls_that_expect_are_learned_from(caller, owner):
    await answer(caller, 300, outcome="cancelled")
    await answer(caller, 300, mode=Mode.STRICT)
    assert await caller.admission.expected_output(kind(owner)) is None
    call = await caller.admit(mode=Mode.EXPECTED)
    for _ in range(2):  # said twice, learned once
        await caller.end(call, tokens=4)
    await answer(caller, 300)
    assert await caller.admission.expected_output(kind(owner)) == 300


async def test_an_answer_of_absurd_length_is_settled(caller, owner, rows):
    await answer(caller, 3 * 10**15)
    assert [row["state"] for row in await rows("select state from backstay.call")] == ["finished"]


async def test_without_the_database_nothing_is_expected(caller, owner, db):
    await answer(caller, 300)
    await db.close()
    assert await caller.admission.expected_output(kind(owner)) is None
