"""The gateway: checks a request, finds who answers it, and runs it through the one pipeline there is."""

import asyncio
import base64
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from ..audit import Audit
from ..events import Events
from ..kernel import json, telemetry
from ..kernel.clock import Clock
from ..kernel.crypto import Vault
from ..kernel.db import Database
from ..kernel.errors import BackstayError, BadRequest, FieldError
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from ..kernel.settings import Settings
from . import store
from .admission import Admission
from .budgets import Budgets
from .calls import Calls, Order, Reply
from .errors import ProviderFailed
from .limits import Limits
from .models import Answer, CallRow, Embeddings, SpendFilter, SpendRow, Tags, Timeouts
from .pricing import Prices
from .providers import Provider, Providers
from .providers.sim import SimProvider
from .sim.simulator import HEADER as SIM_HEADER
from .sweeper import Sweeper
from .transcript import Chunk
from .wire import openai as wire

if TYPE_CHECKING:
    from .upstream import Upstream

Group = Literal["feature", "user", "key", "model", "day"]
CALL, READ = "gateway:call", "gateway:read"
DEFAULT_FEATURE = "default"
_log = telemetry.log("gateway")
_MAX_TAG = 256


class Gateway:
    """Model calls of one process. `start` it before the first call and `stop` it after the last.

    Providers come from the settings (`openai` when a key or a base URL is set, `sim` always) unless they are given.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        vault: Vault,
        audit: Audit,
        events: Events,
        settings: Settings,
        *,
        timeouts: Timeouts | None = None,
        providers: Sequence[Provider] | None = None,
    ) -> None:
        self._db, self._clock, self._settings = db, clock, settings
        self._timeouts = timeouts or Timeouts()
        self._upstream: Upstream | None = None
        self._providers = Providers(self._configured() if providers is None else providers)
        self.process = new_id()
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._admission = Admission(db, clock, audit, events, self.process, self._lease)
        self._calls = Calls(self._admission, clock, self._timeouts, settings.durability == "strict")
        self.sweeper = Sweeper(db, clock, audit, self.process, self._lease)
        self.budgets = Budgets(db, clock, audit)
        self.limits = Limits(db, clock, audit)
        self._stop = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begins the heartbeat and the sweeper."""
        await self._admission.beat()
        self._loops = [
            asyncio.create_task(self._beat(), name="gateway heartbeat"),
            asyncio.create_task(self.sweeper.run(self._stop), name="gateway sweeper"),
        ]
        for loop in self._loops:
            loop.add_done_callback(_tell_if_broken)

    async def stop(self) -> None:
        """Settles what is open and closes the connections to providers. Idempotent."""
        self._stop.set()
        self._calls.busy.set()
        await self._admission.stop()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        if self._upstream is not None:
            await self._upstream.close()
        try:
            async with self._db.system_tx() as tx:
                await store.leave(tx, self.process)
        except (store.DatabaseError, BackstayError) as error:
            _log.warning("the process row stays for the sweeper", error=str(error))

    async def complete(
        self,
        by: Principal,
        request: Mapping[str, Any],
        *,
        feature: str,
        user: str | None = None,
        run: UUID | None = None,
        idempotency: str | None = None,
    ) -> Answer:
        """A chat completion in the OpenAI shape.

        `idempotency` goes to the provider as its Idempotency-Key; providers that ignore it may answer twice.

        Raises:
            BadRequest: the request is wrong (400). ModelNotFound (404), PriceUnknown (422), BudgetExceeded (402).
            ProviderRefused, ProviderFailed and its kinds: the provider did not answer as it should.
        """
        body = {key: value for key, value in request.items() if key not in ("stream", "stream_options")}
        order = self.chat_order(by, body, feature=feature, user=user, run=run, idempotency=idempotency)
        reply = await self.answer(order)
        return Answer.of(reply.body, reply.raw, reply.call, reply.usage, reply.cost)

    async def stream(
        self,
        by: Principal,
        request: Mapping[str, Any],
        *,
        feature: str,
        user: str | None = None,
        run: UUID | None = None,
        idempotency: str | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a chat completion in the OpenAI shape; the last one carries the usage, with no choices.

        The call is settled before the iterator ends. Leaving it early (`aclose`) cancels the provider's work and bills
        what was used.

        Raises:
            As `complete`; an error after the first chunk has the `usage` so far.
        """
        body = {**request, "stream": True, "stream_options": {"include_usage": True}}
        order = self.chat_order(by, body, feature=feature, user=user, run=run, idempotency=idempotency)
        async with aclosing(self.chunks(order)) as groups:
            async for group in groups:
                for chunk in group:
                    yield chunk.body

    async def embed(
        self,
        by: Principal,
        model: str,
        inputs: Sequence[str],
        *,
        feature: str,
        user: str | None = None,
        run: UUID | None = None,
        idempotency: str | None = None,
    ) -> Embeddings:
        """Vectors for `inputs`, in their order, by one request to the provider.

        Raises:
            As `complete`.
        """
        body = {"model": model, "input": list(inputs), "encoding_format": "base64"}
        order = self.embed_order(by, body, feature=feature, user=user, run=run, idempotency=idempotency)
        reply = await self.answer(order)
        vectors = _vectors(reply, len(inputs))
        return Embeddings(vectors, reply.usage.input_tokens, reply.cost, str(reply.body.get("model")), reply.call)

    def chat_order(
        self, by: Principal, body: dict[str, Any], *, feature: str, size: int | None = None, **tags: Any
    ) -> Order:
        """Checks a chat request and finds its target and the most it may cost. `size`: its bytes, when known.

        Raises:
            As `complete`, before anything is written or sent.
        """
        request = wire.chat_request(body, size)
        target = self._providers.target(request.model, self._clock.now())
        # What a call may write is bounded by its own limit, or by the setting when it names none.
        written = (request.max_tokens or self._settings.default_max_tokens) * request.choices
        outgoing = {**body, "model": target.asked}
        if request.stream:
            outgoing["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        return self._order(
            by,
            "chat",
            target,
            body,
            outgoing,
            target.price.bound(request.input_bound, written),
            feature,
            tags,
            streamed=request.stream,
            include_usage=request.include_usage,
        )

    def embed_order(
        self, by: Principal, body: dict[str, Any], *, feature: str, size: int | None = None, **tags: Any
    ) -> Order:
        """As `chat_order`, for embeddings."""
        request = wire.embed_request(body, size)
        target = self._providers.target(request.model, self._clock.now())
        outgoing = {**body, "model": target.asked}
        reserve = target.price.bound(request.input_bound, 0)
        return self._order(by, "embed", target, body, outgoing, reserve, feature, tags)

    async def answer(self, order: Order) -> Reply:
        return await self._calls.answer(order)

    def chunks(self, order: Order) -> AsyncGenerator[list[Chunk], None]:
        return self._calls.stream(order)

    def models(self, by: Principal) -> list[tuple[str, str]]:
        """Models that may be called, as (provider, model)."""
        by.require(CALL)
        return self._providers.models()

    async def spend(self, by: Principal, group: Group, only: SpendFilter | None = None) -> list[SpendRow]:
        """What each feature, user, key or model used and cost, dearest first, or each day, newest first; at most 1,000.

        Raises:
            Invalid: the filter ends before it begins (422).
        """
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.spend(tx, by.tenant, group, (only or SpendFilter()).checked())

    async def calls(
        self, by: Principal, after: UUID | None = None, limit: int = 50, run: UUID | None = None
    ) -> list[CallRow]:
        """Calls of the tenant, newest first, after the one with id `after`."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.calls(tx, by.tenant, after, run, limit)

    def _order(
        self,
        by: Principal,
        kind: str,
        target: Any,
        body: Mapping[str, Any],
        outgoing: dict[str, Any],
        reserve: Any,
        feature: str,
        tags: Mapping[str, Any],
        **more: Any,
    ) -> Order:
        by.require(CALL)
        idempotency = None if tags.get("idempotency") is None else _tag("idempotency-key", tags["idempotency"])
        headers = {"idempotency-key": idempotency} if idempotency else {}
        if tags.get("sim"):
            headers[SIM_HEADER] = tags["sim"]
        return Order(
            target=target,
            tags=Tags(
                tenant=by.tenant,
                principal=by.id,
                actor=by.name,
                feature=_tag("feature", feature),
                user=None if tags.get("user") is None else _tag("user", tags["user"]),
                key=by.key,
                run=tags.get("run"),
                idempotency=idempotency,
            ),
            kind=kind,
            path="chat/completions" if kind == "chat" else "embeddings",
            body=body,
            upstream_body=json.dumps(outgoing),
            headers=headers,
            reserve=reserve,
            **more,
        )

    def _configured(self) -> list[Provider]:
        settings = self._settings
        providers: list[Provider] = [SimProvider()]
        if settings.openai_api_key or settings.openai_base_url:
            # Imported when there is a way out to take: the HTTP library is a good part of a start.
            from .providers.openai import OpenAIProvider
            from .upstream import Upstream

            self._upstream = Upstream(self._timeouts)
            key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
            prices = Prices(settings.unknown_price)
            providers.append(OpenAIProvider(self._upstream, prices, key, settings.openai_base_url))
        return providers

    async def _beat(self) -> None:
        """Keeps the lease while calls are open; idle, it sleeps."""
        while not self._stop.is_set():
            await self._calls.busy.wait()
            try:
                async with asyncio.timeout(self._lease.total_seconds() / 3):
                    await self._stop.wait()
                    return
            except TimeoutError:
                pass
            try:
                if self._calls.open:
                    await self._admission.beat()
            except (store.DatabaseError, BackstayError) as error:
                _log.warning("heartbeat failed; the next one tries again", error=str(error))


def _tell_if_broken(loop: "asyncio.Task[None]") -> None:
    if not loop.cancelled() and (error := loop.exception()) is not None:
        _log.critical("a loop of the gateway broke; restart the process", loop=loop.get_name(), exc_info=error)


def _tag(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > _MAX_TAG or not value.isprintable():
        message = f"must be a printable text of 1 to {_MAX_TAG} characters"
        raise BadRequest(f"`{name}` is wrong", errors=[FieldError(name, message)])
    return value


def _vectors(reply: Reply, count: int) -> list[list[float]]:
    try:
        rows = sorted(reply.body["data"], key=lambda row: row["index"])
        vectors = [_floats(row["embedding"]) for row in rows]
    except (KeyError, TypeError, ValueError, struct.error):
        raise ProviderFailed("the provider's embeddings cannot be read") from None
    if len(vectors) != count:
        raise ProviderFailed(f"the provider sent {len(vectors)} embeddings for {count} texts")
    return vectors


def _floats(given: Any) -> list[float]:
    if isinstance(given, str):
        packed = base64.b64decode(given, validate=True)
        return list(struct.unpack(f"<{len(packed) // 4}f", packed))
    return [float(value) for value in given]
