"""Works through a plan until one target answers: retries, falls back, hedges, and leaves failing targets alone.

Whatever an attempt has given out to the client ends the choice: `once` must give nothing out before it returns.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from ..kernel import telemetry
from ..kernel.errors import BadRequest
from ..outbound import Breaker, Breakers, Permit, RetryBudget, full_jitter
from .call import Call, Try
from .catalog.latency import LatencyBoard
from .errors import GatewayError, ProviderResting, ProviderTimeout
from .failures import Conduct, Verdict, conduct, refuses_prefill
from .order import Itinerary
from .providers import Target

Result = TypeVar("Result")
# `once(try, prefill)` makes one attempt.
Once = Callable[[Try, bool], Awaitable[Result]]

_MOST = 8  # attempts of one call, over all targets
_retries = telemetry.counter("backstay_gateway_retries_total", "Attempts repeated at the same target.", ["provider"])
_fallbacks = telemetry.counter("backstay_gateway_fallbacks_total", "Calls taken over from a target.", ["provider"])
_hedges = telemetry.counter(
    "backstay_gateway_hedges_total", "Second attempts begun while a first was slow.", ["provider"]
)


@dataclass(slots=True)
class Health:
    """What this process knows of its targets, shared by all calls."""

    breakers: Breakers[tuple[Hashable, str]]
    retries: RetryBudget
    latency: LatencyBoard

    def breaker(self, place: Hashable, key: str) -> Breaker:
        return self.breakers.of((place, key))

    def breaker_of(self, target: Target) -> Breaker:
        return self.breaker(target.place, target.provider.key)


class Attempts:
    """The attempts of one call."""

    def __init__(self, call: Call, health: Health) -> None:
        self._call, self._health = call, health
        self._plan: Itinerary = call.order.plan
        self._until = time.monotonic() + self._plan.timeouts.total

    async def first(self, once: Once[Result]) -> Result:
        """What the first target that answers gives.

        Raises:
            GatewayError: what went wrong at the first target that was asked; ProviderResting when none was.
        """
        self._health.retries.note_call()
        failure: GatewayError | BadRequest | None = None
        larger_than: int | None = None
        targets = list(self._plan.targets)
        while targets:
            target = targets.pop(0)
            if larger_than is not None and not _takes_more(target, larger_than):
                continue
            if failure is not None:
                _fallbacks.labels(self._last_asked()).inc()
            try:
                return await self._at(target, targets, once)
            except _Failed as failed:
                if failure is None or isinstance(failure, ProviderResting):
                    failure = failed.error
                if not failed.conduct.fall_back or len(self._call.tries) >= _MOST:
                    break
                if failed.conduct.larger:
                    larger_than = max(larger_than or 0, target.window or 0)
        raise failure or self._resting()

    async def _at(self, target: Target, others: list[Target], once: Once[Result]) -> Result:
        """Asks one target, again where that may help, and a second one meanwhile where the plan hedges."""
        prefill, left = True, self._plan.retries
        while True:
            try:
                return await self._hedged(target, others, once, prefill)
            except _Failed as failed:
                if prefill and self._is_fallback(target) and refuses_prefill(failed.error):
                    # A fallback that cannot continue an answer begins it cleanly.
                    prefill = False
                    continue
                wait = self._wait(target, failed.conduct, others, left)
                if wait is None:
                    raise
                left -= 1
                _retries.labels(target.provider.name).inc()
                await asyncio.sleep(wait)

    def _wait(self, target: Target, conduct: Conduct, others: list[Target], left: int) -> float | None:
        """Seconds until the same target may be asked again; None when it should not be."""
        if not conduct.retry or left <= 0 or len(self._call.tries) >= _MOST:
            return None
        if self._health.breaker_of(target).retry_after > 0:
            return None
        if conduct.after is not None and any(self._health.breaker_of(other).retry_after == 0 for other in others):
            return None  # another one can answer now
        wait = full_jitter(self._plan.retries - left) if conduct.after is None else conduct.after
        if time.monotonic() + wait >= self._until or not self._health.retries.take():
            return None
        return wait

    async def _hedged(self, target: Target, others: list[Target], once: Once[Result], prefill: bool) -> Result:
        if self._plan.hedge is None or not others or self._call.tries:
            return await self._attempt(target, once, prefill)
        first = asyncio.create_task(self._attempt(target, once, prefill))
        running = {first}
        try:
            done, _ = await asyncio.wait(running, timeout=self._plan.hedge)
            if done:
                return await first
            second = others.pop(0)
            _hedges.labels(second.provider.name).inc()
            running.add(asyncio.create_task(self._attempt(second, once, prefill)))
            return await _race(running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _attempt(self, target: Target, once: Once[Result], prefill: bool) -> Result:
        permit = self._health.breaker_of(target).ask()
        if permit is None:
            raise _Failed(self._resting(target), Conduct(health="unknown"))
        one = self._call.begin(target)
        started = time.monotonic()
        with permit:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._until - started):
                    result = await once(one, prefill)
            except TimeoutError:
                raise self._failed(one, ProviderTimeout("total", self._plan.timeouts.total), permit) from None
            except (GatewayError, BadRequest) as error:
                raise self._failed(one, error, permit) from error
            except BaseException:
                one.end("cancelled")
                raise
            permit.succeeded()
        self._health.latency.observe(target.place, time.monotonic() - started)
        self._call.winner = one
        self._plan.answered(target)
        return result

    def _failed(self, one: Try, error: GatewayError | BadRequest, permit: Permit) -> "_Failed":
        if isinstance(error, BadRequest):
            # Another target may speak a format that can say it.
            one.end(error.code)
            permit.forgotten()
            return _Failed(error, Conduct(health="unknown"))
        found = conduct(error, fall_back_on_filter=self._plan.fall_back_on_filter)
        one.end(error.code, error.usage)
        _tell(permit, found.health)
        return _Failed(error, found)

    def _is_fallback(self, target: Target) -> bool:
        return bool(self._call.tries) and self._call.tries[0].target is not target

    def _last_asked(self) -> str:
        return self._call.tries[-1].target.provider.name if self._call.tries else "none"

    def _resting(self, target: Target | None = None) -> ProviderResting:
        asked = self._plan.targets if target is None else (target,)
        wait = min((self._health.breaker_of(one).retry_after for one in asked), default=0.0)
        names = ", ".join(one.name for one in asked)
        return ProviderResting(
            f"{names} failed too often lately and is asked again in {wait:.0f} s",
            headers={"retry-after": str(max(1, round(wait)))},
        )


class _Failed(Exception):
    def __init__(self, error: "GatewayError | BadRequest", conduct: Conduct) -> None:
        super().__init__(str(error))
        self.error, self.conduct = error, conduct


async def _race(running: "set[asyncio.Task[Result]]") -> Result:
    """The first that succeeds; the last failure when none does."""
    waiting = set(running)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is None or not waiting:
                return await task


def _tell(permit: Permit, health: Verdict) -> None:
    {"good": permit.succeeded, "bad": permit.failed, "unknown": permit.forgotten}[health]()


def _takes_more(target: Target, than: int) -> bool:
    return target.window is None or target.window > than
