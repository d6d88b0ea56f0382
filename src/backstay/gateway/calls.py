"""One model call from admission to settlement, plain or streamed.

A call that was admitted is settled in every case: answered, failed, cut off, or left by its client.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson

from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.errors import Unavailable
from ..kernel.ids import new_id
from .admission import Admission
from .batch import Stopped
from .errors import GatewayError, ProviderFailed, ProviderRefused, ProviderTimeout, ProviderUnreachable, StreamCut
from .exchange import Exchange, read
from .models import ZERO, Admitted, Attempt, Reservation, Settlement, Tags, Timeouts, Usage
from .providers import Target
from .sse import EventTooLarge, SseParser
from .transcript import Chunk, Transcript
from .wire import openai as wire

_log = telemetry.log("gateway")
_requests = telemetry.counter("backstay_gateway_calls_total", "Model calls ended.", ["provider", "model", "outcome"])
_seconds = telemetry.histogram("backstay_gateway_call_seconds", "Model calls, begin to end.", ["provider", "model"])
_tokens = telemetry.counter("backstay_gateway_tokens_total", "Tokens used.", ["provider", "model", "direction"])
_cost = telemetry.counter("backstay_gateway_cost_usd_total", "USD spent.", ["provider", "model"])
_malformed = telemetry.counter("backstay_gateway_malformed_events_total", "Events of providers skipped.", ["provider"])
_retries = telemetry.counter("backstay_gateway_retries_total", "Attempts repeated.", ["provider"])
RETRIES = 2
_BACKOFF = 0.1
_DRAIN = 0.05
_SETTLE_LIMIT = 10.0
_PASSED_ON = frozenset({400, 404, 409, 413, 415, 422, 429})
_TOLD = ("retry-after", "retry-after-ms", "x-should-retry")


@dataclass(frozen=True, slots=True)
class Order:
    """A checked request with its target and the most it may cost."""

    target: Target
    tags: Tags
    kind: str
    path: str
    body: Mapping[str, Any]
    upstream_body: bytes
    headers: Mapping[str, str]
    reserve: Any
    streamed: bool = False
    include_usage: bool = False
    id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: the provider's bytes, what they say, and what they cost."""

    call: UUID
    raw: bytes
    body: dict[str, Any]
    usage: Usage
    cost: Any


