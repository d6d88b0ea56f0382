"""One model call from admission to settlement, plain or streamed.

A call that was admitted is settled in every case: answered, failed, cut off, or left by its client.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from typing import Any
from uuid import UUID

from ..kernel import json, telemetry
from ..kernel.batch import Stopped
from ..kernel.clock import Clock
from ..kernel.errors import BackstayError, Unavailable
from .admission import Admission
from .allotment import Allotment
from .answers import OFF, Answers, Flight, Hit
from .attempts import Attempts, Health
from .call import Call, Try
from .errors import BudgetExceeded, GatewayError, ProviderFailed, RateLimited
from .exchange import Exchange
from .failures import raise_for_status, understood
from .guards import guarded_answer
from .models import ZERO, Admitted, Mode, OutputKind, Reservation, Settlement, Usage
from .order import Order
from .passage import Chunk, Passage
from .replay import ends_of, parsed, saved, streamed, usage_of
from .streaming import OpenStream, open_stream
from .wire import EMBED_WIRES, WIRES

_log = telemetry.log("gateway")
_requests = telemetry.counter("backstay_gateway_calls_total", "Model calls ended.", ["provider", "model", "outcome"])
_seconds = telemetry.histogram("backstay_gateway_call_seconds", "Model calls, begin to end.", ["provider", "model"])
_tokens = telemetry.counter("backstay_gateway_tokens_total", "Tokens used.", ["provider", "model", "direction"])
_cost = telemetry.counter("backstay_gateway_cost_usd_total", "USD spent.", ["provider", "model"])
_overspent = telemetry.counter(
    "backstay_gateway_overspent_usd_total", "USD that calls cost beyond what they held.", ["provider", "model"]
)
_malformed = telemetry.counter("backstay_gateway_malformed_events_total", "Events of providers skipped.", ["provider"])


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer in the client's format: its bytes, what they say, and what they cost."""

    call: UUID
    raw: bytes
    body: dict[str, Any]
    usage: Usage
    cost: Any


