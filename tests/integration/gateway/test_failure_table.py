"""The failure table of the design, row by row: plain, streamed live, and streamed guarded, in every provider's format.

After each fault a healthy call succeeds, and nothing leaks: no connection, no hold, no open call, no reservation.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from backstay.gateway import (
    Gateway,
    GatewayError,
    ProviderFailed,
    ProviderRefused,
    ProviderTimeout,
    StreamCut,
    Timeouts,
)
from backstay.gateway.order import Itinerary, Order
from backstay.gateway.sim.server import SimServer

TEXT = "one two three four"
HEALTHY = "sim:echo"


@dataclass
class Told:
    """What the caller got: the text, and the error that ended it."""

    text: str = ""
    error: GatewayError | None = None


@dataclass
class Desk:
    """A gateway whose providers are the simulator on a socket; `way` is how it is asked."""

    gateway: Gateway
    owner: Any
    provider: str
    way: str
    rows: Callable[..., Awaitable[list[dict[str, Any]]]]

    async def ask(self, *models: str, turns: list[dict[str, str]] | None = None, **plan: Any) -> Told:
        """Asks along a plan of these models."""
        body: dict[str, Any] = {"model": HEALTHY, "messages": turns or [{"role": "user", "content": TEXT}]}
        if self.way != "plain":
            body["stream"] = True
        order = await self.gateway.order(self.owner, "openai-chat", "chat", body, feature="f")
        targets = [await self.target(model) for model in models]
        mode = "guarded" if self.way == "guarded" else "live"
        itinerary: Itinerary = replace(order.plan, targets=tuple(targets), mode=mode, **plan)
        return await self._run(replace(order, plan=itinerary))

    async def target(self, model: str) -> Any:
        name, _, window = model.partition("@")
        snapshot = await self.gateway.catalog.of(self.owner.tenant)
        at = datetime.now(UTC)
        return self.gateway._targets.of(snapshot, f"{self.provider}:{name}", at, int(window) if window else None)

    async def _run(self, order: Order) -> Told:
        told = Told()
        try:
            if self.way == "plain":
                answer = await self.gateway.answer(order)
                told.text = answer.body["choices"][0]["message"]["content"]
            else:
                async with aclosing(self.gateway.chunks(order)) as groups:
                    async for group in groups:
                        for chunk in group:
                            for choice in chunk.body.get("choices", ()):
                                told.text += choice["delta"].get("content") or ""
        except GatewayError as error:
            told.error = error
        return told

    async def tried(self) -> list[str]:
        """Outcomes of all attempts of the last call, in order."""
        found = await self.rows(
            "select outcome from backstay.ledger where call_id = (select max(id::text)::uuid from backstay.call) "
            "order by attempt"
        )
        return [row["outcome"] for row in found]

    async def is_well(self) -> None:
        """A healthy call succeeds, and nothing is left of those before."""
        assert self.gateway._upstream is not None
        assert self.gateway._upstream.in_use == 0
        assert (await self.ask("sim:echo?tokens=1")).text == "one"
        assert await self.rows("select 1 as one from backstay.hold") == []
        assert await self.rows("select 1 as one from backstay.call where state = 'open'") == []
        assert await self.rows("select 1 as one from backstay.budget_window where held <> 0") == []
        assert self.gateway._calls.open == 0
        assert self.gateway._upstream.in_use == 0


@pytest.fixture(params=["plain", "live", "guarded"])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["openai", "anthropic", "gemini"])
def named(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def desk(make_gateway, provider: SimServer, owner, rows, way, named) -> AsyncIterator[Desk]:
    root = provider.url.removesuffix("/v1")
    gateway = await make_gateway(
        provider.url,
        Timeouts(connect=1, first_token=0.4, idle=0.4, total=20),
        anthropic_base_url=root,
        gemini_base_url=root,
    )
    await gateway.budgets.create(owner, "tenant", None, 1000, "total")
    desk = Desk(gateway, owner, named, way, rows)
    yield desk
    await desk.is_well()


async def test_429_with_retry_after_is_waited_for_and_never_asked_sooner(desk: Desk, provider: SimServer):
    began = time.monotonic()
    told = await desk.ask("sim:echo?fault=flap:1/2:429:300ms")
    assert (told.text, told.error) == (TEXT, None)
    assert time.monotonic() - began >= 0.3
    assert await desk.tried() == ["provider_refused", "ok"]


async def test_429_with_retry_after_goes_to_the_fallback_at_once(desk: Desk):
    async with asyncio.timeout(10):  # as long as the first one asks for
        told = await desk.ask("sim:echo?fault=status:429:10s", HEALTHY)
    assert (told.text, told.error) == (TEXT, None)
    assert await desk.tried() == ["provider_refused", "ok"]


async def test_429_that_lasts_longer_than_the_deadline_is_passed_on(desk: Desk):
    told = await desk.ask("sim:echo?fault=status:429:30s")
    assert isinstance(told.error, ProviderRefused)
    assert (told.error.status, told.error.headers["retry-after"]) == (429, "30")
    assert await desk.tried() == ["provider_refused"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
async def test_a_failing_target_is_asked_twice_again_and_then_left_for_the_fallback(desk: Desk, status: int):
    told = await desk.ask(f"sim:echo?fault=status:{status}", HEALTHY)
    assert (told.text, told.error) == (TEXT, None)
    failure = "provider_refused" if status == 429 else "provider_failed"
    assert await desk.tried() == [failure] * 3 + ["ok"]


async def test_without_a_fallback_the_failure_is_told_after_a_bounded_number_of_attempts(desk: Desk):
    told = await desk.ask("sim:echo?fault=status:503")
    assert isinstance(told.error, ProviderFailed)
    assert "503" in told.error.detail
    assert await desk.tried() == ["provider_failed"] * 3


async def test_a_reset_before_the_headers_is_tried_again(desk: Desk):
    told = await desk.ask("sim:echo?fault=reset", HEALTHY)
    assert (told.text, told.error) == (TEXT, None)
    assert await desk.tried() == ["provider_unreachable"] * 3 + ["ok"]


async def test_a_silent_target_is_left_at_once(desk: Desk):
    if desk.way == "plain":
        pytest.skip("a whole answer has no first token: its limit is the total")
    told = await desk.ask("sim:echo?fault=silence", HEALTHY)
    assert (told.text, told.error) == (TEXT, None)
    assert await desk.tried() == ["provider_timeout", "ok"]


async def test_a_first_token_that_comes_late_is_not_waited_for(desk: Desk):
    if desk.way == "plain":
        pytest.skip("a whole answer has no first token: its limit is the total")
    told = await desk.ask("sim:echo?ttft=5s")
    assert isinstance(told.error, ProviderTimeout)
    assert told.error.phase == "first_token"
    assert await desk.tried() == ["provider_timeout"]


@pytest.mark.parametrize("fault", ["cut:2", "stall:2", "error:2", "bare:2"])
async def test_an_answer_that_breaks_off_never_ends_cleanly(desk: Desk, fault: str):
    if desk.way == "plain" and fault == "stall:2":
        pytest.skip("a whole answer that stalls is bounded by the total, 20 s here")
    told = await desk.ask(f"sim:echo?itl=5ms&fault={fault}")
    assert isinstance(told.error, ProviderFailed)
    if desk.way == "live":
        assert told.text == "one two"
        assert told.error.usage is not None
        assert told.error.usage.output_tokens == 2
    else:
        assert told.text == ""


@pytest.mark.parametrize("fault", ["cut:2", "stall:2", "error:2", "bare:2"])
async def test_a_guarded_answer_is_delivered_whole_by_the_fallback(desk: Desk, fault: str):
    if desk.way == "plain" and fault == "stall:2":
        pytest.skip("a whole answer that stalls is bounded by the total, 20 s here")
    told = await desk.ask(f"sim:echo?itl=5ms&fault={fault}", HEALTHY)
    if desk.way == "live":
        assert isinstance(told.error, StreamCut | ProviderFailed)
        assert told.text == "one two"  # what has left cannot be taken back
    else:
        assert (told.text, told.error) == (TEXT, None)
        assert (await desk.tried())[-1] == "ok"


@pytest.mark.parametrize("kind", ["error", "bare"])
@pytest.mark.parametrize(
    ("status", "outcomes"),
    [(503, ["provider_failed"] * 3), (429, ["provider_refused"] * 3), (400, ["provider_refused"])],
)
async def test_an_error_inside_a_good_status_is_what_its_own_status_says(
    desk: Desk, kind: str, status: int, outcomes: list[str]
):
    told = await desk.ask(f"sim:echo?fault={kind}:0:{status}", HEALTHY)
    assert (told.text, told.error) == (TEXT, None)
    assert await desk.tried() == [*outcomes, "ok"]


@pytest.mark.parametrize("kind", ["error", "bare"])
async def test_an_error_after_output_ends_the_answer_with_the_providers_reason(desk: Desk, kind: str):
    told = await desk.ask(f"sim:echo?itl=5ms&fault={kind}:2:429", retries=0)
    assert isinstance(told.error, ProviderRefused)
    assert told.error.status == 429
    assert "a simulated fault" in told.error.detail
    assert told.text == ("one two" if desk.way == "live" else "")


async def test_a_malformed_event_is_skipped_and_counted(desk: Desk):
    told = await desk.ask("sim:echo?fault=malformed:2", *([] if desk.way != "plain" else [HEALTHY]))
    assert (told.text, told.error) == (TEXT, None)


async def test_a_missing_end_mark_after_a_finish_reason_is_no_failure(desk: Desk):
    told = await desk.ask("sim:echo?fault=no-done")
    assert (told.text, told.error) == (TEXT, None)
    assert await desk.tried() == ["ok"]


async def test_what_is_too_long_goes_to_a_larger_window_and_to_no_other(desk: Desk):
    told = await desk.ask("sim:echo?fault=too-long@1000", "sim:extract@900", "sim:echo?tokens=1@2000")
    assert (told.text, told.error) == ("one", None)
    assert await desk.tried() == ["context_length_exceeded", "ok"]


async def test_what_is_too_long_for_all_is_told(desk: Desk):
    told = await desk.ask("sim:echo?fault=too-long@1000", "sim:extract@900")
    assert isinstance(told.error, ProviderRefused)
    assert told.error.status == 400
    assert await desk.tried() == ["context_length_exceeded"]


async def test_a_content_filter_is_final_unless_the_route_says_otherwise(desk: Desk):
    told = await desk.ask("sim:echo?fault=filtered", HEALTHY)
    assert isinstance(told.error, ProviderRefused)
    assert "content filter" in told.error.detail
    assert await desk.tried() == ["content_filter"]
    told = await desk.ask("sim:echo?fault=filtered", HEALTHY, fall_back_on_filter=True)
    assert (told.text, told.error) == (TEXT, None)


async def test_a_fallback_that_refuses_a_prefill_begins_the_answer_cleanly(desk: Desk):
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "I say:"}]
    told = await desk.ask("sim:echo?fault=status:503", "sim:echo?fault=prefill", turns=turns)
    assert (told.text, told.error) == (TEXT, None)
    assert (await desk.tried())[-2:] == ["provider_refused", "ok"]


async def test_a_fallback_that_refuses_is_not_the_final_error(desk: Desk):
    told = await desk.ask("sim:echo?fault=status:503", "sim:echo?fault=status:422")
    assert isinstance(told.error, ProviderFailed)
    assert "503" in told.error.detail


async def test_a_target_that_flaps_is_left_alone_and_comes_back(desk: Desk):
    flapping, other = "sim:echo?fault=flap:6/1000", "sim:extract?tokens=1"
    models = "select model, outcome from backstay.ledger order by at, call_id, attempt"
    for _ in range(3):
        assert (await desk.ask(flapping, other)).error is None
    assert await desk.tried() == ["ok"]  # after five failures in a row the first target is not even asked
    breaker = desk.gateway._health.breaker_of(await desk.target(flapping))
    assert breaker.state == "open"
    breaker._clock = lambda: time.monotonic() + 16
    told = await asyncio.gather(*(desk.ask(flapping, other) for _ in range(5)))
    assert all(one.error is None for one in told)
    outcomes = [(row["model"], row["outcome"]) for row in await desk.rows(models)]
    assert outcomes.count((flapping, "provider_failed")) == 5 + 1  # one probe among five calls
    assert breaker.state == "open"
    breaker._clock = lambda: time.monotonic() + 40
    assert (await desk.ask(flapping, other)).text == TEXT
    assert breaker.state == "closed"
    assert await desk.tried() == ["ok"]


async def test_a_second_target_is_asked_while_the_first_is_slow_and_the_slow_one_is_left(
    desk: Desk, provider: SimServer
):
    told = await desk.ask("sim:echo?itl=3s" if desk.way == "plain" else "sim:echo?ttft=3s", HEALTHY, hedge=0.05)
    assert (told.text, told.error) == (TEXT, None)
    assert await desk.tried() == ["cancelled", "ok"]
    await provider.wait_for(cancelled=1)


async def test_no_second_target_is_asked_when_the_first_is_quick(desk: Desk, provider: SimServer):
    assert (await desk.ask(HEALTHY, "sim:extract", hedge=1.0)).text == TEXT
    assert provider.requests == 1


async def test_when_both_of_a_hedge_fail_the_next_target_answers(desk: Desk):
    late_and_cut = "ttft=100ms&fault=cut:0"
    told = await desk.ask(f"sim:echo?{late_and_cut}", f"sim:extract?{late_and_cut}", HEALTHY, hedge=0.05, retries=0)
    assert (told.text, told.error) == (TEXT, None)
