"""The gateway: checks a request, finds who answers it, and runs it through the one pipeline there is."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict, Unpack
from uuid import UUID

from ..audit import Audit
from ..events import Events
from ..kernel import json, telemetry
from ..kernel.cache import Cache
from ..kernel.clock import Clock
from ..kernel.crypto import Vault
from ..kernel.db import Database
from ..kernel.errors import BackstayError, BadRequest, FieldError
from ..kernel.ids import new_id
from ..kernel.principal import Principal
from ..kernel.settings import Settings
from ..outbound import AddressGuard, AddressPolicy, Breakers, RetryBudget
from . import store
from .admission import Admission
from .answers import OFF, Answers, CachePolicy, Embedder
from .attempts import Health
from .budgets import Budgets
from .calls import Calls, Reply
from .catalog import Catalog
from .dialogue import Kind, Request
from .guards import Guard, GuardContext, guarded_request
from .itineraries import Itineraries
from .limits import Limits
from .models import Answer, CallRow, Embeddings, Mode, Savings, SpendFilter, SpendRow, Tags, Timeouts
from .order import Order
from .passage import Chunk
from .pricing import Prices
from .providers import Provider, Providers
from .providers.local import LocalProvider
from .providers.sim import SimProvider
from .providers.table import kinds
from .sim.simulator import HEADER as SIM_HEADER
from .surfaces import FORWARDED
from .sweeper import Sweeper
from .targets import Targets
from .wire import CHAT, COUNT_WIRES, EMBED, EMBED_WIRES, WIRES, Body

if TYPE_CHECKING:
    from .upstream import Upstream

Group = Literal["feature", "user", "key", "model", "day"]
CALL, READ = "gateway:call", "gateway:read"
DEFAULT_FEATURE = "default"
_log = telemetry.log("gateway")
_MAX_TAG = 256
_LEAST_OUTPUT = 16  # some providers take no lower limit, and are asked for this much
_AN_HOUR = b'"1h"'  # how Anthropic's format asks a prompt cache to keep something for an hour


class About(TypedDict, total=False):
    """Whom and what a call is for.

    `idempotency` goes to the provider as its Idempotency-Key; providers that ignore it may answer twice. `internal`:
    the call is Backstay's own, for no caller's user, and so the tenant's mandatory tags are not asked of it.
    """

    feature: Required[str]
    user: str | None
    run: UUID | None
    idempotency: str | None
    internal: bool


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
        cache: Cache | None = None,
        timeouts: Timeouts | None = None,
        providers: Sequence[Provider] | None = None,
    ) -> None:
        self._db, self._clock, self._settings = db, clock, settings
        self._timeouts = timeouts or Timeouts()
        self._upstream: Upstream | None = None
        self._guarded_upstream: Upstream | None = None
        self._prices = Prices(settings.unknown_price)
        self._providers = Providers(self._configured() if providers is None else providers)
        self._targets = Targets(self._providers, self._prices, self._guarded)
        self.process = new_id()
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._admission = Admission(db, clock, audit, events, self.process, self._lease)
        self.catalog = Catalog(db, clock, vault, audit, settings, kinds=kinds(), guard=self._check_address)
        self._health = Health(Breakers(), RetryBudget(), self.catalog.board)
        self._itineraries = Itineraries(
            self.catalog, self._targets, self._health, clock, self._timeouts, self._prices.refuses
        )
        self.catalog.attach(listed=self._targets.price, is_open=self._itineraries.is_resting)
        self._answers = None if cache is None else Answers(db, clock, vault, cache)
        self._calls = Calls(self._admission, clock, self._health, self._answers, settings.durability == "strict")
        self.sweeper = Sweeper(db, clock, audit, self.process, self._lease)
        self.budgets = Budgets(db, clock, audit)
        self._guards: list[Guard] = []
        self.limits = Limits(db, clock, audit)
        self._stop = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    def guard(self, guard: Guard) -> None:
        """Has `guard` see every text from now on, after those that were given before it."""
        self._guards.append(guard)

    async def start(self) -> None:
        """Begins the heartbeat and the sweeper."""
        await self._admission.beat()
        self._loops = [
            asyncio.create_task(self._beat(), name="gateway heartbeat"),
            asyncio.create_task(self.sweeper.run(self._stop), name="gateway sweeper"),
            asyncio.create_task(self.catalog.keep(self._stop), name="gateway catalog"),
        ]
        if self._answers is not None:
            self._loops.append(asyncio.create_task(self._answers.tend(self._stop), name="gateway answers"))
        for loop in self._loops:
            loop.add_done_callback(_tell_if_broken)

    async def stop(self) -> None:
        """Settles what is open and closes the connections to providers. Idempotent."""
        self._stop.set()
        self._calls.busy.set()
        await self._admission.stop()
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for upstream in (self._upstream, self._guarded_upstream):
            if upstream is not None:
                await upstream.close()
        if not loops:
            return  # it never began, as when the App's start failed, or it has left already
        try:
            async with self._db.system_tx() as tx:
                await store.leave(tx, self.process)
        except (store.DatabaseError, BackstayError) as error:
            _log.warning("the process row stays for the sweeper", error=str(error))

    async def complete(self, by: Principal, request: Mapping[str, Any], **about: Unpack[About]) -> Answer:
        """A chat completion in the OpenAI shape.

        Raises:
            BadRequest: the request is wrong (400). TagRequired: the tenant asks for a tag that is missing (400).
            ModelNotFound (404), PriceUnknown (422), BudgetExceeded (402).
            ProviderRefused, ProviderFailed and its kinds: the provider did not answer as it should.
        """
        body = {key: value for key, value in request.items() if key not in ("stream", "stream_options")}
        order = await self.order(by, CHAT.name, "chat", body, **about)
        reply = await self.answer(order)
        return Answer.of(reply.body, reply.raw, reply.call, reply.usage, reply.cost)

    async def stream(
        self, by: Principal, request: Mapping[str, Any], *, call: UUID | None = None, **about: Unpack[About]
    ) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a chat completion in the OpenAI shape; the last one carries the usage, with no choices.

        `call`: the id that the call is to have, a new one each time.

        The call is settled before the iterator ends. Leaving it early (`aclose`) cancels the provider's work and bills
        what was used.

        Raises:
            As `complete`; an error after the first chunk has the `usage` so far.
        """
        body = {**request, "stream": True, "stream_options": {"include_usage": True}}
        order = await self.order(by, CHAT.name, "chat", body, **about)
        order = order if call is None else replace(order, id=call)
        async with aclosing(self.chunks(order)) as groups:
            async for group in groups:
                for chunk in group:
                    if body := chunk.body:
                        yield body

    async def embed(
        self, by: Principal, model: str, inputs: Sequence[str], *, retries: int | None = None, **about: Unpack[About]
    ) -> Embeddings:
        """Vectors for `inputs`, in their order, by one request to the provider.

        `retries`: how often one target is asked again; the route's own number unless given.

        Raises:
            As `complete`.
        """
        body = {"model": model, "input": list(inputs), "encoding_format": "base64"}
        order = await self.order(by, EMBED.name, "embed", body, **about)
        if retries is not None:
            order = replace(order, plan=replace(order.plan, retries=retries))
        reply = await self.answer(order)
        vectors = EMBED.read_vectors(reply.body, len(inputs))
        found = [list(vector) for vector in vectors.vectors]
        return Embeddings(found, reply.usage.input_tokens, reply.cost, vectors.model, reply.call)

    async def embedding_cost(self, by: Principal, model: str, tokens: int, requests: int) -> Decimal:
        """What it would cost, in USD, to embed so many tokens in so many requests. Nothing is sent.

        Raises:
            ModelNotFound: no provider answers to that name (404). PriceUnknown (422).
        """
        by.require(CALL)
        target = self._targets.of(await self.catalog.of(by.tenant), model, self._clock.now())
        return target.price.bound(-(-tokens // requests), 0) * requests

    async def order(
        self,
        by: Principal,
        surface: str,
        kind: Kind,
        body: Body,
        *,
        feature: str | None,
        raw: bytes | None = None,
        user: str | None = None,
        run: UUID | None = None,
        idempotency: str | None = None,
        headers: Mapping[str, str] | None = None,
        internal: bool = False,
    ) -> Order:
        """Checks a request of the format `surface`, finds who may answer it and the most it may cost.

        `feature`: None for the usual one, which does not count as given. `internal` as in About. `raw`: the
        request's bytes, when there are any. `headers`: the client's, names in lower case; those that begin with
        `backstay-` say how the call is to be made.

        Raises:
            As `complete`, before anything is written or sent.
        """
        by.require(CALL)
        tagged, feature = feature, _tag("feature", DEFAULT_FEATURE if feature is None else feature)
        if self._guards:
            asked = str(body.get("model"))
            body = await guarded_request(self._guards, body, GuardContext(by.tenant, by.name, feature, user, asked))
            raw = None
        size = None if raw is None else len(raw)
        request, given = _checked(surface, kind, body, size), headers or {}
        user = user or request.user
        if user is not None:
            user = _tag("user", user)
        snapshot = await self.catalog.of(by.tenant)
        if not internal:
            snapshot.tags.check(feature=tagged, user=user)
        plan = self._itineraries.of(snapshot, surface, request, body, given, feature=feature, user=user)
        # What a call may write is bounded by its own limit, or by the setting when it names none.
        written = max(request.max_tokens or self._settings.default_max_tokens, _LEAST_OUTPUT) if kind == "chat" else 0
        sent = {} if idempotency is None else {"idempotency-key": _tag("idempotency-key", idempotency)}
        return Order(
            surface=surface,
            kind=kind,
            body=body,
            request=request,
            plan=plan,
            tags=Tags(
                tenant=by.tenant,
                principal=by.id,
                actor=by.name,
                feature=feature,
                user=user,
                key=by.key,
                run=run,
                idempotency=idempotency,
                purses=by.purses,
            ),
            written=written,
            hour=raw is None or _AN_HOUR in raw,
            mode=self._mode(request, given),
            headers=sent | ({SIM_HEADER: given[SIM_HEADER]} if given.get(SIM_HEADER) else {}),
            forward={name: given[name] for name in FORWARDED.get(surface, ()) if name in given},
            guards=tuple(self._guards),
            cache=CachePolicy.of(given, plan.cache) if request.choices == 1 else OFF,
            embedder=self._embedder(by),
        )

    async def answer(self, order: Order) -> Reply:
        return await self._calls.answer(order)

    async def count(self, order: Order) -> bytes:
        """How many tokens a request reads: the provider's word where it speaks the client's format, else an
        estimate.
        """
        if order.native(order.plan.targets[0]) == order.surface:
            return (await self.answer(order)).raw
        return json.dumps(COUNT_WIRES[order.surface].count(order.body))

    def chunks(self, order: Order) -> AsyncGenerator[list[Chunk], None]:
        return self._calls.stream(order)

    async def models(self, by: Principal) -> list[tuple[str, str]]:
        """What may be called, as (name, owner): the routes of the tenant and the operator, then models of providers."""
        by.require(CALL)
        snapshot = await self.catalog.of(by.tenant)
        routes = [(name, "backstay") for name in sorted(snapshot.routes)]
        return routes + [(f"{provider}:{model}", provider) for provider, model in self._providers.models()]

    async def spend(self, by: Principal, group: Group, only: SpendFilter | None = None) -> list[SpendRow]:
        """What each feature, user, key or model used and cost, dearest first, or each day, newest first; at most 1,000.

        Raises:
            Invalid: the filter ends before it begins (422).
        """
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.spend(tx, by.tenant, group, (only or SpendFilter()).checked())

    async def savings(self, by: Principal, since: datetime | None = None, until: datetime | None = None) -> Savings:
        """What keeping answers, routing and falling back have saved, of calls that ended in that time.

        Raises:
            Invalid: the time ends before it begins (422).
        """
        by.require(READ)
        span = SpendFilter(since, until).checked()
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.savings(tx, by.tenant, span.since, span.until)

    async def call(self, by: Principal, id: UUID) -> CallRow | None:
        """One call of the tenant."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.call(tx, by.tenant, id)

    async def calls(
        self, by: Principal, after: UUID | None = None, limit: int = 50, run: UUID | None = None
    ) -> list[CallRow]:
        """Calls of the tenant, newest first, after the one with id `after`."""
        by.require(READ)
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.calls(tx, by.tenant, after, run, limit)

    def _mode(self, request: Request, headers: Mapping[str, str]) -> Mode:
        """How much is reserved. What is expected may be exceeded, and only a stream can then be extended or cut."""
        given = headers.get("backstay-reserve")
        if given is not None and given not in tuple(Mode):
            wrong = FieldError("backstay-reserve", f"must be {' or '.join(Mode)}")
            raise BadRequest("`backstay-reserve` is wrong", errors=[wrong])
        return Mode(given or self._settings.reserve) if request.stream else Mode.STRICT

    def _embedder(self, by: Principal) -> Embedder | None:
        """Makes vectors for the answer cache, at the tenant's expense."""
        model = self._settings.cache_embedder
        if model is None:
            return None

        async def embed(text: str) -> Sequence[float]:
            return (await self.embed(by, model, [text], feature="cache", internal=True)).vectors[0]

        return Embedder(model, embed)

    def _guard_of_addresses(self) -> AddressGuard:
        return AddressGuard(AddressPolicy.listed(self._settings.private_networks))

    async def _check_address(self, url: str) -> None:
        """Raises AddressRefused, HostUnresolved (422)."""
        from ..outbound.connector import GuardedResolver

        await GuardedResolver(self._guard_of_addresses()).check(url)

    def _guarded(self) -> "Upstream":
        """The way out for tenants' own accounts."""
        from .upstream import Upstream

        if self._guarded_upstream is None:
            self._guarded_upstream = Upstream(self._timeouts, self._guard_of_addresses())
        return self._guarded_upstream

    def _configured(self) -> list[Provider]:
        settings = self._settings
        here: list[Provider] = [SimProvider()]
        if settings.local_models:
            here.append(LocalProvider(settings.local_models))
        given = settings.provider_variables()
        if not any(kind.key in given or kind.base in given for kind in kinds().values()):
            return here
        # Imported when there is a way out to take: the HTTP library is a good part of a start.
        from .providers.account import configured
        from .upstream import Upstream

        self._upstream = Upstream(self._timeouts, proxy=settings.provider_proxy)
        return [*here, *configured(given, self._upstream, self._prices)]

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


def _checked(surface: str, kind: Kind, body: Body, size: int | None) -> Request:
    if kind == "embed":
        return EMBED_WIRES[surface].check_embed(body, size)
    if kind == "count":
        return replace(COUNT_WIRES[surface].check_count(body, size), web_searches=0)  # nothing is searched
    return WIRES[surface].check(body, size)


def _tag(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > _MAX_TAG or not value.isprintable():
        message = f"must be a printable text of 1 to {_MAX_TAG} characters"
        raise BadRequest(f"`{name}` is wrong", errors=[FieldError(name, message)])
    return value
