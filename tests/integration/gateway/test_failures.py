"""What the gateway does when the provider, the database or time itself does not behave."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import aiohttp
import psycopg
import pytest
from aiohttp import web

from backstay.audit import Audit
from backstay.events import Events
from backstay.gateway import (
    BudgetExceeded,
    Gateway,
    PriceUnknown,
    ProviderFailed,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnreachable,
    StreamCut,
    Timeouts,
)
from backstay.gateway.providers.sim import SimProvider
from backstay.gateway.sim import Reset, Simulator
from backstay.kernel.clock import ManualClock, SystemClock
from backstay.kernel.errors import BadRequest, Invalid, Unavailable

SAY = [{"role": "user", "content": "one two three four"}]


def asked(model: str) -> dict:
    return {"model": model, "messages": SAY}


async def said(stream) -> str:
    return "".join([c["choices"][0]["delta"].get("content", "") async for c in stream if c["choices"]])


@pytest.mark.parametrize("provider_name", ["sim:", "openai:sim:"])
class TestFaults:
    async def test_a_missing_end_mark_is_no_failure(self, provider_name, gateway, owner, rows):
        assert (
            await said(gateway.stream(owner, asked(f"{provider_name}echo?fault=no-done"), feature="f"))
            == SAY[0]["content"]
        )
        assert [r["outcome"] for r in await rows("select outcome from backstay.call")] == ["ok"]

    async def test_a_malformed_event_is_skipped(self, provider_name, gateway, owner):
        assert (
            await said(gateway.stream(owner, asked(f"{provider_name}echo?fault=malformed:2"), feature="f"))
            == SAY[0]["content"]
        )

    async def test_a_cut_stream_never_ends_well(self, provider_name, gateway, owner):
        with pytest.raises(StreamCut) as caught:
            await said(gateway.stream(owner, asked(f"{provider_name}echo?fault=cut:2"), feature="f"))
        assert caught.value.usage.output_tokens == 2

    async def test_an_error_inside_a_good_status_is_an_error(self, provider_name, gateway, owner, rows):
        with pytest.raises(ProviderFailed, match="simulated fault"):
            await said(gateway.stream(owner, asked(f"{provider_name}echo?fault=error:2"), feature="f"))
        with pytest.raises(ProviderFailed, match="simulated fault"):
            await gateway.complete(owner, asked(f"{provider_name}echo?fault=error:2"), feature="f")
        assert [r["outcome"] for r in await rows("select outcome from backstay.call")] == ["failed", "failed"]

    async def test_a_cut_or_broken_answer_is_an_error(self, provider_name, gateway, owner):
        with pytest.raises(StreamCut):
            await gateway.complete(owner, asked(f"{provider_name}echo?fault=cut:2"), feature="f")
        with pytest.raises(ProviderFailed, match="not JSON"):
            await gateway.complete(owner, asked(f"{provider_name}echo?fault=malformed:2"), feature="f")

    async def test_a_reset_before_the_answer_is_tried_three_times(self, provider_name, gateway, owner, rows):
        with pytest.raises(ProviderUnreachable):
            await gateway.complete(owner, asked(f"{provider_name}echo?fault=reset"), feature="f")
        ledger = await rows("select attempt, outcome, cost from backstay.ledger order by attempt")
        assert [(r["attempt"], r["outcome"], r["cost"]) for r in ledger] == [
            (n, "provider_unreachable", 0) for n in (1, 2, 3)
        ]

    async def test_a_status_is_passed_on_or_explained(self, provider_name, gateway, owner):
        with pytest.raises(ProviderRefused) as caught:
            await gateway.complete(owner, asked(f"{provider_name}echo?fault=status:429:3s"), feature="f")
        assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "3")
        with pytest.raises(ProviderFailed, match="status 503"):
            await said(gateway.stream(owner, asked(f"{provider_name}echo?fault=status:503"), feature="f"))
        assert await said(gateway.stream(owner, asked(f"{provider_name}echo?fault=flap:1/2"), feature="f"))
        with pytest.raises(
            ProviderFailed, match="OPENAI_API_KEY" if "openai" in provider_name else "accepts every key"
        ):
            await gateway.complete(owner, asked(f"{provider_name}echo?fault=status:401"), feature="f")


async def test_a_second_try_may_succeed_and_is_billed_once(gateway, owner, provider, rows):
    class ResetsOnce(Simulator):
        async def answer(self, *args):
            if provider.requests == 1:
                raise Reset
            return await super().answer(*args)

    provider._simulator = ResetsOnce()
    answer = await gateway.complete(owner, asked("openai:sim:echo"), feature="f")
    assert answer["choices"][0]["message"]["content"] == SAY[0]["content"]
    ledger = await rows("select outcome, cost from backstay.ledger order by attempt")
    assert [r["outcome"] for r in ledger] == ["provider_unreachable", "ok"]
    assert ledger[0]["cost"] == 0 < ledger[1]["cost"] == answer.cost


async def test_nobody_listens(make_gateway, owner):
    gateway = await make_gateway("http://127.0.0.1:1/v1")
    with pytest.raises(ProviderUnreachable):
        await gateway.complete(owner, asked("openai:m"), feature="f")


@pytest.mark.parametrize(
    ("model", "phase"),
    [
        ("sim:echo?fault=silence", "first_token"),
        ("sim:echo?ttft=5s", "first_token"),
        ("openai:sim:echo?fault=stall:2", "idle"),
        ("sim:echo?itl=50ms&tokens=500", "total"),
    ],
)
async def test_each_limit_of_a_stream_has_its_error(make_gateway, provider, owner, rows, model, phase):
    gateway = await make_gateway(provider.url, timeouts=Timeouts(first_token=0.15, idle=0.3, total=0.7))
    with pytest.raises(ProviderTimeout) as caught:
        await said(gateway.stream(owner, asked(model), feature="f"))
    assert caught.value.phase == phase
    assert [r["state"] for r in await rows("select state from backstay.call")] == ["finished"]
    assert await rows("select 1 as one from backstay.hold") == []


async def test_a_plain_answer_has_a_total_limit(make_gateway, owner):
    gateway = await make_gateway(timeouts=Timeouts(total=0.1))
    with pytest.raises(ProviderTimeout) as caught:
        await gateway.complete(owner, asked("sim:echo?fault=silence"), feature="f")
    assert caught.value.phase == "total"


async def test_without_its_audit_entry_no_call_is_made(db, clock, vault, settings, provider, owner, rows):
    class Full(Audit):
        async def record_many(self, tx, entries):
            raise psycopg.OperationalError("disk full")

    changed = settings.model_copy(update={"openai_base_url": provider.url, "unknown_price": "0"})
    gateway = Gateway(db, clock, vault, Full(db, clock, vault), Events(db, clock), changed)
    with pytest.raises(Unavailable, match="could not be recorded, so it was not made"):
        await gateway.complete(owner, asked("openai:sim:echo"), feature="f")
    assert provider.requests == 0
    assert await rows("select 1 as one from backstay.call") == []
    await gateway.stop()


async def test_a_price_nobody_knows_is_refused(make_gateway, provider, owner):
    gateway = await make_gateway(provider.url, unknown_price="refuse")
    with pytest.raises(PriceUnknown, match="BACKSTAY_UNKNOWN_PRICE"):
        await gateway.complete(owner, asked("openai:sim:echo"), feature="f")
    assert provider.requests == 0


async def test_a_call_that_settles_after_it_was_given_up_is_written_once(make_gateway, owner, rows):
    gateway = await make_gateway()
    budget = await gateway.budgets.create(owner, "tenant", None, Decimal(1), "total")
    sweeping = await make_gateway(clock=ManualClock(SystemClock().now() + timedelta(hours=1)))
    stream = gateway.stream(owner, asked("sim:echo?price=0.10"), feature="f")
    await anext(stream)
    assert (await gateway.budgets.get(owner, budget.id)).held == Decimal("0.10")
    while await rows("select 1 as one from backstay.call where state = 'open'"):
        await sweeping.sweeper.sweep()
    assert (await gateway.budgets.get(owner, budget.id)).held == 0
    await said(stream)
    found = await gateway.budgets.get(owner, budget.id)
    assert (found.spent, found.held) == (Decimal("0.10"), 0)
    assert await rows("select state, outcome from backstay.call") == [{"state": "finished", "outcome": "ok"}]
    assert [r["cost"] for r in await rows("select cost from backstay.ledger")] == [Decimal("0.10")]


async def test_a_settlement_that_is_repeated_spends_once(make_gateway, owner, rows):
    gateway = await make_gateway()
    await gateway.budgets.create(owner, "tenant", None, Decimal(1), "total")
    kept = []
    submit = gateway._admission.settle
    gateway._admission.settle = lambda end, then: (kept.append(end), submit(end, then))[1]
    await gateway.complete(owner, asked("sim:echo?price=0.10"), feature="f")
    await submit(kept[0])  # as after a commit whose answer was lost
    assert await rows("select spent, held from backstay.budget_window") == [{"spent": Decimal("0.10"), "held": 0}]
    assert len(await rows("select 1 as one from backstay.ledger")) == 1


async def test_leaving_a_stream_early_bills_what_came(make_gateway, owner, rows):
    gateway = await make_gateway()
    stream = gateway.stream(owner, asked("sim:echo?itl=10ms"), feature="f")
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    await gateway.stop()
    (line,) = await rows("select outcome, output_tokens, estimated from backstay.ledger")
    assert line == {"outcome": "cancelled", "output_tokens": 1, "estimated": True}


async def test_leaving_while_being_admitted_leaves_nothing_held(make_gateway, owner, rows):
    gateway = await make_gateway()
    await gateway.budgets.create(owner, "tenant", None, Decimal(1), "total")
    await gateway.catalog.of(owner.tenant)  # known, so that the call goes straight to its admission
    asking = asyncio.create_task(gateway.complete(owner, asked("sim:echo?price=0.10"), feature="f"))
    await asyncio.sleep(0)  # it has submitted its admission, which cannot be written yet
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await gateway.stop()
    assert await rows("select spent, held from backstay.budget_window") == [{"spent": 0, "held": 0}]
    assert {r["state"] for r in await rows("select state from backstay.call")} <= {"finished"}


async def test_leaving_as_one_is_admitted_leaves_nothing_held(make_gateway, owner, rows):
    gateway = await make_gateway()
    await gateway.budgets.create(owner, "tenant", None, Decimal(1), "total")
    admit = gateway._admission.admit

    def admit_and_leave(*args):
        future = admit(*args)
        future.add_done_callback(lambda _: asking.cancel())  # told before the call is
        return future

    gateway._admission.admit = admit_and_leave
    asking = asyncio.create_task(gateway.complete(owner, asked("sim:echo?price=0.10"), feature="f"))
    with pytest.raises(asyncio.CancelledError):
        await asking
    await gateway.stop()
    assert await rows("select spent, held from backstay.budget_window") == [{"spent": 0, "held": 0}]
    assert await rows("select state, outcome from backstay.call") == [{"state": "finished", "outcome": "cancelled"}]


async def test_relaxed_answers_first_and_settles_after(make_gateway, owner, rows):
    gateway = await make_gateway(durability="relaxed")
    await gateway.complete(owner, asked("sim:echo?price=0.10"), feature="f")
    await gateway.stop()
    assert [r["cost"] for r in await rows("select cost from backstay.ledger")] == [Decimal("0.10")]


async def test_one_call_that_cannot_be_stored_does_not_fail_its_neighbours(make_gateway, owner):
    gateway = await make_gateway()
    good = [gateway.complete(owner, asked("sim:echo"), feature="f") for _ in range(3)]
    order = await gateway.order(owner, "openai-chat", "chat", asked("sim:echo"), feature="f")
    bad = gateway.answer(replace(order, tags=replace(order.tags, feature="a\x00b")))
    *answers, failure = await asyncio.gather(*good, bad, return_exceptions=True)
    assert all(answer["model"] == "sim:echo" for answer in answers)
    assert isinstance(failure, psycopg.DataError)


@pytest.mark.parametrize(
    "wrong",
    [
        {"feature": ""},
        {"feature": "a\x00b"},
        {"user": "\ud800"},
        {"idempotency": "a\nb"},
        {"request": {"seed": 2**70}},
        {"request": {"messages": [{"role": "user", "content": "\ud800"}]}},
        {"request": {"seed": object()}},
    ],
)
async def test_values_that_cannot_be_sent_or_stored_are_refused_by_name(make_gateway, owner, rows, wrong):
    gateway = await make_gateway()
    request = asked("sim:echo") | wrong.pop("request", {})
    with pytest.raises((BadRequest, Invalid)):
        await gateway.complete(owner, request, **({"feature": "f"} | wrong))
    assert await rows("select 1 as one from backstay.call") == []


async def test_a_stream_under_way_when_the_gateway_stops_ends_without_noise(make_gateway, owner, rows):
    gateway = await make_gateway()
    stream = gateway.stream(owner, asked("sim:echo?itl=10ms"), feature="f")
    await anext(stream)
    await gateway.stop()
    await stream.aclose()
    assert [r["state"] for r in await rows("select state from backstay.call")] == ["open"]  # the sweeper's, then
    assert len(await rows("select 1 as one from backstay.gateway_process")) == 1


async def test_budgets_bound_what_they_name_and_nothing_else(make_gateway, owner, other_owner):
    clock = ManualClock(SystemClock().now())
    gateway = await make_gateway(clock=clock)
    dime = asked("sim:echo?price=0.10")
    limits = {"user": "ada", "feature": "chat", "model": "sim:echo", "key": str(owner.key)}
    tags = {"feature": "chat", "user": "ada"}
    for scope, subject in limits.items():
        budget = await gateway.budgets.create(owner, scope, subject, Decimal("0.05"), "hour")
        with pytest.raises(BudgetExceeded, match=f"of {scope} {subject}"):
            await gateway.complete(owner, dime, **tags)
        await gateway.complete(other_owner, dime, **tags)
        await gateway.budgets.delete(owner, budget.id)
    await gateway.budgets.create(owner, "user", "bob", Decimal("0.05"), "hour")
    await gateway.budgets.create(owner, "feature", "chat", Decimal("0.05"), "hour", hard=False)
    await gateway.complete(owner, dime, **tags)
    budget = await gateway.budgets.create(owner, "tenant", None, Decimal("0.15"), "hour")
    await gateway.complete(owner, dime, **tags)
    with pytest.raises(BudgetExceeded):
        await gateway.complete(owner, dime, **tags)
    clock.advance(timedelta(hours=1))
    await gateway.complete(owner, dime, **tags)
    assert [row.cost for row in await gateway.spend(other_owner, "feature")] == [Decimal("0.40")]


async def test_the_reservation_covers_the_default_maximum(make_gateway, provider, owner, rows):
    gateway = await make_gateway(provider.url, unknown_price="1000", default_max_tokens=1000)
    await gateway.budgets.create(owner, "tenant", None, Decimal("0.99"), "total")
    with pytest.raises(BudgetExceeded):
        await gateway.complete(owner, asked("openai:sim:echo"), feature="f")
    await gateway.complete(owner, asked("openai:sim:echo") | {"max_tokens": 10}, feature="f")


def test_a_simulator_can_be_given(db, clock, vault, audit, settings):
    assert Gateway(db, clock, vault, audit, Events(db, clock), settings, providers=[SimProvider()])


async def test_a_proxy_carries_calls_to_providers(make_gateway, owner, provider):
    """A forward proxy: it is asked with the whole address and asks on."""
    asked_for = []

    async def forward(request: web.BaseRequest) -> web.Response:
        asked_for.append(str(request.url))
        async with (
            aiohttp.ClientSession() as session,
            session.post(str(request.url), data=await request.read(), headers=request.headers) as answer,
        ):
            return web.Response(body=await answer.read(), content_type="application/json")

    server = web.ServerRunner(web.Server(forward))
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    try:
        port = server.addresses[0][1]
        gateway = await make_gateway(provider.url, provider_proxy=f"http://127.0.0.1:{port}")
        answer = await gateway.complete(owner, asked("openai:sim:echo"), feature="f")
        assert answer["choices"][0]["message"]["content"] == SAY[0]["content"]
        assert asked_for == [f"{provider.url}/chat/completions"]
    finally:
        await server.cleanup()
