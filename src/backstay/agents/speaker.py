"""One model call of a run: made through the gateway, written to the run's stream while it comes."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from ..gateway import Gateway, GatewayError, ProviderFailed, ProviderRefused, RateLimited
from ..jobs import Discard, Snooze
from ..kernel.principal import Principal
from ..streams import ProducerFenced, StreamEnded, StreamExpired, Streams, StreamWriter
from .draft import Draft
from .models import stream_of
from .output import call_told
from .turn import Turn

_USAGE = {"input_tokens", "output_tokens", "cost"}


class Speaker:
    """Calls models for runs."""

    def __init__(self, gateway: Gateway, streams: Streams) -> None:
        self._gateway, self._streams = gateway, streams

    async def say(
        self, by: Principal, run: UUID, feature: str, request: Mapping[str, Any], idempotency_key: str
    ) -> Turn:
        """What the model answers to `request` (a chat completion).

        A stream that was cancelled stops the call. One that has ended or expired otherwise does not, and neither does
        another producer that has taken the stream over: the run goes on without it.

        Raises (for the run's step): Discard: the same call would be refused again. Snooze: a limit has room later.
        """
        try:
            return await self._say(by, run, feature, request, idempotency_key)
        except GatewayError as error:
            if _hopeless(error):
                raise Discard(f"{error.title}: {error.detail}") from error
            if isinstance(error, RateLimited):
                raise Snooze(timedelta(seconds=int(error.headers["retry-after"])), error.detail) from error
            raise

    async def _say(self, by: Principal, run: UUID, feature: str, request: Mapping[str, Any], key: str) -> Turn:
        stream, draft, model = stream_of(run), Draft(str(request["model"])), request["model"]
        try:
            async with self._streams.writer(by.tenant, stream) as out:
                step = key.rpartition(":")[2]
                if out.resumed and await self._begun(by.tenant, stream, step):
                    await out.write("status", {"state": "restarted", "restarted": True, "producer": out.epoch})
                begins = {"model": model, "run": str(run), "producer": out.epoch, "step": int(step)}
                await out.write("message.start", begins)
                whole = await _until_cancelled(out, self._fill(draft, by, run, feature, request, key, out))
                turn = await self._turn(by, draft, whole)
                for call in turn.calls:
                    await out.write("tool.call", call_told(call))
                await out.write("usage", turn.model_dump(mode="json", include=_USAGE))
                return turn
        except (StreamEnded, StreamExpired, ProducerFenced):
            if (await self._streams.get(by, stream)).state == "cancelled":
                return await self._turn(by, draft, whole=False)
        draft = Draft(str(model))
        await self._fill(draft, by, run, feature, request, key, None)
        return await self._turn(by, draft, whole=True)

    async def _begun(self, tenant: UUID, stream: UUID, step: str) -> bool:
        """Whether an earlier attempt at this step has begun to speak."""
        newest = await self._streams.newest(tenant, stream, "message.start")
        return newest is not None and newest.data.get("step") == int(step)

    async def _fill(
        self,
        draft: Draft,
        by: Principal,
        run: UUID,
        feature: str,
        request: Mapping[str, Any],
        key: str,
        out: StreamWriter | None,
    ) -> None:
        """Calls the model and puts what it says into the draft and, when there is one, the stream."""
        chunks = self._gateway.stream(
            by, request, feature=by.feature or feature, run=run, idempotency=key, internal=True, call=draft.call
        )
        async with aclosing(cast("AsyncGenerator[dict[str, Any], None]", chunks)):
            async for chunk in chunks:
                text, reasoning = draft.add(chunk)
                if out and reasoning:
                    await out.write("reasoning.delta", {"text": reasoning})
                if out and text:
                    await out.write("text.delta", {"text": text})

    async def _turn(self, by: Principal, draft: Draft, whole: bool) -> Turn:
        """What was said, with what it cost: the call has been settled when its stream is over."""
        settled = await self._gateway.call(Principal.system(by.tenant, "agents"), draft.call)
        return draft.turn("answered" if whole else "cancelled", settled.cost if settled else Decimal(0))


async def _until_cancelled(out: StreamWriter, work: Coroutine[Any, Any, None]) -> bool:
    """Does the work unless somebody asks the stream to stop; returns whether the work was done."""
    if out.cancel_requested:
        work.close()
        return False
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(out.wait_cancelled())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            return True
        return False
    finally:
        stopping.cancel()
        working.cancel()  # the gateway then cancels the provider's work and bills what was used
        await asyncio.gather(stopping, working, return_exceptions=True)


def _hopeless(error: GatewayError) -> bool:
    """Whether the same call again would get the same answer."""
    if isinstance(error, ProviderRefused):
        return error.status not in (408, 409, 429)
    if isinstance(error, RateLimited):
        return error.headers["x-should-retry"] != "true"  # who asked does not wait for hours
    return not isinstance(error, ProviderFailed)
