"""Limits of requests, tokens and concurrency: what they admit, what they give back, and what they tell."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from tempfile import TemporaryFile

import pytest

from backstay.gateway import BudgetExceeded, LimitExists, LimitNotFound, RateLimited
from backstay.gateway.budgets import Budgets
from backstay.gateway.limits import Limits
from backstay.kernel.clock import ManualClock
from backstay.kernel.errors import Forbidden, Invalid
from backstay.kernel.principal import Principal

NOON = datetime(2026, 3, 4, 12, 0, 30, tzinfo=UTC)
HELLO = {"model": "sim:echo?price=0.10", "messages": [{"role": "user", "content": "hello there my friend"}]}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def limits(db, clock, audit) -> Limits:
    return Limits(db, clock, audit)


@pytest.fixture
def budgets(db, clock, audit) -> Budgets:
    return Budgets(db, clock, audit)


@pytest.fixture
async def caller(make_caller, clock):
    return await make_caller(clock)


async def figures(rows, unit):
    found = await rows(
        "select w.spent, w.held from backstay.budget b join backstay.budget_window w on w.budget_id = b.id "
        "where b.unit = %(unit)s order by w.starts_at",
        {"unit": unit},
    )
    return [(int(row["spent"]), int(row["held"])) for row in found]


async def test_requests_are_counted_when_they_are_admitted_and_never_given_back(caller, limits, owner, rows):
    await limits.create(owner, "tenant", None, "requests", 2)
    first = await caller.admit()
    assert await figures(rows, "requests") == [(1, 0)]
    await caller.end(first, outcome="failed")
    await caller.admit()
    with pytest.raises(RateLimited, match=r"2 requests a minute, is used up.*resets at 2026-03-04T12:01:00"):
        await caller.admit()
    assert await figures(rows, "requests") == [(2, 0)]
    assert await rows("select 1 as one from backstay.hold") == []


async def test_tokens_are_held_as_reserved_and_counted_as_used(caller, limits, owner, rows):
    await limits.create(owner, "tenant", None, "tokens", 1000)
    call = await caller.admit(tokens=700)
    assert await figures(rows, "tokens") == [(0, 700)]
    with pytest.raises(RateLimited, match=r"0 tokens are used and 700 held by running calls, the call may use 301"):
        await caller.admit(tokens=301)
    await caller.end(call, tokens=120)
    assert await figures(rows, "tokens") == [(120, 0)]
    await caller.admit(tokens=880)


async def test_a_call_larger_than_the_whole_limit_is_told_that_it_never_fits(caller, limits, owner):
    await limits.create(owner, "tenant", None, "tokens", 100)
    with pytest.raises(RateLimited, match=r"can never admit this call: it alone may use 101 tokens") as caught:
        await caller.admit(tokens=101)
    assert caught.value.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.headers


async def test_concurrency_is_held_while_a_call_is_open(caller, limits, owner, rows):
    await limits.create(owner, "feature", "f", "concurrency", 2)
    first, second = await caller.admit(), await caller.admit()
    with pytest.raises(RateLimited, match=r"of feature f, 2 calls at a time.*2 are open") as caught:
        await caller.admit()
    assert (caught.value.headers["retry-after"], caught.value.headers["x-should-retry"]) == ("1", "true")
    await caller.admit(feature="other")
    await caller.end(first, outcome="cancelled")
    third = await caller.admit()
    for call in (second, third):
        await caller.end(call)
    assert await figures(rows, "concurrency") == [(0, 0)]


async def test_windows_roll_over(caller, limits, owner, clock, rows):
    await limits.create(owner, "tenant", None, "requests", 1)
    await limits.create(owner, "tenant", None, "tokens", 100, "hour")
    late = await caller.admit(tokens=60)
    with pytest.raises(RateLimited) as caught:
        await caller.admit()
    assert caught.value.headers["retry-after"] == "30"
    clock.advance(timedelta(seconds=29.999))
    with pytest.raises(RateLimited):
        await caller.admit()
    clock.advance(timedelta(milliseconds=1))
    await caller.admit()
    clock.advance(timedelta(hours=1))
    await caller.admit(tokens=100)
    # A call is counted in the window under which it was admitted, however late it ends.
    await caller.end(late, tokens=50)
    assert await figures(rows, "tokens") == [(50, 0), (0, 100)]
    assert await figures(rows, "requests") == [(1, 0), (1, 0), (1, 0)]


async def test_processes_that_begin_a_window_together_lose_no_call(make_caller, limits, owner, clock, rows):
    for scope, subject in {"tenant": None, "feature": "f", "user": "ada", "model": "test:m"}.items():
        await limits.create(owner, scope, subject, "requests", 7)
        await limits.create(owner, scope, subject, "tokens", 1000)
    callers = [await make_caller(clock) for _ in range(4)]
    for _ in range(10):
        asked = [caller.spend(tokens=1, user="ada") for caller in callers for _ in range(2)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(result) for result in results if isinstance(result, Exception)] == [RateLimited]
        clock.advance(timedelta(minutes=1))
    assert set(await figures(rows, "requests")) == {(7, 0)}
    assert set(await figures(rows, "tokens")) == {(7, 0)}


async def test_windows_that_ended_long_ago_are_dropped_unless_something_is_held_from_them(
    caller, limits, owner, clock, rows
):
    await limits.create(owner, "tenant", None, "tokens", 100)
    await caller.spend(tokens=10)
    clock.advance(timedelta(minutes=1))
    held = await caller.admit(tokens=20)
    clock.advance(timedelta(days=1))
    await caller.spend(tokens=30)
    assert await figures(rows, "tokens") == [(10, 0), (0, 20), (30, 0)]
    clock.advance(timedelta(days=2))
    await caller.spend(tokens=40)
    assert await figures(rows, "tokens") == [(0, 20), (30, 0), (40, 0)]
    await caller.end(held, tokens=20)
    clock.advance(timedelta(days=2))
    await caller.spend(tokens=50)
    assert await figures(rows, "tokens") == [(40, 0), (50, 0)]


@pytest.mark.parametrize("unit", ["usd", "requests", "tokens", "concurrency"])
async def test_a_call_that_one_refuses_has_consumed_nothing_of_the_others(caller, budgets, limits, owner, rows, unit):
    """Ten others, around the one that refuses, in every scope."""
    for scope, subject in {"tenant": None, "feature": "f", "user": "ada", "model": "test:m"}.items():
        await budgets.create(owner, scope, subject, Decimal(10), "day")
        for counted in ("requests", "tokens"):
            await limits.create(owner, scope, subject, counted, 1000, "hour")
        await limits.create(owner, scope, subject, "concurrency", 1000)
    if unit == "usd":
        await budgets.create(owner, "key", str(owner.key), Decimal("0.05"), "day")
    else:
        await limits.create(owner, "key", str(owner.key), unit, 0)
    for _ in range(3):
        with pytest.raises(BudgetExceeded if unit == "usd" else RateLimited, match=f"of key {owner.key}"):
            await caller.admit("0.10", 100, user="ada")
    assert len(await rows("select 1 as one from backstay.budget_window")) == 17
    assert await rows("select 1 as one from backstay.budget_window where spent <> 0 or held <> 0") == []
    assert await rows("select 1 as one from backstay.hold") == []
    assert await rows("select 1 as one from backstay.call") == []
    refused = await rows("select metadata from backstay.audit_entry where action = 'model.call.refused'")
    assert [entry["metadata"]["unit"] for entry in refused] == [unit] * 3


async def test_two_tenants_never_share_a_limit(make_caller, clock, limits, owner, other_owner, rows):
    ours, theirs = await make_caller(clock), await make_caller(clock, by=other_owner)
    about = {"feature": "f", "user": "ada", "model": "m"}
    for scope, subject in {"tenant": None, "feature": "f", "user": "ada", "model": "test:m"}.items():
        for unit in ("requests", "tokens", "concurrency"):
            made = await limits.create(owner, scope, subject, unit, 0)
            with pytest.raises(RateLimited):
                await ours.admit(tokens=1, **about)
            call = await theirs.admit(tokens=1, **about)
            assert call.windows == ()
            assert call.headers == ()
            for act in (limits.get, limits.delete):
                with pytest.raises(LimitNotFound):
                    await act(other_owner, made.id)
            with pytest.raises(LimitNotFound):
                await limits.change(other_owner, made.id, 5)
            await limits.delete(owner, made.id)
    await limits.create(other_owner, "tenant", None, "requests", 1)
    assert await limits.list(owner) == []
    for _ in range(3):
        await ours.admit()
    assert [limit.used for limit in await limits.list(other_owner)] == [0]


async def test_every_answer_tells_what_the_tightest_limits_have_left(caller, budgets, limits, owner):
    assert (await caller.admit()).headers == ()
    await limits.create(owner, "tenant", None, "requests", 10)
    await limits.create(owner, "feature", "f", "requests", 3, "hour")
    await limits.create(owner, "tenant", None, "tokens", 1000, "day")
    first, second = await caller.admit(tokens=100), await caller.admit(tokens=200)
    assert dict(first.headers) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"59m30s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"900",
        b"x-ratelimit-reset-tokens": b"11h59m30s",
    }
    assert dict(second.headers)[b"x-ratelimit-remaining-tokens"] == b"700"
    await budgets.create(owner, "tenant", None, Decimal(1), "day")
    with pytest.raises(BudgetExceeded) as caught:
        await caller.admit("2")
    assert caught.value.headers["x-ratelimit-remaining-requests"] == "1"
    assert caught.value.headers["x-should-retry"] == "false"
    await caller.admit()
    with pytest.raises(RateLimited) as limited:
        await caller.admit()
    assert limited.value.headers["x-ratelimit-remaining-requests"] == "0"
    assert limited.value.headers["x-ratelimit-reset-requests"] == "59m30s"
    assert limited.value.headers["retry-after"] == str(59 * 60 + 30)


async def test_another_amount_binds_the_next_call_in_the_running_window(caller, budgets, limits, owner, clock, rows):
    limit = await limits.create(owner, "tenant", None, "requests", 1)
    budget = await budgets.create(owner, "tenant", None, Decimal(1))
    await caller.spend("1")
    with pytest.raises(RateLimited):
        await caller.admit()
    changed = await limits.change(owner, limit.id, 3)
    assert (changed.limit, changed.used) == (3, 1)
    with pytest.raises(BudgetExceeded):
        await caller.admit("1")
    changed = await budgets.change(owner, budget.id, Decimal("2.5"))
    assert (changed.limit, changed.spent) == (Decimal("2.5"), Decimal(1))
    await caller.admit("1.5")
    for wrong in (-1, 1.5, "many"):
        with pytest.raises(Invalid, match="the limit is wrong: Input should be"):
            await limits.change(owner, limit.id, wrong)
    actions = await rows(
        "select action, metadata ->> 'limit' as said from backstay.audit_entry where action like '%.ch%%'"
    )
    assert [(entry["action"], entry["said"]) for entry in actions] == [
        ("limit.changed", "3"),
        ("budget.changed", "2.5"),
    ]


async def test_budgets_and_limits_are_two_lists(budgets, limits, owner):
    budget = await budgets.create(owner, "tenant", None, Decimal(1), "minute")
    limit = await limits.create(owner, "tenant", None, "tokens", 5, "minute")
    assert [found.id for found in await budgets.list(owner)] == [budget.id]
    assert [found.id for found in await limits.list(owner)] == [limit.id]
    with pytest.raises(LimitNotFound):
        await limits.get(owner, budget.id)
    with pytest.raises(LimitNotFound):
        await limits.delete(owner, budget.id)
    assert (await budgets.get(owner, budget.id)).limit == Decimal(1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"unit": "usd"}, "unit: "),
        ({"unit": "bytes"}, "unit: "),
        ({"limit": -1}, "limit: "),
        ({"limit": 1.5}, "limit: "),
        ({"scope": "user"}, "every other scope needs one"),
        ({"subject": "ada"}, "`tenant` has no subject"),
        ({"unit": "concurrency", "window": "day"}, "leave the window out"),
        ({"window": "week"}, "window: "),
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused_with_the_reason(limits, owner, given, said):
    right = {"scope": "tenant", "subject": None, "unit": "requests", "limit": 5}
    with pytest.raises(Invalid, match=said):
        await limits.create(owner, **(right | given))


async def test_a_second_limit_of_the_same_terms_is_a_conflict(limits, owner):
    await limits.create(owner, "tenant", None, "requests", 5)
    await limits.create(owner, "tenant", None, "requests", 50, "hour")
    await limits.create(owner, "tenant", None, "tokens", 5)
    with pytest.raises(LimitExists, match="a limit of the tenant by minute already; change or delete it"):
        await limits.create(owner, "tenant", None, "requests", 6)


async def test_limits_need_the_permission_of_budgets(limits, owner):
    reader = Principal(owner.tenant, owner.id, "reader", frozenset({"budgets:read"}))
    stranger = Principal(owner.tenant, owner.id, "stranger", frozenset({"gateway:call"}))
    with pytest.raises(Forbidden, match="budgets:write"):
        await limits.create(reader, "tenant", None, "requests", 5)
    limit = await limits.create(owner, "tenant", None, "requests", 5)
    for act in (limits.delete(reader, limit.id), limits.change(reader, limit.id, 6), limits.list(stranger)):
        with pytest.raises(Forbidden):
            await act


async def test_a_limit_of_a_transaction_that_rolls_back_binds_nobody(db, caller, limits, owner):
    class Oops(Exception):
        pass

    with pytest.raises(Oops):
        async with db.tenant_tx(owner.tenant) as tx:
            await limits.create(owner, "tenant", None, "requests", 0, tx=tx)
            raise Oops
    await caller.admit()
    assert await limits.list(owner) == []


async def test_a_model_call_is_counted_whatever_comes_of_it(make_gateway, owner, rows):
    gateway = await make_gateway()
    await gateway.limits.create(owner, "tenant", None, "requests", 2, "total")
    await gateway.limits.create(owner, "tenant", None, "concurrency", 1)
    await gateway.limits.create(owner, "tenant", None, "tokens", 1_000_000, "total")
    await gateway.complete(owner, HELLO, feature="f")
    stream = gateway.stream(owner, HELLO, feature="f")
    await anext(stream)
    with pytest.raises(RateLimited):
        await gateway.complete(owner, HELLO, feature="f")
    await stream.aclose()
    await gateway.stop()
    assert await figures(rows, "requests") == [(2, 0)]
    assert await figures(rows, "concurrency") == [(0, 0)]
    ((used, held),) = await figures(rows, "tokens")
    assert used > 0 == held


async def test_limits_and_budgets_cost_a_call_no_round_trip(make_gateway, owner):
    """By what is sent: a plain query or a Sync is answered before anything else is sent."""
    gateway = await make_gateway(lease_seconds=60.0)  # no heartbeat and no sweep in between
    for _ in range(8):  # until every statement is prepared
        await gateway.complete(owner, HELLO, feature="f")
    async with round_trips(gateway) as without:
        await gateway.complete(owner, HELLO, feature="f")
    await gateway.budgets.create(owner, "tenant", None, Decimal(1000), "total")
    for unit in ("requests", "tokens", "concurrency"):
        await gateway.limits.create(owner, "tenant", None, unit, 1_000_000)
    for _ in range(8):
        await gateway.complete(owner, HELLO, feature="f")
    async with round_trips(gateway) as bound:
        await gateway.complete(owner, HELLO, feature="f")
    assert len(bound) == len(without) > 0


@asynccontextmanager
async def round_trips(gateway) -> AsyncIterator[list[bytes]]:
    """What ended a round trip of the gateway's connections while the block ran."""
    pool = gateway._db._pools["backstay_system"]
    trips: list[bytes] = []
    connections = [await pool.getconn() for _ in range(pool.get_stats()["pool_size"])]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile()) for _ in connections]
        for connection, file in zip(connections, files, strict=True):
            connection.pgconn.trace(file.fileno())
            await pool.putconn(connection)
        yield trips
        for connection, file in zip(connections, files, strict=True):
            connection.pgconn.untrace()
            file.seek(0)
            sent = [line.split(b"\t") for line in file.read().splitlines()]
            trips += [part[3] for part in sent if part[1:2] == [b"F"] and part[3] in (b"Sync", b"Query")]
