"""One attempt's stream, from the request to the provider's last byte, with its limits of time."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from types import TracebackType

from .allotment import Allotment
from .errors import GatewayError, ProviderFailed, ProviderTimeout, StreamCut
from .failures import raise_for_status, reported, understood
from .models import Timeouts
from .order import Order
from .passage import Chunk, Passage
from .providers import Target
from .sse import EventTooLarge
from .transcript import Transcript
from .wire import WIRES, Wire

_DRAIN = 0.05  # seconds for the transport's end to come after the end mark


class OpenStream:
    """A stream whose output has begun. `groups` goes on from there, as far as `allotment` reaches."""

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        passage: Passage,
        native: Wire,
        limits: "Limits",
        target: Target,
        allotment: Allotment,
    ) -> None:
        self.passage, self._native = passage, native
        self._target, self._allotment = target, allotment
        self._parts, self._limits, self._stack = parts, limits, AsyncExitStack()
        self._waiting: list[Chunk] = []
        self._over = False

    def owns(self, stack: AsyncExitStack) -> None:
        """Takes over what `close` is to close."""
        self._stack = stack

    async def begin(self) -> None:
        """Reads up to the first output.

        Raises:
            ProviderRefused, ProviderFailed and its kinds: what was there before any output was no answer.
        """
        while not self.passage.begun and not self._over:
            self._waiting += await self._next()
        if self.passage.error is not None:
            raise self._reported(self.passage.error)  # nothing has left yet, so another attempt may do better

    async def finish(self) -> None:
        """Reads to the end."""
        while not self._over:
            self._waiting += await self._next()

    async def groups(self) -> AsyncGenerator[list[Chunk], None]:
        """What came so far, then the rest as it comes."""
        if self._waiting:
            first, self._waiting = self._waiting, []
            yield first
        while not self._over:
            if group := await self._next():
                yield group

    async def close(self) -> None:
        """Leaves: an unfinished answer is cancelled at the provider."""
        await self._stack.aclose()

    async def _next(self) -> list[Chunk]:
        """What the next bytes say; at the end, whether they were the end of a whole answer."""
        passage, talk = self.passage, self.passage.talk
        if passage.error is not None:
            raise self._reported(passage.error)
        try:
            if passage.done:
                await self._drain()
                return []
            async with asyncio.timeout(self._limits.next(talk)):
                part = await anext(self._parts)
            chunks = self._fed(part)
            await self._allotment.cover(self._target, talk)
            return chunks
        except StopAsyncIteration:
            rest = self._fed(None)
            self._over = passage.error is None
            if self._over and not passage.done and not talk.finished:
                raise StreamCut("the provider's answer ended before it was finished") from None
            return rest
        except TimeoutError:
            if not talk.finished:
                raise self._limits.error() from None
            self._over = True
            return []
        except EventTooLarge as error:
            raise ProviderFailed(f"the provider's stream cannot be read: {error}") from None

    def _fed(self, part: bytes | None) -> list[Chunk]:
        """What `part` says, or at the transport's end what it left.

        Raises:
            EventTooLarge; ProviderRefused, ProviderFailed: it is an error of the provider.
        """
        try:
            return self.passage.rest() if part is None else self.passage.feed(part)
        except ProviderFailed as error:
            raise self._reported(error) from None

    def _reported(self, error: ProviderFailed) -> GatewayError:
        return reported(error, self.passage.last, self._native, self._target.provider)

    async def _drain(self) -> None:
        """The end of the transport comes with the end mark; reading it lets the connection be used again."""
        self._over = True
        try:
            async with asyncio.timeout(_DRAIN):
                await anext(self._parts)
        except (StopAsyncIteration, TimeoutError, StreamCut):
            return

    async def __aenter__(self) -> "OpenStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def open_stream(order: Order, target: Target, prefill: bool, allotment: Allotment) -> OpenStream:
    """Asks `target` and waits for the first output.

    Raises:
        ProviderRefused, ProviderFailed and its kinds; BadRequest when the target's format cannot say the request.
    """
    outgoing = order.outgoing(target, prefill=prefill)
    native, provider = WIRES[outgoing.wire], target.provider
    limits = Limits(order.plan.timeouts)
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(limits.first_token):
                exchange = await stack.enter_async_context(provider.post(outgoing))
                if exchange.status != 200 or "event-stream" not in exchange.headers.get("content-type", ""):
                    raw = await exchange.read()
                    raise_for_status(exchange, raw, native, provider)
                    understood(raw, native, provider)
                    raise ProviderFailed("the provider answered with a whole instead of a stream")
        except TimeoutError:
            raise ProviderTimeout("first_token", limits.first_token) from None
        parts = await stack.enter_async_context(aclosing(exchange.chunks()))
        passage = Passage(WIRES[order.surface], native, order.request, order.watch)
        opened = OpenStream(parts, passage, native, limits, target, allotment)
        try:
            await opened.begin()
        except GatewayError as error:
            if passage.searches:  # billed, whatever comes of the answer
                error.usage = replace(passage.talk.usage or order.estimate(0), web_searches=passage.searches)
            raise
        opened.owns(stack.pop_all())
        return opened


class Limits:
    """How long the next part of a stream may take: until the first token, between tokens, in all."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts, self._start = timeouts, time.monotonic()
        self._phase = "first_token"

    @property
    def first_token(self) -> float:
        return self._timeouts.first_token

    def next(self, talk: Transcript) -> float:
        passed = time.monotonic() - self._start
        begun = talk.outputs > 0 or talk.finished
        limit = self._timeouts.idle if begun else self._timeouts.first_token - passed
        rest = self._timeouts.total - passed
        self._phase = "total" if rest < limit else "idle" if begun else "first_token"
        return max(0.0, min(limit, rest))

    def error(self) -> ProviderTimeout:
        return ProviderTimeout(self._phase, getattr(self._timeouts, self._phase))