class Calls:
    """Runs calls. `strict`: an answer's end leaves only after its settlement is committed."""

    def __init__(self, admission: Admission, clock: Clock, timeouts: Timeouts, strict: bool) -> None:
        self._admission, self._clock = admission, clock
        self._timeouts, self._strict = timeouts, strict
        self.open = 0
        self.busy = asyncio.Event()

    async def answer(self, order: Order) -> Reply:
        """The whole answer, settled.

        Raises:
            BudgetExceeded, ProviderRefused, ProviderFailed and its kinds; Unavailable when it cannot be recorded.
        """
        call = _Call(order, await self._admit(order))
        try:
            async with AsyncExitStack() as stack, asyncio.timeout(self._timeouts.total):
                exchange = await self._reach(stack, call)
                raw = await read(exchange)
                await _raise_for_status(exchange, raw)
                body = _understood(raw)
            call.usage = wire.usage_of(body) or _estimate(order, body)
        except TimeoutError:
            await self._fail(call, ProviderTimeout("total", self._timeouts.total))
        except GatewayError as error:
            await self._fail(call, error)
        except BaseException as error:
            self._leave(call, error)
            raise
        end = call.end("ok", {"answer": body if order.kind == "chat" else _vectors_told(raw, body)}, self._clock)
        await self._settle(call, end)
        return Reply(order.id, raw, body, call.usage, end.cost)

    async def stream(self, order: Order) -> AsyncGenerator[list[Chunk], None]:
        """Chunks in groups, as they arrive together; settled before the iterator ends.

        Raises:
            As `answer`; after the first chunk, an error carries the `usage` so far.
        """
        call = _Call(order, await self._admit(order))
        talk = Transcript(order.include_usage)
        failure: GatewayError | None = None
        try:
            async with AsyncExitStack() as stack:
                groups = await stack.enter_async_context(aclosing(self._groups(stack, call, talk)))
                async for group in groups:
                    yield group
            call.usage = talk.usage or _estimate_stream(order, talk)
            if order.include_usage and not talk.usage_passed:
                yield [talk.usage_chunk(call.usage)]
        except GatewayError as error:
            failure = error
        except BaseException as error:
            call.usage = talk.usage or _estimate_stream(order, talk)
            self._leave(call, error, talk)
            raise
        finally:
            if talk.malformed:
                _malformed.labels(order.target.provider.name).inc(talk.malformed)
        if failure is not None:
            if talk.deltas:
                call.usage = talk.usage or _estimate_stream(order, talk)
                failure.usage = call.usage.as_openai()
            await self._fail(call, failure, talk)
        await self._settle(call, call.end("ok", {"answer": talk.completion()}, self._clock))

    async def _groups(
        self, stack: AsyncExitStack, call: "_Call", talk: Transcript
    ) -> AsyncGenerator[list[Chunk], None]:
        limits = _Limits(self._timeouts)
        try:
            async with asyncio.timeout(self._timeouts.first_token):
                exchange = await self._reach(stack, call)
                if exchange.status != 200 or "event-stream" not in exchange.headers.get("content-type", ""):
                    raw = await read(exchange)
                    await _raise_for_status(exchange, raw)
                    _understood(raw)
                    raise ProviderFailed("the provider answered with a whole instead of a stream")
        except TimeoutError:
            raise ProviderTimeout("first_token", self._timeouts.first_token) from None
        parser = SseParser()
        async with aclosing(exchange.chunks()) as parts:
            try:
                while not talk.done:
                    async with asyncio.timeout(limits.next(talk)):
                        part = await anext(parts)
                    if group := _pass_on(parser.feed(part), talk):
                        yield group
                # The end of the transport comes with the end mark; reading it lets the connection be used again.
                async with asyncio.timeout(_DRAIN):
                    await anext(parts)
            except StopAsyncIteration:
                rest = parser.rest()
                if rest is not None and (group := _pass_on([rest], talk)):
                    yield group
            except TimeoutError:
                if not talk.done and not talk.finished:
                    raise limits.error(talk) from None
            except EventTooLarge as error:
                raise ProviderFailed(f"the provider's stream cannot be read: {error}") from None
            except StreamCut:
                if not talk.done:
                    raise
        if not talk.done and not talk.finished:
            raise StreamCut("the provider's answer ended before it was finished")

    async def _reach(self, stack: AsyncExitStack, call: "_Call") -> Exchange:
        """An answer's beginning. A connection that breaks before it is tried again, a bounded number of times."""
        order = call.order
        provider = order.target.provider
        for left in reversed(range(RETRIES + 1)):
            call.begin_attempt()
            try:
                post = provider.post(order.path, order.upstream_body, order.headers)
                return await stack.enter_async_context(post)
            except ProviderUnreachable as error:
                if not left:
                    raise
                call.failed_attempt(error.code)
                _retries.labels(provider.name).inc()
                # Full jitter, so that many callers do not come back at once.
                await asyncio.sleep(random.uniform(0, _BACKOFF * 2 ** (RETRIES - left)))  # noqa: S311 -- no secret
        raise AssertionError("unreachable")

    async def _admit(self, order: Order) -> Admitted:
        target = order.target
        future = self._admission.admit(
            Reservation(
                id=order.id,
                tags=order.tags,
                provider=target.provider.name,
                model=target.model,
                kind=order.kind,
                streamed=order.streamed,
                reserve=order.reserve,
                payload=order.body,
                at=self._clock.now(),
            )
        )
        try:
            admitted = await asyncio.shield(future)
        except asyncio.CancelledError:
            # The caller left while its call was being written: nobody will use it.
            future.add_done_callback(lambda done: self._disown(order, done))
            raise
        self.open += 1
        self.busy.set()
        return admitted

    def _disown(self, order: Order, future: "asyncio.Future[Admitted]") -> None:
        if not future.cancelled() and future.exception() is None:
            self.open += 1
            call = _Call(order, future.result())
            self._submit(call, call.end("cancelled", {}, self._clock))

    def _leave(self, call: "_Call", error: BaseException, talk: Transcript | None = None) -> None:
        """The caller left, or we broke: what was used is billed, without anybody waiting for it."""
        gone = isinstance(error, asyncio.CancelledError | GeneratorExit)
        if not gone:
            _log.error("a call broke", call=str(call.order.id), exc_info=error)
        if talk is None and call.began:
            call.usage = _estimate(call.order, None)
        payload = {"answer": talk.completion()} if talk is not None else {}
        self._submit(call, call.end("cancelled" if gone else "failed", payload, self._clock))

    async def _fail(self, call: "_Call", error: GatewayError, talk: Transcript | None = None) -> None:
        payload: dict[str, Any] = {"error": {"code": error.code, "detail": error.detail}}
        if talk is not None and talk.deltas:
            payload["answer"] = talk.completion()
        await self._settle(call, call.end("failed", payload, self._clock, error.code))
        raise error

    async def _settle(self, call: "_Call", end: Settlement) -> None:
        future = self._submit(call, end)
        if not self._strict:
            return
        try:
            async with asyncio.timeout(_SETTLE_LIMIT):
                await asyncio.shield(future)
        except TimeoutError:
            raise Unavailable("the call was made but could not be recorded yet, so its end is withheld") from None

    def _submit(self, call: "_Call", end: Settlement) -> "asyncio.Future[None]":
        try:
            future = self._admission.settle(end)
        except Stopped as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        future.add_done_callback(self._settled)
        target = call.order.target
        meters = _meters(target.provider.name, target.price.label, end.outcome)
        meters.requests.inc()
        meters.seconds.observe(time.perf_counter() - call.started)
        meters.input_tokens.inc(call.usage.input_tokens)
        meters.output_tokens.inc(call.usage.output_tokens)
        meters.cost.inc(float(end.cost))
        return future

    def _settled(self, future: "asyncio.Future[None]") -> None:
        self.open -= 1
        if not self.open:
            self.busy.clear()
        if not future.cancelled() and (error := future.exception()) is not None:
            _log.error("a call could not be settled; its hold is left to the sweeper", error=repr(error))