class Calls:
    """Runs calls. `strict`: an answer's end leaves only after its settlement is committed."""

    def __init__(
        self, admission: Admission, clock: Clock, health: Health, answers: Answers | None, strict: bool
    ) -> None:
        self._admission, self._clock, self._health, self._strict = admission, clock, health, strict
        self._answers = answers
        self.open = 0
        self.busy = asyncio.Event()

    async def answer(self, order: Order) -> Reply:
        """The whole answer, settled.

        Raises:
            BudgetExceeded, RateLimited, ProviderRefused, ProviderFailed and its kinds; Unavailable when it cannot be
            recorded.
        """
        order, admitted = await self._admit(order)
        call = Call(order, admitted)

        async def once(one: Try, prefill: bool) -> tuple[bytes, dict[str, Any]]:
            try:
                return await _whole(order, one, prefill)
            except BaseException as error:
                if not isinstance(error, BackstayError):
                    one.end("cancelled", order.estimate(0))
                raise

        try:
            async with self._flight(order) as flight:
                if (hit := await flight.find()) is not None:
                    return await self._given_again(call, hit)
                raw, body = _guarded(order, *await Attempts(call, self._health).first(once))
                payload = {"answer": body if order.kind != "embed" else _vectors_told(raw, body)}
                end = await self._settled_well(call, payload)
                await _keep(flight, call, raw, body)
        except BackstayError as error:
            await self._fail(call, error)
        except BaseException as error:
            self._leave(call, error)
            raise
        return Reply(order.id, raw, body, call.usage, end.cost)

    async def stream(self, order: Order) -> AsyncGenerator[list[Chunk], None]:
        """Chunks in groups, as they arrive together; settled before those that end the answer.

        Raises:
            As `answer`; after the first chunk, an error carries the `usage` so far.
        """
        order, admitted = await self._admit(order)
        call = Call(order, admitted)
        allotment = Allotment(self._admission, call, await self._reserved(order))
        passage: Passage | None = None
        failure: BackstayError | None = None
        try:
            async with AsyncExitStack() as stack:
                flight = await stack.enter_async_context(self._flight(order))
                if (hit := await flight.find()) is not None:
                    chunks, ending = streamed(order, parsed(hit))
                    yield chunks
                    await self._given_again(call, hit)
                    yield ending
                    return
                opened = await Attempts(call, self._health).first(
                    lambda one, prefill: _opened(order, one, prefill, allotment)
                )
                await stack.enter_async_context(opened)
                passage = opened.passage
                async with aclosing(opened.groups()) as groups:
                    async for group in groups:
                        yield group
                usage = _used(call, passage)
                await self._settled_well(call, _told(order, passage))
                yield passage.ending(usage)
                await _keep_stream(flight, call, passage)
                return
        except BackstayError as error:
            failure = error
        except BaseException as error:
            self._leave(call, error, passage)
            raise
        finally:
            if passage is not None and passage.malformed:
                _malformed.labels(_provider(call)).inc(passage.malformed)
        if failure is not None:
            if passage is not None and passage.talk.outputs and isinstance(failure, GatewayError):
                self._broke(call, failure)
                failure.usage = _used(call, passage)
            await self._fail(call, failure, passage)

    def _flight(self, order: Order) -> Flight:
        if self._answers is None or order.kind == "count" or not order.cache.on:
            return Flight(None, None, OFF, 0.0)
        return self._answers.flight(order.tags.tenant, order.question, order.cache, order.embedder)

    async def _given_again(self, call: Call, hit: Hit) -> Reply:
        """Settles a call that was answered with what had been kept: it costs nothing."""
        order, body = call.order, parsed(hit)
        usage = usage_of(order, body)
        order.told.append((b"backstay-cache", hit.told().encode()))
        end = call.end(
            "ok",
            {"answer": body, "cached": hit.told()},
            self._clock,
            cached="semantic" if hit.found == "semantic" else "exact",
            saved_by_cache=saved(order, hit, usage),
        )
        await self._settle(call, end)
        return Reply(order.id, hit.body, body, usage, ZERO)

    async def _settled_well(self, call: Call, payload: Mapping[str, Any]) -> Settlement:
        end = call.end("ok", payload, self._clock)
        await self._settle(call, end)
        return end

    def _broke(self, call: Call, error: GatewayError) -> None:
        """An answer that broke off counts against its target, though the target seemed well when it began."""
        if isinstance(error, ProviderFailed) and call.winner is not None:
            permit = self._health.breaker_of(call.winner.target).ask()
            if permit is not None:
                permit.failed()

    async def _admit(self, order: Order) -> tuple[Order, Admitted]:
        """Admits a call; targets whose own budget or limit has no room are left out, unless none remains."""
        while True:
            try:
                admitted = await self._admitted(order)
                order.told.extend(admitted.headers)
                return order, admitted
            except (BudgetExceeded, RateLimited) as error:
                remaining = order.without(error.model)
                if remaining is None:
                    raise
                order = remaining

    async def _admitted(self, order: Order) -> Admitted:
        first, *others = order.plan.targets
        written = await self._reserved(order)
        reserve = order.reserve if written == order.most_written else order.bound(written)
        reservation = Reservation(
            id=order.id,
            tags=order.tags,
            provider=first.provider.name,
            model=first.model,
            kind=order.kind,
            streamed=order.request.stream,
            reserve=reserve,
            payload=order.body,
            at=self._clock.now(),
            tokens=0 if order.kind == "count" else order.request.input_bound + written,
            mode=order.mode,
            models=tuple([target.name for target in others]),
            route=order.plan.route,
            why=order.plan.why if order.plan.route else {},
            unbounded=order.unbounded,
        )

        def written_for_nobody(result: Admitted | Exception) -> None:
            if future.cancelled() and isinstance(result, Admitted):
                self._disown(order, result)

        future = self._admission.admit(reservation, written_for_nobody)
        try:
            admitted = await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:  # admitted in the moment in which it left
                self._disown(order, future.result())
            raise
        self._opened()
        return admitted

    def _disown(self, order: Order, admitted: Admitted) -> None:
        """The caller left while its call was being written: nobody will use it."""
        self._opened()
        call = Call(order, admitted)
        self._submit(call, call.end("cancelled", {}, self._clock))

    def _opened(self) -> None:
        self.open += 1
        self.busy.set()

    async def _reserved(self, order: Order) -> int:
        """Output tokens to reserve: the most that the call may write, or as many as such calls have written lately."""
        if order.mode is Mode.STRICT:
            return order.most_written
        first = order.plan.targets[0]
        kind = OutputKind(order.tags.tenant, order.tags.feature, first.provider.name, first.model)
        expected = await self._admission.expected_output(kind)
        return order.most_written if expected is None else min(expected, order.most_written)

    def _leave(self, call: Call, error: BaseException, passage: Passage | None = None) -> None:
        """The caller left, or we broke: what was used is billed, without anybody waiting for it."""
        gone = isinstance(error, asyncio.CancelledError | GeneratorExit)
        if not gone:
            _log.error("a call broke", call=str(call.order.id), exc_info=error)
        if call.settled:
            return
        if passage is not None:
            _used(call, passage)
        payload = {} if passage is None else _told(call.order, passage)
        self._submit(call, call.end("cancelled" if gone else "failed", payload, self._clock))

    async def _fail(self, call: Call, error: BackstayError, passage: Passage | None = None) -> None:
        if call.settled:
            raise error
        payload: dict[str, Any] = {"error": {"code": error.code, "detail": error.detail}}
        if passage is not None and passage.talk.outputs:
            payload |= _told(call.order, passage)
            if call.winner is not None:
                call.winner.outcome = error.code
        await self._settle(call, call.end("failed", payload, self._clock))
        raise error

    async def _settle(self, call: Call, end: Settlement) -> None:
        """Returns when the settlement is committed, where that is wanted."""
        if not self._strict:
            self._submit(call, end)
            return
        self._close(call, end)
        try:
            future = self._admission.settle(end, self._settled)
        except Stopped as error:
            self._settled(error)
            raise
        try:
            await future
        except TimeoutError:
            raise Unavailable("the call was made but could not be recorded yet, so its end is withheld") from None

    def _submit(self, call: Call, end: Settlement) -> None:
        """Settles a call for which nobody waits any more."""
        self._close(call, end)
        try:
            self._admission.settle_later(end, self._settled)
        except Stopped as error:
            self._settled(error)

    def _close(self, call: Call, end: Settlement) -> None:
        call.settled = True
        target = (call.winner or call.tries[-1]).target if call.tries else call.order.plan.targets[0]
        meters = _meters(target.provider.name, target.price.label, end.outcome)
        meters.requests.inc()
        meters.seconds.observe(time.perf_counter() - call.started)
        meters.input_tokens.inc(call.usage.input_tokens)
        meters.output_tokens.inc(call.usage.output_tokens)
        meters.cost.inc(float(end.cost))
        if end.overspent:
            _overspent.labels(target.provider.name, target.price.label).inc(float(end.overspent))
            _log.warning("a call cost more than it held", call=str(call.order.id), usd=str(end.overspent))

    def _settled(self, error: Exception | None) -> None:
        self.open -= 1
        if not self.open:
            self.busy.clear()
        if error is not None:
            _log.error("a call could not be settled; its hold is left to the sweeper", error=repr(error))


