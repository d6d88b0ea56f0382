"""Budgets of runs: what a run and its children may spend, exactly, until the run ends."""

import asyncio
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest

from backstay.gateway import Allowance, BudgetExceeded
from backstay.kernel.errors import ConfigurationError, Invalid
from backstay.kernel.ids import new_id

TEN_CENTS = {"model": "sim:echo?price=0.10", "messages": [{"role": "user", "content": "hi"}]}


async def purse(gateway, db, by, text, run=None):
    """A run with a budget, and who it acts for."""
    run = run or new_id()
    async with db.tenant_tx(by.tenant) as tx:
        await gateway.budgets.open_purse(tx, by, run, Allowance.read(text))
    return run, replace(by, purses=(*by.purses, run))


async def outcome(gateway, by, **more):
    try:
        await gateway.complete(by, TEN_CENTS | more, feature="test")
    except BudgetExceeded:
        return "refused"
    return "ok"


async def close(gateway, db, by, run):
    async with db.tenant_tx(by.tenant) as tx:
        await gateway.budgets.close_purse(tx, by.tenant, run)


async def test_two_processes_together_spend_what_a_run_has_and_not_a_cent_more(make_gateway, db, owner):
    one, two = await make_gateway(), await make_gateway()
    run, within = await purse(one, db, owner, "0.50 USD")
    calls = [outcome(gateway, within) for gateway in (one, two) for _ in range(20)]
    assert Counter(await asyncio.gather(*calls)) == {"ok": 5, "refused": 35}
    [budget] = await one.budgets.list(owner)
    assert (budget.scope, budget.subject, budget.spent, budget.held) == ("run", str(run), Decimal("0.50"), 0)
    assert await outcome(one, owner) == "ok"  # others are not bound by it


async def test_the_budget_of_a_child_binds_within_the_one_above_it(make_gateway, db, owner):
    gateway = await make_gateway()
    _, parent = await purse(gateway, db, owner, "0.30 USD")
    _, child = await purse(gateway, db, parent, "0.20 USD")
    assert [await outcome(gateway, child) for _ in range(3)] == ["ok", "ok", "refused"]
    assert [await outcome(gateway, parent) for _ in range(2)] == ["ok", "refused"]


async def test_a_run_that_has_ended_spends_nothing_more_and_its_children_neither(make_gateway, db, audit, owner):
    gateway = await make_gateway()
    run, within = await purse(gateway, db, owner, "5 USD")
    assert await outcome(gateway, within) == "ok"
    await close(gateway, db, owner, run)
    with pytest.raises(BudgetExceeded, match=f"the budget of the run {run} is closed"):
        await gateway.complete(within, TEN_CENTS, feature="test")
    assert await outcome(gateway, within, model="sim:echo") == "refused"  # not even what costs nothing
    assert await gateway.budgets.list(owner) == []
    entries = await audit.entries(owner, limit=50)
    [closed] = [entry for entry in entries if entry.action == "budget.closed"]
    assert (closed.run_id, Decimal(closed.metadata["spent"])) == (run, Decimal("0.10"))
    assert [entry.outcome for entry in entries if entry.action == "model.call.refused"] == ["refused", "refused"]
    await close(gateway, db, owner, run)  # again changes nothing


async def test_the_run_of_another_tenant_is_no_purse(make_gateway, db, owner, other_owner):
    gateway = await make_gateway()
    run, _ = await purse(gateway, db, owner, "5 USD")
    assert await outcome(gateway, replace(other_owner, purses=(run,))) == "refused"
    await close(gateway, db, other_owner, run)
    assert len(await gateway.budgets.list(owner)) == 1


async def test_a_run_gets_its_budget_at_its_start_and_in_no_other_way(make_gateway, db, owner):
    gateway = await make_gateway()
    with pytest.raises(Invalid, match="a run gets its budget when it is started"):
        await gateway.budgets.create(owner, "run", str(new_id()), Decimal(1))
    with pytest.raises(Invalid, match="a run gets its budget when it is started"):
        await gateway.limits.create(owner, "run", str(new_id()), "tokens", 5)
    with pytest.raises(ConfigurationError, match="in total"):
        await purse(gateway, db, owner, "0.50 USD/day")