class _Limits:
    """How long the next part of a stream may take: until the first token, between tokens, in all."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts, self._start = timeouts, time.monotonic()
        self._phase = "first_token"

    def next(self, talk: Transcript) -> float:
        passed = time.monotonic() - self._start
        begun = talk.deltas > 0 or talk.finished
        limit = self._timeouts.idle if begun else self._timeouts.first_token - passed
        rest = self._timeouts.total - passed
        self._phase = "total" if rest < limit else "idle" if begun else "first_token"
        return max(0.0, min(limit, rest))

    def error(self, talk: Transcript) -> ProviderTimeout:
        return ProviderTimeout(self._phase, getattr(self._timeouts, self._phase))


class _Call:
    """An admitted call on its way."""

    def __init__(self, order: Order, admitted: Admitted) -> None:
        self.order, self.admitted = order, admitted
        self.usage = Usage()
        self.started = self._attempt_started = time.perf_counter()
        self.began = False
        self._failed: list[Attempt] = []

    def begin_attempt(self) -> None:
        self._attempt_started, self.began = time.perf_counter(), True

    def failed_attempt(self, code: str) -> None:
        self._failed.append(self._attempt(code, Usage()))

    def end(self, outcome: str, payload: Mapping[str, Any], clock: Clock, code: str | None = None) -> Settlement:
        attempts = (*self._failed, self._attempt(code or outcome, self.usage)) if self.began else ()
        return Settlement(self.admitted, outcome, attempts, payload, clock.now())

    def _attempt(self, outcome: str, usage: Usage) -> Attempt:
        target = self.order.target
        used = usage.input_tokens or usage.output_tokens
        cost = target.price.cost(usage) if used else ZERO
        seconds = time.perf_counter() - self._attempt_started
        return Attempt(target.provider.name, target.model, outcome, usage, cost, seconds)


class _Meters:
    def __init__(self, provider: str, model: str, outcome: str) -> None:
        self.requests = _requests.labels(provider, model, outcome)
        self.seconds = _seconds.labels(provider, model)
        self.input_tokens = _tokens.labels(provider, model, "input")
        self.output_tokens = _tokens.labels(provider, model, "output")
        self.cost = _cost.labels(provider, model)


@cache
def _meters(provider: str, model: str, outcome: str) -> _Meters:
    """Looked up once: finding a metric by its labels costs more than counting."""
    return _Meters(provider, model, outcome)


def _pass_on(events: Any, talk: Transcript) -> list[Chunk]:
    return [chunk for data in events if (chunk := talk.feed(data)) is not None]


async def _raise_for_status(exchange: Exchange, raw: bytes) -> None:
    status = exchange.status
    if status == 200:
        return
    headers = {name: exchange.headers[name] for name in _TOLD if name in exchange.headers}
    if status in _PASSED_ON:
        try:
            detail = wire.error_of(orjson.loads(raw))
        except orjson.JSONDecodeError:
            detail = None
        raise ProviderRefused(detail or f"the provider answered with status {status}", status, raw, headers)
    if status in (401, 403):
        raise ProviderFailed("the provider does not accept the key it was called with; check OPENAI_API_KEY")
    raise ProviderFailed(f"the provider answered with status {status}", headers=headers)


def _understood(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise ProviderFailed("the provider's answer is not JSON") from None
    if not isinstance(body, dict):
        raise ProviderFailed("the provider's answer is not a JSON object")
    if (message := wire.error_of(body)) is not None:
        raise ProviderFailed(f"the provider reported an error in its answer: {message}")
    return body


def _estimate(order: Order, answer: Mapping[str, Any] | None) -> Usage:
    """Usage that nobody reported."""
    if order.kind == "embed":
        return Usage(wire.estimate_tokens(str(order.body.get("input"))), estimated=True)
    read_ = wire.estimate_tokens(wire.text_of(order.body.get("messages")))
    choices = answer.get("choices") if answer else None
    said = [choice.get("message") for choice in choices if isinstance(choice, dict)] if choices else []
    return Usage(read_, wire.estimate_tokens(wire.text_of(said)), estimated=True)


def _estimate_stream(order: Order, talk: Transcript) -> Usage:
    """Providers send about one token a chunk."""
    return Usage(wire.estimate_tokens(wire.text_of(order.body.get("messages"))), talk.deltas, estimated=True)


def _vectors_told(raw: bytes, body: Mapping[str, Any]) -> dict[str, Any]:
    """Vectors follow from their inputs, which are recorded; what is kept of them is how many and their digest."""
    data = body.get("data")
    count = len(data) if isinstance(data, list) else 0
    return {"model": body.get("model"), "vectors": count, "sha256": sha256(raw).hexdigest()}