async def _keep(flight: Flight, call: Call, raw: bytes, body: dict[str, Any]) -> None:
    """Keeps an answer for those who ask the same, and gives it to those who wait for it."""
    if call.order.cache.on and call.winner is not None:
        stops, tools = ends_of(call.order, body)
        await flight.keep(raw, by=call.winner.target.name, stops=stops, tools=tools)


async def _keep_stream(flight: Flight, call: Call, passage: Passage) -> None:
    if call.order.cache.on:
        body = WIRES[call.order.surface].write_answer(passage.talk.said(call.usage), call.order.request)
        await _keep(flight, call, json.dumps(body), body)


async def _whole(order: Order, one: Try, prefill: bool) -> tuple[bytes, dict[str, Any]]:
    """One attempt at a whole answer, in the client's format."""
    outgoing = order.outgoing(one.target, prefill=prefill)
    provider = one.target.provider
    async with provider.post(outgoing) as exchange:
        raw = await exchange.read()
    if order.kind == "embed":
        return _vectors(order, one, outgoing.wire, exchange, raw)
    native, surface = WIRES[outgoing.wire], WIRES[order.surface]
    raise_for_status(exchange, raw, native, provider)
    body = understood(raw, native, provider)
    if order.kind == "count":
        one.end("ok")
        return raw, body
    usage = native.usage_of(body) or order.estimate(len(raw) // 4)
    if native is surface:
        one.end("ok", _searched(usage, order.request.searches_untold))
        return raw, body
    said = native.read_answer(body)
    one.end("ok", usage)
    answer = surface.write_answer(replace(said, usage=one.usage), order.request)
    return json.dumps(answer), answer


def _guarded(order: Order, raw: bytes, body: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    if not order.guards or order.kind != "chat":
        return raw, body
    told = guarded_answer(order.guards, body, order.context)
    return (raw, body) if told is body else (json.dumps(told), told)


def _vectors(order: Order, one: Try, wire: str, exchange: Exchange, raw: bytes) -> tuple[bytes, dict[str, Any]]:
    native, surface, provider = EMBED_WIRES[wire], EMBED_WIRES[order.surface], one.target.provider
    raise_for_status(exchange, raw, native, provider)
    body = understood(raw, native, provider)
    one.end("ok", native.usage_of(body) or order.estimate(0))
    if order.relays(one.target):
        return raw, body
    vectors = native.read_vectors(body, len(order.embed_ask.inputs))
    named = replace(vectors, usage=one.usage, model=vectors.model or one.target.model)
    answer = surface.write_vectors(named, order.body)
    return json.dumps(answer), answer


async def _opened(order: Order, one: Try, prefill: bool, allotment: Allotment) -> OpenStream:
    """One attempt at a streamed answer: open when there is output, or, guarded, when it is whole."""
    opened: OpenStream | None = None
    try:
        opened = await open_stream(order, one.target, prefill, allotment)
        if order.plan.mode == "guarded":
            await opened.finish()
    except BaseException as error:
        written = opened.passage.talk.outputs if opened else 0
        used = so_far(order, opened.passage) if opened else order.estimate(0)
        if not isinstance(error, BackstayError):
            one.end("cancelled", used)
        elif written and isinstance(error, GatewayError):
            error.usage = used
        if opened is not None:
            await opened.close()
        raise
    return opened


def so_far(order: Order, passage: Passage) -> Usage:
    """What an answer used up to here: the provider's word once it is finished, and an estimate as long as it is not."""
    return _searched(_tokens_so_far(order, passage), passage.searches)


def _searched(usage: Usage, searches: int) -> Usage:
    """With that many searches at least: some are seen that the usage does not tell of."""
    return usage if usage.web_searches >= searches else replace(usage, web_searches=searches)


def _tokens_so_far(order: Order, passage: Passage) -> Usage:
    talk = passage.talk
    guess = order.estimate(talk.outputs)
    if talk.usage is None or (talk.finished and talk.usage.output_tokens):
        return talk.usage or guess
    if talk.usage.output_tokens >= guess.output_tokens and talk.usage.input_tokens:
        return talk.usage
    read = talk.usage.input_tokens or guess.input_tokens
    return replace(talk.usage, input_tokens=read, output_tokens=guess.output_tokens, estimated=True)


def _used(call: Call, passage: Passage) -> Usage:
    """What the winner used. Written down with its try."""
    usage = so_far(call.order, passage)
    if call.winner is not None:
        call.winner.usage = usage
    return usage


def _told(order: Order, passage: Passage) -> dict[str, Any]:
    """The answer as the audit keeps it."""
    surface = WIRES[order.surface]
    first, *more = (surface.write_answer(said, order.request) for said in passage.talk.choices())
    return {"answer": first} | ({"more": more} if more else {})


def _vectors_told(raw: bytes, body: Mapping[str, Any]) -> dict[str, Any]:
    """Vectors follow from their inputs, which are recorded; what is kept of them is how many and their digest."""
    data = body.get("data") or body.get("embeddings") or [body.get("embedding")]
    count = len(data) if isinstance(data, list) else 0
    return {"model": body.get("model"), "vectors": count, "sha256": sha256(raw).hexdigest()}


def _provider(call: Call) -> str:
    return call.winner.target.provider.name if call.winner else "none"


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
